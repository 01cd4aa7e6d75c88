"""The calibration set: a few batches and the loss by which rounded weights are judged."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
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
        """Returns the mean losses over the even and the odd samples of the batches, in one pass.

        Raises:
            ConfigError: when the model gives anything but one tensor, which alone can be divided.
        """
        totals, counts = [0.0, 0.0], [0, 0]
        for x, y in self.batches:
            outputs = _one_tensor(model(x))
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
        if not named:
            return {}
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
    """Checks that there are batches with samples and targets, and a loss; tensors of inference mode are copied.

    Raises:
        ConfigError: when the batches or the loss are missing, or the loss cannot be called.
        DataError: when there is no sample, or a batch is no pair of inputs and targets that can be sliced.
    """
    if batches is None or loss_fn is None:
        raise ConfigError(
            f"policy {policy!r} needs calibration data and a loss.",
            asked=f"calibration={'None' if batches is None else 'batches'}, loss_fn={loss_fn!r}",
            todo="calibration=[(inputs, targets), ...] of the training part, loss_fn=(outputs, targets) -> mean",
        )
    if not callable(loss_fn):
        raise ConfigError("a loss is a function.", asked=repr(loss_fn), todo="loss_fn=(outputs, targets) -> mean")
    kept = tuple(_usable(batch) for batch in batches)
    if not kept or not all(len(x) for x, _ in kept):
        raise DataError("calibration needs at least one batch, and a sample in each.", asked=f"{len(kept)} batches")
    return Calibration(batches=kept, loss_fn=loss_fn)


def _usable(batch: Any) -> tuple[Tensor, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise DataError("a calibration batch is a pair of inputs and targets.", asked=type(batch).__name__)
    if not all(map(_is_sliced, batch)):
        found = ", ".join(type(part).__name__ for part in batch)
        raise DataError("inputs and targets have samples along their first axis.", asked=found)
    # A tensor of inference mode cannot be saved for a gradient; its copy can.
    inputs, targets = (v.clone() if isinstance(v, Tensor) and v.is_inference() else v for v in batch)
    return inputs, targets


def _is_sliced(values: Any) -> bool:
    return isinstance(values, Sized) and not isinstance(values, (Mapping, str)) and getattr(values, "ndim", 1) > 0


def _one_tensor(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        why, todo = "calibration needs a model that gives one tensor.", "wrap the model, or policy='rtn'"
        raise ConfigError(why, asked=type(outputs).__name__, todo=todo)
    return outputs
