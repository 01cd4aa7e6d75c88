"""The record of a training on grids: JSON both ways."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from madzoo.errors import ConfigError

__all__ = ["QatRecord"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QatRecord:
    """States how a model was trained on its grids, and how still its weights were at the end.

    Attributes:
        estimator, observer, scale_rule: see :func:`prepare_qat`.
        bits: of the planned parameters, the different ones of each kind of tensor.
        elements: real numbers on grids.
        steps: optimizer steps. track_every: steps between two looks at the codes.
        oscillating_fraction, mean_frequency: see :class:`madzoo.quantization.oscillation.OscillationRecord`; of the
            weights that were trained, since this run's start.
        latent_distance: mean distance of latents from their levels, in units of the scale, of the weights kept.
        freeze_above: frequency above which weights were frozen, or None. frozen_fraction: of all elements.
    """

    estimator: str
    observer: str
    scale_rule: str
    bits: Mapping[str, tuple[int, ...]]
    elements: int
    steps: int
    track_every: int
    oscillating_fraction: float
    mean_frequency: float
    latent_distance: float
    freeze_above: float | None
    frozen_fraction: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self) | {"bits": {kind: list(bits) for kind, bits in self.bits.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QatRecord":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        try:
            bits = {kind: tuple(found) for kind, found in values["bits"].items()}
            return cls(**{**values, "bits": bits})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError("this is no record of a training.", asked=sorted(values), looked=str(error)) from error
