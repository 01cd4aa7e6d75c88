"""Linear mode connectivity: the loss on the straight line between two checkpoints of one network."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError
from madzoo.geometry.sampled_loss import Loss

__all__ = ["LinearPath", "linear_path"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearPath:
    """States the loss on the line from one checkpoint (share 0) to another (share 1).

    Attributes:
        shares, losses: of the points, both ends among them.
        barrier: the most by which a loss exceeds the straight line between the losses of the ends, at least 0. Two
            checkpoints with a barrier near 0 are linearly connected.
        length: distance of the checkpoints, over all floating entries.
    """

    shares: tuple[float, ...]
    losses: tuple[float, ...]
    barrier: float
    length: float


@torch.no_grad()
def linear_path(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    batch: tuple[Tensor, Any],
    loss_fn: Loss,
    *,
    points: int = 11,
) -> LinearPath:
    """Measures the loss between two checkpoints.

    Args:
        model: that both state dicts fit; it is copied, in eval mode.
        first, second: state dicts. Floating entries are interpolated, running statistics too; the others are those of
            the first.
        batch: (inputs, targets).
        loss_fn: (outputs, targets) -> loss.
        points: on the line, at least 3.

    Raises:
        ConfigError: when the checkpoints have different entries, or there are fewer than 3 points.
        DataError: when a loss on the line is not finite.

    Cost: one forward pass of the batch per point.

    Source: arXiv 1912.05671, section 2, with the barrier taken above the line.
    """
    if first.keys() != second.keys() or points < 3:
        asked = f"{points} points, entries {sorted(first.keys() ^ second.keys())}"
        raise ConfigError("both checkpoints need the same entries, and the line 3 points.", asked=asked)
    twin, (inputs, targets) = copy.deepcopy(model).eval(), batch
    shares, losses = torch.linspace(0, 1, points).tolist(), []
    for share in shares:
        twin.load_state_dict({name: _between(first[name], second[name], share) for name in first})
        losses.append(loss_fn(twin(inputs), targets).item())
    line = [(1 - share) * losses[0] + share * losses[-1] for share in shares]
    rise = torch.tensor(losses, dtype=torch.float64) - torch.tensor(line, dtype=torch.float64)
    if not rise.isfinite().all():
        raise DataError("a loss between the checkpoints is not finite.", asked=losses)
    apart = [(second[name] - value).abs().double().norm() for name, value in first.items() if _moves(value)]
    length = torch.stack(apart).norm().item() if apart else 0.0
    barrier = max(rise.max().item(), 0.0)
    return LinearPath(shares=tuple(shares), losses=tuple(losses), barrier=barrier, length=length)


def _moves(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _between(a: Tensor, b: Tensor, share: float) -> Tensor:
    return torch.lerp(a, b.to(a), share) if _moves(a) else a
