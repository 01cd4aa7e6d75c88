"""The Gram matrix ``J J^T`` of a network's parameter Jacobian, in float64, without J (the neural tangent kernel).

Legend: n samples, K elements of one sample's output, m = n K rows of J, P parameters.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest
from madzoo.geometry.assembly import Progress, assemble
from madzoo.geometry.network import prepare_network
from madzoo.geometry.plan import make_plan
from madzoo.geometry.sampling import pick_rows
from madzoo.geometry.selection import Output, count, output_name

__all__ = ["MEMORY_MB", "Groups", "GramMatrix", "gram_matrix"]

MEMORY_MB = 768
Groups = str | Mapping[str, str | Sequence[str]] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GramMatrix:
    """Holds ``J J^T``, and the part of it that each group of parameters adds.

    Attributes:
        total: [m, m], symmetric, float64.
        groups: the same by the parameters of each group.
        rows: the row of J behind each row of the matrix: sample * K + element.
        outputs: K, elements of one sample's output.
        num_params: real parameters P, a complex one twice, tied ones once.
        group_params: the same of each group.
        output: what was differentiated.
        streamed: parameters that were differentiated sample by sample because batches did not serve them: slow ones.
    """

    total: Tensor
    groups: dict[str, Tensor] = field(default_factory=dict)
    rows: Tensor
    outputs: int
    num_params: int
    group_params: dict[str, int] = field(default_factory=dict)
    output: str
    streamed: tuple[str, ...] = ()


def gram_matrix(
    model: nn.Module,
    inputs: Tensor,
    *,
    output: Output = "logits",
    parameters: str | Sequence[str] | None = None,
    groups: Groups = None,
    rows: int | None = None,
    seed: int | None = None,
    memory_mb: float = MEMORY_MB,
    progress: bool | Progress = False,
    device: torch.device | str | None = None,
) -> GramMatrix:
    """Computes ``J J^T`` for ``J = D_theta f_theta(inputs)`` in float64 and eval mode, J itself never being formed.

    Linear layers, convolutions, norms, additions, multiplications and the channelwise operators of madzoo are
    differentiated for a batch of samples at once; a weight matrix is never multiplied out where the products of what
    it reads and of the gradients by what it writes are cheaper. What flows otherwise (recurrent cells, torch's own
    attention module, custom autograd functions) is differentiated by one plain backward pass per row, which is always
    right. Which is which is tried out on the first and last sample, not guessed. Where ``torch.distributed`` is
    initialised, every process takes a share of the columns and gets the whole matrix; all must call with the same.

    Args:
        model: any module whose forward takes one tensor. Frozen parameters count like the others; the caller's model
            is copied and keeps its mode, dtype and gradients.
        inputs: the sample X, [n, ...].
        output: a key of :data:`madzoo.geometry.selection.OUTPUTS`, or a function from the forward's value to one tensor
            with a row per sample.
        parameters: shell patterns of the parameters that are columns; None: all.
        groups: patterns by name of the group, ``{"A": "*A_log", "convolutions": ["*conv1d.*", "*stem*"]}``; a parameter
            counts in every group that it matches. ``"suffix"``: one group per name without its numbered path, such as
            ``A_log`` or ``in_proj.weight``. None: no groups.
        rows: so many of the m rows, drawn at random and spread evenly over the samples; None: all.
        seed: of that draw; required with ``rows``.
        memory_mb: MiB of tensors beside the model's copy and the matrices themselves ([m, m], one per combination of
            groups, and one more); the allocator may hold half as much again. What one sample's forward and backward
            pass takes is always taken, and little memory means many passes.
        progress: True: a line on stderr; or a function of (backward passes done, of how many).
        device: where to compute; None: where the model is.

    Shapes:
        inputs [n, ...] -> total [m, m], rows ordered by sample, then by element.

    Raises:
        ConfigError: on an unknown output, a pattern that matches nothing, a draw without a seed, memory below 1, or a
            BatchNorm that would use the batch's statistics (its rows would depend on the other samples).
        ShapeError: when the output has no row per sample or is not float64.
        DataError: when the output is not finite.

    Cost: per portion of columns that fits into ``memory_mb`` / 2, a forward pass over all samples up to where these
    parameters are used last, and K backward passes from there on (n K whole passes of one sample where batches do not
    serve); m^2 P / 2 multiply-adds, far fewer where a layer sees each sample at few places: m^2 (I + O) for a weight
    [O, I] of a network without tokens.

    Source: arXiv 1806.07572 (the kernel); arXiv 2206.08720 (its structure in the layers).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> found = gram_matrix(nn.Linear(3, 2), torch.ones(4, 3), groups={"bias": "bias"})
        >>> found.total.shape, found.groups["bias"].diagonal().tolist()
        (torch.Size([8, 8]), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    """
    if not memory_mb >= 1:
        raise ConfigError("memory_mb is at least 1.", asked=memory_mb)
    with torch.inference_mode(False), torch.enable_grad():
        network = prepare_network(model, inputs, output=output, parameters=parameters, device=device)
        members = _resolve_groups(groups, list(network.parameters))
        plan = make_plan(network)
        picked = pick_rows(len(network.inputs), plan.outputs, rows=rows, seed=seed)
        numbers = torch.where(picked < 0, -1, picked + torch.arange(len(picked))[:, None] * plan.outputs)
        used = (picked >= 0).any(1)
        network, picked = replace(network, inputs=network.inputs[used]), picked[used]
        memberships = {
            name: tuple(group for group, names in members.items() if name in names) for name in network.parameters
        }
        grams = assemble(
            network,
            plan,
            picked=picked,
            memory=int(memory_mb * 2**20),
            memberships=memberships,
            progress=_on_stderr if progress is True else progress or None,
        )
    kept = (picked.flatten() >= 0).nonzero().flatten()
    size = picked.numel()

    def summed(matrices: list[Tensor]) -> Tensor:
        whole = sum(matrices, start=torch.zeros(size, size, dtype=torch.float64, device=network.inputs.device))
        return whole if len(kept) == size else whole[kept][:, kept]

    return GramMatrix(
        total=summed(list(grams.values())),
        groups={group: summed([gram for key, gram in grams.items() if group in key]) for group in members},
        rows=numbers[numbers >= 0],
        outputs=plan.outputs,
        num_params=count(network.parameters),
        group_params={group: count({n: network.parameters[n] for n in names}) for group, names in members.items()},
        output=output_name(output),
        streamed=tuple(name for name in network.parameters if name not in plan.traced),
    )


def _resolve_groups(groups: Groups, names: list[str]) -> dict[str, list[str]]:
    if groups is None:
        return {}
    if isinstance(groups, str):
        if groups != "suffix":
            raise ConfigError("groups are a mapping, 'suffix' or None.", asked=repr(groups))
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(_suffix(name), []).append(name)
        return found
    return {group: _matching(patterns, names) for group, patterns in groups.items()}


def _matching(patterns: str | Sequence[str], names: list[str]) -> list[str]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"no parameter matches {pattern!r}.", asked=pattern, todo=nearest(pattern, names))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _suffix(name: str) -> str:
    """Returns the last word, with the one before it where that is no number and the last is no name of its own."""
    *before, last = name.split(".")
    return f"{before[-1]}.{last}" if last in ("weight", "bias") and before and not before[-1].isdigit() else last


def _on_stderr(done: int, total: int) -> None:
    sys.stderr.write(f"\rGram matrix: {done} of {total} backward passes" + ("\n" if done >= total else ""))
    sys.stderr.flush()
