"""One row of results: what was measured, on what, with which weights, by which software."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from madzoo.errors import ConfigError, nearest
from madzoo.evaluation.registered import benchmark_of

__all__ = ["ResultRow", "library_versions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """States the metrics of one model on one split of one data set.

    Attributes:
        model: its full name.
        weights_sha256: of its weight file, None for a module that was not read from one.
        weights_commit: of the Hub repository they were read from; None for bundled and local ones.
        dataset, split, n: what it was measured on, and the number of samples (images, or windows).
        metrics: name -> value; fractions lie in [0, 1].
        intervals: name -> [low, high], 95 %, where one exists.
        baselines: name of a baseline -> its metrics on the same samples.
        seed: of the training run, None where unknown.
        settings: what else defines the number (horizon, preparation of inputs), with the benchmark's name and the two
            flags of leakage.
        data_fingerprint: hash of the samples.
        versions: of the libraries.
        configurations_tested: how many configurations of this model ever met this split; None where unknown.
        details: the same forecasts by the errors of GIFT-Eval, under its column names; empty elsewhere.
        seconds: what the measurement took, its baselines left out.
        threads: of all processes together, that took so long; None where unknown.
    """

    model: str
    weights_sha256: str | None = None
    weights_commit: str | None = None
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
    threads: int | None = None

    @property
    def benchmark(self) -> str:
        """The registered benchmark's name, also of a row that does not state it; the data set's where it is of none."""
        horizon = self.settings.get("horizon")
        registered = benchmark_of(self.dataset, horizon) if self.split == "test" else None
        return str(self.settings.get("benchmark") or registered or self.dataset)

    @property
    def task(self) -> str:
        """``image-classification`` or ``time-series-forecasting``."""
        return "image-classification" if "top1" in self.metrics else "time-series-forecasting"

    @property
    def trained_on_this_dataset(self) -> bool | None:
        """Whether the model was trained on rows of the same data; None where unknown."""
        return self.settings.get("trained_on_this_dataset")

    @property
    def testdata_leakage(self) -> bool | None:
        """Whether it was trained on, or chosen by, a row that is tested; None where unknown."""
        return self.settings.get("testdata_leakage")

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
