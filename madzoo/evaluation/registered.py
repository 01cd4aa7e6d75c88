"""The registered benchmarks: one record each, which says all that defines its numbers.

Images: the test part of a data set, under the data set's name. Three families of forecasts: ``ltsf`` (the literature's
long horizons, z-scores, every window), ``fev-ett`` (three tasks of fev-bench that ETTh1 and ETTh2 give without a
network) and ``monash`` (competition sets with their official test parts).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from madzoo.errors import ConfigError, nearest
from madzoo.evaluation.leakage import FEV_HOURS, LTSF_HOURS, BenchmarkRows

__all__ = ["BENCHMARKS", "BenchmarkSpec", "ImageBenchmarkSpec", "benchmark_of", "find_benchmarks"]

IMAGE_METRICS = ("top1", "top5", "nll", "ece")
FEV_METRICS = ("sql", "mase", "wape", "wql")
COMPETITION_METRICS = ("mase", "smape", "sql")
LTSF_METRICS = ("mse", "mae", "wql")
LTSF_HORIZONS = (96, 192, 336, 720)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBenchmarkSpec:
    """Describes a benchmark of labelled images: the test part of one data set.

    Attributes:
        name: how it is asked for; the data set's in the catalog.
        metrics: what is reported, the first one first.
        train_rows: which rows a model may be trained and chosen on.
    """

    name: str
    metrics: tuple[str, ...] = IMAGE_METRICS
    train_rows: str = "the train part; chosen on the validation part"

    @property
    def datasets(self) -> tuple[str, ...]:
        """The one data set."""
        return (self.name,)

    @property
    def test_rows(self) -> BenchmarkRows:
        """What is tested, for the leakage flags."""
        return BenchmarkRows(datasets=self.datasets)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSpec:
    """Describes a forecasting benchmark.

    Attributes:
        name: how it is asked for; its family is what stands before the first hyphens.
        datasets: names of the catalog whose series are its items.
        horizon, num_windows, seasonality: of the forecasts; 0 windows: every window of the test part.
        metrics: what is reported, the first one first; ``coverage_80`` comes beside them.
        train_rows: which rows a model may be trained and chosen on.
        test_rows: what is tested, for the leakage flags.
        freq: of a step, as pandas writes it.
        resample: None, or the period whose means are taken first.
        linear_context, linear_holdout: see :class:`madzoo.evaluation.series.SeriesBenchmark`.
        domain: of the data, in GIFT-Eval's words.
    """

    name: str
    datasets: tuple[str, ...]
    horizon: int
    num_windows: int
    seasonality: int
    metrics: tuple[str, ...]
    train_rows: str
    test_rows: BenchmarkRows
    freq: str
    resample: str | None = None
    linear_context: int = 0
    linear_holdout: int = 0
    domain: str = ""


def _ltsf(dataset: str, freq: str, seasonality: int, domain: str) -> Iterator[BenchmarkSpec]:
    recording = {"etth1": "ett1", "ettm1": "ett1", "etth2": "ett2"}.get(dataset)
    first_hour = {recording: LTSF_HOURS} if recording else {}
    for horizon in LTSF_HORIZONS:
        yield BenchmarkSpec(
            name=f"ltsf-{dataset.removesuffix('_rate')}-{horizon}",
            datasets=(dataset,),
            horizon=horizon,
            num_windows=0,
            seasonality=seasonality,
            metrics=LTSF_METRICS,
            train_rows="the train part; chosen on the validation part",
            test_rows=BenchmarkRows(datasets=(dataset,), first_hour=first_hour),
            freq=freq,
            domain=domain,
        )


def _fev(
    name: str, freq: str, horizon: int, num_windows: int, seasonality: int, first_hour: int, linear: tuple[int, int]
) -> BenchmarkSpec:
    return BenchmarkSpec(
        name=f"fev-ett-{name}",
        datasets=("etth1", "etth2"),
        horizon=horizon,
        num_windows=num_windows,
        seasonality=seasonality,
        metrics=FEV_METRICS,
        train_rows=f"hours before {first_hour} of both series, which is where the first window begins",
        test_rows=BenchmarkRows(
            datasets=("etth1", "etth2", "ettm1"), first_hour={"ett1": first_hour, "ett2": first_hour}
        ),
        freq=freq,
        resample=None if freq == "h" else freq,
        linear_context=linear[0],
        linear_holdout=linear[1],
        domain="Energy",
    )


def _competition(dataset: str, freq: str, horizon: int, seasonality: int, context: int, domain: str) -> BenchmarkSpec:
    return BenchmarkSpec(
        name=f"monash-{dataset.replace('_', '-')}",
        datasets=(dataset,),
        horizon=horizon,
        num_windows=1,
        seasonality=seasonality,
        metrics=COMPETITION_METRICS,
        train_rows="the official train part",
        test_rows=BenchmarkRows(datasets=(dataset,)),
        freq=freq,
        linear_context=context,
        linear_holdout=horizon,
        domain=domain,
    )


_ALL: tuple[BenchmarkSpec | ImageBenchmarkSpec, ...] = (
    ImageBenchmarkSpec(name="fashion_mnist"),
    ImageBenchmarkSpec(name="cifar10"),
    ImageBenchmarkSpec(name="imagenette_128"),
    *_ltsf("etth1", "h", 24, "Energy"),
    *_ltsf("etth2", "h", 24, "Energy"),
    *_ltsf("ettm1", "15min", 96, "Energy"),
    *_ltsf("weather", "10min", 144, "Nature"),
    *_ltsf("exchange_rate", "D", 1, "Econ/Fin"),
    # The first window of days begins 560 days, and of weeks 65 weeks, before the last whole one ends: day 165, and
    # the Monday after week 38, counted from the Friday on which the recordings begin.
    _fev("1h", "h", 168, 20, 24, FEV_HOURS, (336, 1344)),
    _fev("1d", "D", 28, 20, 7, 24 * 165, (56, 56)),
    _fev("1w", "W", 13, 5, 1, 24 * (3 + 7 * 38), (8, 13)),
    _competition("m4_hourly", "h", 48, 24, 192, ""),
    _competition("m3_yearly", "YE", 6, 1, 6, "Econ/Fin"),
    _competition("m3_quarterly", "QE", 8, 4, 8, "Econ/Fin"),
    _competition("m3_monthly", "ME", 18, 12, 24, "Econ/Fin"),
    _competition("m3_other", "", 8, 1, 8, "Econ/Fin"),
    _competition("tourism_yearly", "YE", 4, 1, 4, "Econ/Fin"),
    _competition("tourism_monthly", "ME", 24, 12, 24, "Econ/Fin"),
    _competition("nn5_daily", "D", 56, 7, 112, "Econ/Fin"),
)
BENCHMARKS: Mapping[str, BenchmarkSpec | ImageBenchmarkSpec] = {spec.name: spec for spec in _ALL}


def find_benchmarks(name: str) -> list[BenchmarkSpec | ImageBenchmarkSpec]:
    """Returns the benchmarks of a name, or all whose names it begins, or those of several names with commas between.

    ``"fev-ett"`` stands for its three tasks. Each is named once, in the order of the names.

    Raises:
        ConfigError: when there is none, with the nearest names.

    Example:
        >>> [spec.name for spec in find_benchmarks("cifar10,fev-ett")]
        ['cifar10', 'fev-ett-1h', 'fev-ett-1d', 'fev-ett-1w']
    """
    found = [spec for part in name.split(",") for spec in _beginning_with(part.strip())]
    return list({spec.name: spec for spec in found}.values())


def benchmark_of(dataset: str, horizon: int | None) -> str | None:
    """Returns the registered benchmark that a result on a data set's test part belongs to; None where there is none.

    Args:
        dataset: the row's data set: a name of the catalog, or the benchmark itself.
        horizon: of the forecasts; None for images.

    Example:
        >>> benchmark_of("etth1", 96), benchmark_of("cifar10", None), benchmark_of("etth1", 24)
        ('ltsf-etth1-96', 'cifar10', None)
    """
    if dataset in BENCHMARKS:
        return dataset
    every = (spec for spec in _ALL if isinstance(spec, BenchmarkSpec) and spec.num_windows == 0)
    return next((spec.name for spec in every if (spec.datasets, spec.horizon) == ((dataset,), horizon)), None)


def _beginning_with(name: str) -> list[BenchmarkSpec | ImageBenchmarkSpec]:
    found = [spec for spec in _ALL if f"{spec.name}-".startswith(f"{name}-")]
    if not found:
        groups = {"-".join(known.split("-")[:count]): None for known in BENCHMARKS for count in (1, 2)}
        raise ConfigError(
            f"no benchmark is named {name!r}.",
            asked=name,
            looked=", ".join(BENCHMARKS),
            todo=nearest(name, [*groups, *BENCHMARKS]),
        )
    return found
