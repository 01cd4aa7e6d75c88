"""Benchmarks of many series: forecasts from each series' own past, in its own units, scored by scaled errors.

Axes: W windows, N items, L past, H horizon, C targets of an item, Q quantiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.evaluation.baselines import LinearForecaster, SeasonalNaive, fit_linear
from madzoo.evaluation.scaled_errors import coverage, gift_eval_errors, scaled_errors, seasonal_error
from madzoo.evaluation.shard import ALONE, Shard
from madzoo.layers.forecaster import Forecaster

__all__ = ["LEVELS", "PooledWindows", "SeriesBenchmark", "SeriesScores", "evaluate_series", "series_baselines"]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Window = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeriesBenchmark:
    """Holds windows of series: a model sees each item's past and forecasts its future.

    Attributes:
        name, dataset, split: of the benchmark and its data.
        windows: per window the items' (past [L, C], future [H, C]); NaN = missing. Every window has the same items.
        seasonality: steps of the season that errors are scaled by and the naive baseline repeats, m.
        metrics: which of the scaled errors are reported, the first one first.
        linear_context: steps that the linear baseline sees; 0: no baselines.
        linear_holdout: last steps before the first window that choose its ridge; at least H.
        batch_size: series at a time; the numbers do not depend on it.
        data_fingerprint: hash of the data, None where unknown.
        settings: what else defines the number, for the record.
    """

    name: str
    dataset: str
    split: str = "test"
    windows: Sequence[Window]
    seasonality: int
    metrics: tuple[str, ...] = ("sql", "mase", "wape", "wql")
    linear_context: int = 0
    linear_holdout: int = 0
    batch_size: int = 256
    data_fingerprint: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        """Steps of the future, H."""
        return len(self.windows[0][0][1])


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesScores:
    """Holds what a forecaster achieved.

    Attributes:
        n: number of forecasts, windows times items times targets.
        metrics: the benchmark's, then ``coverage_80`` where the model gives quantiles.
        details: the same forecasts by GIFT-Eval's errors, under its column names.
    """

    n: int
    metrics: dict[str, float]
    details: dict[str, float]
    intervals: dict[str, list[float]] = field(default_factory=dict)


class PooledWindows:
    """Indexes every (past [L, 1], future [H, 1]) of many single series, as :class:`ForecastWindows` asks.

    Args:
        series: [n] each.
        context_length, prediction_length: L and H.
        skip: the first window of a series forecasts no step before this one.
    """

    def __init__(
        self, series: Sequence[Tensor], *, context_length: int, prediction_length: int, skip: Sequence[int]
    ) -> None:
        self.context_length, self.prediction_length = context_length, prediction_length
        self.values = torch.cat(list(series))
        starts, base = [torch.empty(0, dtype=torch.long)], 0
        for one, first in zip(series, skip, strict=True):
            begin = base + max(first - context_length, 0)
            stop = base + len(one) - context_length - prediction_length + 1
            starts.append(torch.arange(begin, max(begin, stop)))
            base += len(one)
        self.starts = torch.cat(starts)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns windows [B, L, 1] and [B, H, 1]."""
        steps = torch.arange(self.context_length + self.prediction_length)
        rows = self.values[self.starts[index].unsqueeze(-1) + steps].unsqueeze(-1)
        return rows[:, : self.context_length], rows[:, self.context_length :]


def evaluate_series(model: Forecaster, benchmark: SeriesBenchmark, *, shard: Shard = ALONE) -> SeriesScores:
    """Measures a forecaster on every window, item and target.

    A model that gives the median alone stands with it at every level, as fev-bench has it; it has no coverage.

    Args:
        model: any forecaster.
        benchmark: its windows.
        shard: the processes that share the batches.

    Raises:
        ConfigError: when the model has neither the nine levels within its range nor the median.
        DataError: when a forecast is not finite, or no target was observed.

    Cost: one ``predict`` of W times N items.
    """
    past = [one for window in benchmark.windows for one, _ in window]
    shape = (len(benchmark.windows), len(benchmark.windows[0]))
    is_point = len(model.quantile_levels) == 1
    quantiles, mean = _forecasts(model, past, benchmark, (0.5,) if is_point else LEVELS, shard)
    q = quantiles.expand(*quantiles.shape[:-1], len(LEVELS)).unflatten(0, shape)
    y = torch.stack([torch.stack([future for _, future in window]) for window in benchmark.windows])
    scale = torch.stack([seasonal_error(one, benchmark.seasonality) for one in past]).unflatten(0, shape)
    found = scaled_errors(y, q, scale, levels=LEVELS)
    metrics = {name: found[name] for name in benchmark.metrics}
    if not is_point:
        metrics["coverage_80"] = coverage(y, q[..., 0], q[..., -1])
    details = gift_eval_errors(y, q, mean.unflatten(0, shape), scale, levels=LEVELS)
    return SeriesScores(n=y[:, :, 0].numel(), metrics=metrics, details=details)


