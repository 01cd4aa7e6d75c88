"""The trace of a symmetric map and of its diagonal blocks, by Hutchinson's estimator with an honest error bar.

Legend: P dimension, m probes z of independent signs; E[z . H z] = tr H, block by block E[z_g . (H z)_g] = tr H_gg.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import ConfigError

__all__ = ["BlockTrace", "block_traces"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockTrace:
    """States an estimated trace.

    Attributes:
        trace: mean over the probes.
        stderr: its standard error, from the scatter of the probes; None with fewer than two.
        num_params: size of the block.
    """

    trace: float
    stderr: float | None
    num_params: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)


def block_traces(
    product: Callable[[Tensor], Tensor],
    blocks: Mapping[str, Sequence[slice]],
    size: int,
    *,
    probes: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[BlockTrace, dict[str, BlockTrace]]:
    """Estimates the trace of the whole map and of the blocks, from the same probes.

    Rademacher signs: exact, with zero scatter, where the map is diagonal; otherwise a probe's variance is twice the
    sum of the squared off-diagonal entries (of a block: of the entries in its rows, and once more for pairs inside it).

    Args:
        product: v [P] -> H v [P].
        blocks: name -> slices of the flat vector; they need not cover it.
        size: P.
        probes: m, at least 1; the blocks share them.
        seed: of the signs, drawn on the CPU.
        device: where the vectors live.

    Raises:
        ConfigError: when probes is below 1.

    Cost: m products.

    Source: Hutchinson 1990.

    Example:
        >>> d = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
        >>> whole, parts = block_traces(lambda v: d * v, {"last": [slice(1, 3)]}, 3, probes=2, seed=0)
        >>> whole.trace, parts["last"].trace, parts["last"].stderr
        (7.0, 6.0, 0.0)
    """
    if probes < 1:
        raise ConfigError("a trace needs at least one probe.", asked=probes)
    generator = torch.Generator().manual_seed(seed)
    whole: list[float] = []
    parts: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(probes):
        z = (2.0 * torch.randint(2, (size,), generator=generator, dtype=torch.float64) - 1.0).to(device)
        terms = z * product(z).to(z)
        whole.append(terms.sum().item())
        for name, places in blocks.items():
            parts[name].append(sum(terms[place].sum().item() for place in places))
    sizes = {name: sum(place.stop - place.start for place in places) for name, places in blocks.items()}
    return _mean(whole, size), {name: _mean(values, sizes[name]) for name, values in parts.items()}


def _mean(values: list[float], num_params: int) -> BlockTrace:
    draws = torch.tensor(values, dtype=torch.float64)
    stderr = (draws.std() / len(values) ** 0.5).item() if len(values) > 1 else None
    return BlockTrace(trace=draws.mean().item(), stderr=stderr, num_params=num_params)
