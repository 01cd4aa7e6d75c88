"""A registered benchmark of series and a forecaster in, the loaded windows out, with what the model saw of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madzoo.data.catalog import find_dataset
from madzoo.data.load import load_collection, load_table
from madzoo.data.series_cuts import mean_per, rolling_cuts
from madzoo.errors import ConfigError
from madzoo.evaluation import BenchmarkSpec, ForecastingBenchmark, SeriesBenchmark, find_benchmarks
from madzoo.evaluation.series import LEVELS
from madzoo.geometry.report import sample_sha256
from madzoo.workflows.benchmarks import leakage_flags, load_windows

__all__ = ["load_benchmarks", "load_series"]


def load_benchmarks(
    model: Any, name: str, *, batch_size: int = 256, folder: Path | str | None = None
) -> list[ForecastingBenchmark | SeriesBenchmark]:
    """Loads a registered benchmark of series, or every one whose name begins so.

    Args:
        model: a forecaster; its card's data set decides the leakage flags.
        name: for instance ``"fev-ett"``, ``"ltsf-etth1-96"`` or ``"monash"``.
        batch_size: samples at a time; the numbers do not depend on it.
        folder: local data folder; see :func:`madzoo.data.catalog.data_dir`.

    Raises:
        ConfigError: when no benchmark of series has that name, or the model does not forecast.
        DataError: when the data cannot be read.
    """
    specs = find_benchmarks(name)
    series = [spec for spec in specs if isinstance(spec, BenchmarkSpec)]
    if len(series) < len(specs):
        raise ConfigError("a benchmark of images holds no series.", asked=name)
    return [load_series(model, spec, batch_size=batch_size, folder=folder) for spec in series]


def load_series(
    model: Any, spec: BenchmarkSpec, *, batch_size: int = 256, folder: Path | str | None = None
) -> ForecastingBenchmark | SeriesBenchmark:
    """Loads one registered benchmark of series.

    Raises:
        ConfigError: when the model does not forecast.
        DataError: when the data cannot be read.
    """
    if batch_size < 1:
        raise ConfigError("batch_size is at least 1.", asked=batch_size)
    if getattr(model, "task", None) != "time-series-forecasting":
        raise ConfigError("the model does not forecast.", asked=f"{type(model).__name__} on {spec.name}")
    settings = _settings(model, spec)
    if spec.num_windows == 0:
        table = find_dataset(spec.datasets[0])
        settings = {key: value for key, value in settings.items() if key not in ("horizon", "context_length")}
        return load_windows(
            model, table, "test", horizon=spec.horizon, batch_size=batch_size, folder=folder, settings=settings
        )
    parts = [find_dataset(dataset) for dataset in spec.datasets]
    if "all" in parts[0].files:
        tables = [load_table(part, folder=folder) for part in parts]
        if spec.resample is not None:
            tables = [mean_per(table, spec.resample) for table in tables]
        settings["targets"] = [str(column) for column in tables[0].columns[1:]]
        items = [torch.from_numpy(table.iloc[:, 1:].to_numpy("float64", copy=True)) for table in tables]
        windows = rolling_cuts(items, horizon=spec.horizon, num_windows=spec.num_windows)
    else:
        pairs = [pair for part in parts for pair in load_collection(part, folder=folder)]
        windows = (tuple((_column(train), _column(test)) for train, test in pairs),)
        settings["targets"] = ["target"]
    return SeriesBenchmark(
        name=spec.name,
        dataset=" + ".join(spec.datasets),
        windows=windows,
        seasonality=spec.seasonality,
        metrics=spec.metrics,
        linear_context=spec.linear_context,
        linear_holdout=spec.linear_holdout,
        batch_size=batch_size,
        data_fingerprint=_fingerprint(windows),
        settings=settings,
    )


def _settings(model: Any, spec: BenchmarkSpec) -> dict[str, Any]:
    settings = {
        "benchmark": spec.name,
        "horizon": spec.horizon,
        "num_windows": spec.num_windows or "every window",
        "seasonality": spec.seasonality,
        "freq": spec.freq,
        "domain": spec.domain,
        "context_length": model.context_length,
        "train_rows": spec.train_rows,
        **leakage_flags(model, spec.test_rows),
    }
    if spec.num_windows:
        settings |= {
            "quantile_levels": list(LEVELS),
            "linear_context": spec.linear_context,
            "units": "the data's own units",
        }
        caveat = find_dataset(spec.datasets[0]).caveat
        settings |= {"caveat": caveat} if caveat else {}
    return settings


def _column(values: Any) -> Tensor:
    return torch.from_numpy(values).unsqueeze(-1)


def _fingerprint(windows: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> str:
    """The hash of every item whole: the last window's past, and its future."""
    return sample_sha256(torch.cat([part for pair in windows[-1] for part in pair]))
