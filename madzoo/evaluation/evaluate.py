"""One call for every benchmark: (module, loaded benchmark) in, result rows out."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.evaluation.baselines import ltsf_baselines
from madzoo.evaluation.classification import ClassificationScores, eval_mode, evaluate_classifier
from madzoo.evaluation.forecasting import ForecastScores, ForecastWindows, evaluate_ltsf
from madzoo.evaluation.result import ResultRow, library_versions
from madzoo.evaluation.series import SeriesBenchmark, SeriesScores, evaluate_series, series_baselines
from madzoo.evaluation.shard import ALONE, Shard
from madzoo.layers.forecaster import Forecaster, with_seasonality

__all__ = ["Benchmark", "ClassificationBenchmark", "ForecastingBenchmark", "baselines_of", "evaluate"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassificationBenchmark:
    """Holds labelled images, prepared for the model that is measured.

    Attributes:
        dataset, split: names of the data.
        batches: (images, labels).
        data_fingerprint: hash of the data, None where unknown.
        settings: what else defines the number, for the record.
    """

    dataset: str
    split: str
    batches: Iterable[tuple[Tensor, Tensor]]
    data_fingerprint: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForecastingBenchmark:
    """Holds every window of a split, z-scored by the training rows.

    Attributes:
        dataset, split: names of the data.
        windows: what is measured.
        train, validation: what the linear baseline is fitted and chosen on; None: no baselines.
        seasonality: steps of the season that the naive baseline repeats.
        batch_size: windows at a time; the numbers do not depend on it.
        data_fingerprint: hash of the data, None where unknown.
        settings: what else defines the number, for the record.
    """

    dataset: str
    split: str
    windows: ForecastWindows
    train: ForecastWindows | None = None
    validation: ForecastWindows | None = None
    seasonality: int = 1
    batch_size: int = 256
    data_fingerprint: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


Benchmark = ClassificationBenchmark | ForecastingBenchmark | SeriesBenchmark


def evaluate(
    model: nn.Module,
    benchmark: Benchmark,
    *,
    name: str | None = None,
    weights_sha256: str | None = None,
    weights_commit: str | None = None,
    seed: int | None = None,
    configurations_tested: int | None = None,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    shard: Shard = ALONE,
) -> list[ResultRow]:
    """Measures a model on a benchmark; its mode is left as it was.

    With several processes each computes whole batches in turn, and all of them return the same rows as one process.

    Args:
        model: a classifier or a forecaster, whichever the benchmark asks for. A forecaster that asks for its season is
            told that of a benchmark of series.
        benchmark: the loaded samples.
        name, weights_sha256, weights_commit, seed: of the model, for the record.
        configurations_tested: how many configurations of this model ever met the split, for the record.
        baselines: what :func:`baselines_of` returned for the same samples and context; None: they are measured.
        shard: the processes that share the batches.

    Raises:
        ConfigError: when the benchmark is none of madzoo's, or a forecasting one meets a model that is no forecaster.
        ShapeError, DataError: when the model's answers do not fit the benchmark, or are not finite.

    Example:
        >>> import torch
        >>> images = ClassificationBenchmark(dataset="toy", split="test", batches=[(torch.eye(3), torch.arange(3))])
        >>> evaluate(nn.Identity(), images)[0].metrics["top1"]
        1.0
    """
    if not isinstance(benchmark, ClassificationBenchmark | ForecastingBenchmark | SeriesBenchmark):
        raise ConfigError("this is no benchmark.", asked=type(benchmark).__name__, todo="a record of madzoo.evaluation")
    start = time.perf_counter()
    scores = _score(model, benchmark, shard)
    seconds = time.perf_counter() - start
    found = shard.first(lambda: baselines_of(benchmark)) if baselines is None else baselines
    row = ResultRow(
        model=name or type(model).__name__,
        weights_sha256=weights_sha256,
        weights_commit=weights_commit,
        dataset=benchmark.name if isinstance(benchmark, SeriesBenchmark) else benchmark.dataset,
        split=benchmark.split,
        n=scores.n,
        metrics=scores.metrics,
        intervals=scores.intervals,
        baselines={key: dict(metrics) for key, metrics in found.items()},
        seed=seed,
        settings=dict(benchmark.settings),
        data_fingerprint=benchmark.data_fingerprint,
        versions=library_versions(),
        configurations_tested=configurations_tested,
        details=scores.details if isinstance(scores, SeriesScores) else {},
        seconds=round(seconds, 3),
        threads=shard.world * torch.get_num_threads(),
    )
    return [row]


def baselines_of(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Returns the metrics of the baselines that stand beside every model; none for images.

    Those of the long horizons depend on the model by its context alone, those of series not at all.

    Raises:
        ConfigError, DataError: when a linear map cannot be fitted.
    """
    if isinstance(benchmark, SeriesBenchmark):
        return series_baselines(benchmark)
    if isinstance(benchmark, ClassificationBenchmark) or benchmark.train is None or benchmark.validation is None:
        return {}
    return ltsf_baselines(benchmark.train, benchmark.validation, benchmark.windows, seasonality=benchmark.seasonality)


def _score(
    model: nn.Module, benchmark: Benchmark, shard: Shard
) -> ClassificationScores | ForecastScores | SeriesScores:
    if isinstance(benchmark, ClassificationBenchmark):
        return evaluate_classifier(model, benchmark.batches, shard=shard)
    if not isinstance(model, Forecaster):
        raise ConfigError(f"a {type(model).__name__} does not forecast.", asked=f"{benchmark.dataset} forecasts")
    with eval_mode(model):
        if isinstance(benchmark, SeriesBenchmark):
            return evaluate_series(with_seasonality(model, benchmark.seasonality), benchmark, shard=shard)
        return evaluate_ltsf(model, benchmark.windows, batch_size=benchmark.batch_size, shard=shard)
