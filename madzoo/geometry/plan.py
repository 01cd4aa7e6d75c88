"""How each parameter's columns of J are found: from batches, or sample by sample; tried out before it is relied on.

A parameter is *traced* when the rows that a traced batch gives agree with one plain backward pass of a sample on its
own, for the first sample and the last, in a random direction of the output; every other one is *streamed*.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from madzoo.geometry.network import Network
from madzoo.geometry.streamed import Batch, plain_rows, run_batch
from madzoo.geometry.uses import Matrix

__all__ = ["Plan", "make_plan"]

CLOSE = 1e-9  # relative to the parameter's gradient
NOISE = 1e-13  # relative to the gradient by all parameters


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Says what is traced, and what it takes.

    Attributes:
        outputs: elements K of one sample's output.
        alone: samples must not be batched: together they give other answers.
        traced: names of the parameters that batches serve.
        outer: those whose rows are outer products of what they read at T places, with T.
        latest: where in the forward pass each is last used.
        kept: bytes that one sample's forward pass keeps for the backward.
    """

    outputs: int
    alone: bool
    traced: frozenset[str]
    outer: dict[str, int]
    latest: dict[str, int]
    kept: int

    def without(self, names: set[str]) -> "Plan":
        """Returns the plan with fewer traced parameters."""
        left = {name: places for name, places in self.outer.items() if name not in names}
        return replace(self, traced=self.traced - names, outer=left)


def make_plan(network: Network) -> Plan:
    """Tries a batch of the first and the last sample against each of them alone.

    Cost: one forward and two backward passes of two samples, and of each alone.
    """
    tried = sorted({0, len(network.inputs) - 1})
    references = [_reference(network, index) for index in tried]
    if len(tried) > 1 and _is_independent(network, tried, references):
        return _compare(network, tried, references, alone=False)
    return _compare(network, tried[:1], references[:1], alone=len(tried) > 1)


@dataclass(frozen=True)
class _Reference:
    answer: Tensor
    direction: Tensor
    rows: dict[str, Tensor]


def _reference(network: Network, index: int) -> _Reference:
    answer = network.answer(slice(index, index + 1))
    generator = torch.Generator().manual_seed(index)
    direction = torch.randn(answer.shape, dtype=torch.float64, generator=generator).to(answer.device)
    rows = plain_rows(answer, direction, list(network.parameters.values()), last=True)
    return _Reference(answer.detach(), direction, dict(zip(network.parameters, rows, strict=True)))


def _is_independent(network: Network, tried: list[int], references: list[_Reference]) -> bool:
    try:
        together = network.answer(torch.tensor(tried)).detach()
    except Exception:  # noqa: BLE001 - a model that takes no batch may fail in any way; alone it did not
        return False
    alone = torch.cat([reference.answer for reference in references])
    return together.shape == alone.shape and torch.allclose(together, alone, rtol=CLOSE, atol=1e-12)


def _compare(network: Network, tried: list[int], references: list[_Reference], *, alone: bool) -> Plan:
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        batch = run_batch(network, torch.tensor(tried), len(tried))
    for p in network.model.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    candidates = {name: p for name, p in network.parameters.items() if name not in batch.unknown(network)}
    for position, reference in enumerate(references):
        candidates = _agreeing(batch, candidates, reference, position)
    outer = {name: _places(batch, name) for name, p in candidates.items() if _is_outer(batch, name, p)}
    return Plan(
        outputs=batch.answer.shape[1],
        alone=alone,
        traced=frozenset(candidates),
        outer=outer,
        latest=_latest(batch),
        kept=sum(kept.values()) // len(tried),
    )


def _agreeing(
    batch: Batch, candidates: dict[str, nn.Parameter], reference: _Reference, position: int
) -> dict[str, nn.Parameter]:
    cotangent = torch.zeros_like(batch.answer)
    cotangent[position] = reference.direction
    grads, _ = batch.backward(cotangent, [use for name in candidates for use in batch.uses[name]], last=False)
    rows = batch.rows(candidates, grads, slice(position, position + 1))
    norm = sum(float(row.square().sum()) for row in reference.rows.values()) ** 0.5
    agreeing = {}
    for name, p in candidates.items():
        expected = reference.rows[name]
        found = rows[name][0] if name in rows else torch.zeros_like(expected)
        error, size = float((found - expected).norm()), float(expected.norm())
        if error <= CLOSE * size + NOISE * norm:  # a NaN is no agreement
            agreeing[name] = p
    return agreeing


def _is_outer(batch: Batch, name: str, parameter: nn.Parameter) -> bool:
    """Returns whether rows are best kept as what the weight read and the gradients by what it wrote."""
    uses = batch.uses[name]
    if not uses or not all(isinstance(use, Matrix) and use.single and use.weight is parameter for use in uses):
        return False
    return _places(batch, name) < parameter[0].numel()


def _places(batch: Batch, name: str) -> int:
    return sum(use.places for use in batch.uses[name] if isinstance(use, Matrix))


def _latest(batch: Batch) -> dict[str, int]:
    order = {id(use): index for index, use in enumerate(batch.trace.uses)}
    return {name: max((order[id(use)] for use in uses), default=0) for name, uses in batch.uses.items()}
