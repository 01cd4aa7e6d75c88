"""One row of results: what was measured, on what, with which weights, by which software."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from madzoo.errors import ConfigError, nearest

__all__ = ["ResultRow", "library_versions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """States the metrics of one model on one split of one data set.

    Attributes:
        model: its full name.
        weights_sha256: of its weight file, None for a module that was not read from one.
        dataset, split, n: what it was measured on, and the number of samples (images, or windows).
        metrics: name -> value; fractions lie in [0, 1].
        intervals: name -> [low, high], 95 %, where one exists.
        baselines: name of a baseline -> its metrics on the same samples.
        seed: of the training run, None where unknown.
        settings: what else defines the number (horizon, batch size, preparation of inputs).
        data_fingerprint: hash of the samples.
        versions: of the libraries.
        configurations_tested: how many configurations of this model ever met this split; None where unknown.
        details: the same forecasts by the errors of GIFT-Eval, under its column names; empty elsewhere.
        seconds: what the measurement took.
    """

    model: str
    weights_sha256: str | None = None
    dataset: str
    split: str
    n: int
    metrics: dict[str, float]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    configurations_tested: int | None = None
    details: dict[str, float] = field(default_factory=dict)
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ResultRow":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"a result row has no field {key!r}.", asked=key, todo=nearest(str(key), known))
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"not a result row: {error}.", asked=sorted(values), looked=known) from error


def library_versions() -> dict[str, str]:
    """Returns the versions a number may depend on."""
    try:
        ours = version("madzoo")
    except PackageNotFoundError:
        ours = "source"
    return {
        "madzoo": ours,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