def _forecasts(
    model: Forecaster, past: Sequence[Tensor], benchmark: SeriesBenchmark, levels: Sequence[float], shard: Shard
) -> tuple[Tensor, Tensor]:
    """Returns quantiles and mean of every past; a batch is what ``predict`` itself would take at a time."""
    batches = _batches(past, model.context_length, benchmark.batch_size)

    def answer(index: Sequence[int]) -> tuple[Tensor, Tensor]:
        quantiles, mean = model.predict(
            [past[i] for i in index],
            prediction_length=benchmark.horizon,
            quantile_levels=levels,
            batch_size=benchmark.batch_size,
        )
        return quantiles.cpu(), mean.cpu()

    quantiles, means = zip(*shard.map(answer, batches), strict=True)
    place = torch.tensor([i for index in batches for i in index]).argsort()
    return torch.cat(quantiles)[place], torch.cat(means)[place]


def _batches(past: Sequence[Tensor], context_length: int, size: int) -> list[list[int]]:
    if size < 1:
        raise ConfigError("batch_size is at least 1.", asked=size)
    by_length: dict[int, list[int]] = {}
    for place, one in enumerate(past):
        by_length.setdefault(min(len(one), context_length), []).append(place)
    return [same[start : start + size] for same in by_length.values() for start in range(0, len(same), size)]


def series_baselines(benchmark: SeriesBenchmark) -> dict[str, dict[str, float]]:
    """Returns the metrics of the last value, the last season and the linear map; none where the benchmark has none.

    No model enters them.
    """
    if benchmark.linear_context == 0:
        return {}
    longest = max(len(past) for window in benchmark.windows for past, _ in window)
    lengths: dict[str, Any] = {"context_length": longest, "prediction_length": benchmark.horizon}
    models = {
        "last_value": SeasonalNaive(seasonality=1, quantile_levels=LEVELS, **lengths),
        "seasonal_naive": SeasonalNaive(seasonality=benchmark.seasonality, quantile_levels=LEVELS, **lengths),
        "linear": fit_pooled_linear(benchmark),
    }
    return {name: evaluate_series(model, benchmark).metrics for name, model in models.items()}


def fit_pooled_linear(benchmark: SeriesBenchmark) -> LinearForecaster:
    """Fits one linear map on the pasts of the first window, every target a series, in units of its seasonal error.

    What lies in or after the first window is not seen. The last ``linear_holdout`` steps choose the ridge. Series too
    short for a window do not count.

    Raises:
        ConfigError: when no series is long enough for a window of training.
    """
    context, horizon, holdout = benchmark.linear_context, benchmark.horizon, benchmark.linear_holdout
    series = []
    for past, _ in benchmark.windows[0]:
        scale = seasonal_error(past, benchmark.seasonality)
        series += list((past.double() / torch.where(scale > 0, scale, torch.nan)).mT)
    series = [one for one in series if one.isfinite().any() and len(one) >= context + holdout + horizon]
    if not series or holdout < horizon:
        asked = f"context {context}, horizon {horizon}, holdout {holdout}"
        raise ConfigError("no series is long enough for the linear baseline.", asked=asked)
    lengths = {"context_length": context, "prediction_length": horizon}
    train = PooledWindows([one[:-holdout] for one in series], skip=[0] * len(series), **lengths)
    validation = PooledWindows(series, skip=[len(one) - holdout for one in series], **lengths)
    return fit_linear(train, validation)
