"""The calibration set: a few batches and the loss by which rounded weights are judged."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError

__all__ = ["Calibration", "Losses", "calibrate_on"]

GRADIENTS = 16  # parts of the set whose gradients are squared and averaged


class Losses(NamedTuple):
    """Holds mean losses: of all samples, and of either half; infinite where not finite."""

    mean: float
    even: float
    odd: float

    def below(self, other: "Losses") -> bool:
        """Tells whether both halves lose less: what helps one half alone is rarely more than chance."""
        return self.even < other.even and self.odd < other.odd


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Holds batches and a loss.

    Attributes:
        batches: (inputs [n, ...], targets [n, ...]).
        loss_fn: (outputs, targets) -> the mean over samples, a scalar.
    """

    batches: Sequence[tuple[Tensor, Any]]
    loss_fn: Callable[[Any, Any], Tensor]

    @property
    def inputs(self) -> Tensor:
        """All inputs in one tensor."""
        return torch.cat([inputs for inputs, _ in self.batches])

    def loss(self, model: nn.Module) -> float:
        """Returns the mean loss over all samples; infinity where it is not finite."""
        return self.losses(model).mean

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Losses:
        """Returns the mean losses over the even and the odd samples of the batches, in one pass."""
        totals, counts = [0.0, 0.0], [0, 0]
        for x, y in self.batches:
            outputs = model(x)
            for half in range(min(2, len(x))):
                counts[half] += len(x[half::2])
                totals[half] += len(x[half::2]) * float(self.loss_fn(outputs[half::2], y[half::2]))
        means = [total / count for total, count in zip(totals, counts, strict=True) if count]
        whole = sum(totals) / sum(counts)
        return Losses(*(mean if math.isfinite(mean) else math.inf for mean in (whole, means[0], means[-1])))

    def squared_gradients(self, model: nn.Module) -> dict[str, Tensor]:
        """Returns the mean square, over parts of the set, of the loss's gradient by each parameter, in float64.

        A diagonal stand-in for the curvature; of complex parameters the squared modulus.

        Cost: a forward and a backward pass over the set.
        """
        named = {k: p for k, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
        frozen = [p for p in named.values() if not p.requires_grad]
        for p in frozen:
            p.requires_grad_(True)
        squares = {name: torch.zeros_like(p.detach().abs(), dtype=torch.float64) for name, p in named.items()}
        parts = list(self._parts())
        with torch.enable_grad():
            for x, y in parts:
                found = torch.autograd.grad(self.loss_fn(model(x), y), list(named.values()), allow_unused=True)
                for name, gradient in zip(named, found, strict=True):
                    if gradient is not None:
                        squares[name] += gradient.abs().double().square() / len(parts)
        for p in frozen:
            p.requires_grad_(False)
        return squares

    def _parts(self) -> Iterable[tuple[Tensor, Any]]:
        size = max(sum(len(x) for x, _ in self.batches) // GRADIENTS, 1)
        for x, y in self.batches:
            for start in range(0, len(x), size):
                yield x[start : start + size], y[start : start + size]


def calibrate_on(
    batches: Iterable[tuple[Tensor, Any]] | None, loss_fn: Callable[[Any, Any], Tensor] | None, *, policy: str
) -> Calibration:
    """Checks that there are batches with samples, and a loss.

    Raises:
        ConfigError: when the batches or the loss are missing.
        DataError: when there is no sample.
    """
    if batches is None or loss_fn is None:
        raise ConfigError(
            f"policy {policy!r} needs calibration data and a loss.",
            asked=f"calibration={'None' if batches is None else 'batches'}, loss_fn={loss_fn!r}",
            todo="calibration=[(inputs, targets), ...] of the training part, loss_fn=(outputs, targets) -> mean",
        )
    kept = tuple(batches)
    if not kept or not all(len(x) for x, _ in kept):
        raise DataError("calibration needs at least one batch, and a sample in each.", asked=f"{len(kept)} batches")
    return Calibration(batches=kept, loss_fn=loss_fn)
