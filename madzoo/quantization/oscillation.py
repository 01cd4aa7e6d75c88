"""Oscillating weights: codes that flip to and fro while a model is trained, how often, and which to hold still.

Legend: c code, o 1 at a step where a weight oscillates, f frequency, m momentum of the moving averages.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid

__all__ = ["MOMENTUM", "THRESHOLD", "CodeTrace", "OscillationRecord", "TensorOscillation"]

MOMENTUM = 0.01
THRESHOLD = 0.005


class CodeTrace:
    """Follows the codes of one tensor.

    A weight oscillates when its code changes against the direction of its last change; the first change is none.
    ``f <- m o + (1 - m) f``, and ``average <- m c + (1 - m) average`` of the codes.

    Args:
        codes: at the start.
        momentum: m.

    Source: arXiv 2203.11086, section 2.3 and algorithm 1.

    Example:
        >>> trace = CodeTrace(torch.tensor([0, 0], dtype=torch.int16), momentum=0.5)
        >>> for codes in ([1, 1], [0, 2], [1, 2]):
        ...     trace.update(torch.tensor(codes, dtype=torch.int16))
        >>> trace.frequency
        tensor([0.7500, 0.0000])
    """

    def __init__(self, codes: Tensor, *, momentum: float = MOMENTUM) -> None:
        if not 0 < momentum <= 1:
            raise ConfigError("the momentum of an average is above 0 and at most 1.", asked=f"momentum={momentum}")
        self.momentum = momentum
        self.codes = codes.clone()
        self.direction = torch.zeros_like(codes, dtype=torch.int8)
        self.frequency = torch.zeros_like(codes, dtype=torch.float32)
        self.average = codes.to(torch.float32)
        self.steps = 0

    def update(self, codes: Tensor) -> None:
        """Takes in the codes of the next step."""
        change = (codes - self.codes).sign().to(torch.int8)
        oscillates = (change * self.direction < 0).to(torch.float32)
        self.frequency.lerp_(oscillates, self.momentum)
        self.average.lerp_(codes.to(torch.float32), self.momentum)
        self.direction = torch.where(change != 0, change, self.direction)
        self.codes = codes.clone()
        self.steps += 1

    def settled(self, above: float, grid: Grid) -> tuple[Tensor, Tensor]:
        """Returns which weights oscillate more often than a threshold, and the codes of the grid nearest their mean."""
        codes = self.average.round().clamp(grid.lowest, grid.highest)
        if grid.bits == 1 and grid.symmetric:  # -1 and 1, and nothing between them
            codes = torch.where(self.average >= 0, 1.0, -1.0)
        return self.frequency > above, codes.to(self.codes.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorOscillation:
    """States how restless one tensor's codes are.

    Attributes:
        count: elements.
        fraction: of them that oscillate, their frequency above the record's threshold.
        frequency: mean over them.
        distance: mean of ``|w - level| / scale`` over them.
    """

    count: int
    fraction: float
    frequency: float
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OscillationRecord:
    """States how restless the codes of a model are; every element counts the same.

    Attributes:
        steps: comparisons of codes behind the frequencies.
        momentum, threshold: of the frequency, and above which a weight counts as oscillating.
        fraction, frequency, distance: over all tensors, see :class:`TensorOscillation`.
        tensors: by parameter name.
    """

    steps: int
    momentum: float
    threshold: float
    fraction: float
    frequency: float
    distance: float
    tensors: Mapping[str, TensorOscillation]

    @classmethod
    def measure(
        cls, traces: Mapping[str, CodeTrace], distances: Mapping[str, Tensor], *, threshold: float = THRESHOLD
    ) -> "OscillationRecord":
        """Sums up traces and the latents' distances of the same names.

        Raises:
            ConfigError: when the names differ.
        """
        if set(traces) != set(distances):
            raise ConfigError("traces and distances are of the same tensors.", asked=sorted(distances))
        tensors = {name: _measure(trace, distances[name], threshold) for name, trace in traces.items()}
        total = sum(tensor.count for tensor in tensors.values())
        whole = {
            key: sum(tensor.count * getattr(tensor, key) for tensor in tensors.values()) / max(total, 1)
            for key in ("fraction", "frequency", "distance")
        }
        first = next(iter(traces.values()), None)
        steps, momentum = (first.steps, first.momentum) if first else (0, MOMENTUM)
        return cls(steps=steps, momentum=momentum, threshold=threshold, tensors=tensors, **whole)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OscillationRecord":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        try:
            tensors = {name: TensorOscillation(**tensor) for name, tensor in values["tensors"].items()}
            return cls(**{**values, "tensors": tensors})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError("this is no record of oscillations.", asked=sorted(values), looked=str(error)) from error


def _measure(trace: CodeTrace, distance: Tensor, threshold: float) -> TensorOscillation:
    count = trace.codes.numel()
    if not count:
        return TensorOscillation(count=0, fraction=0.0, frequency=0.0, distance=0.0)
    return TensorOscillation(
        count=count,
        fraction=float((trace.frequency > threshold).double().mean()),
        frequency=float(trace.frequency.double().mean()),
        distance=float(distance.double().mean()),
    )
