"""Which rows may stand beside each other: one benchmark is one data set, part, horizon and number of samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from madzoo.evaluation.registered import BENCHMARKS, BenchmarkSpec
from madzoo.workflows.leaderboard_rows import BoardRow

__all__ = ["HIGHER_IS_BETTER", "IMAGES", "SERIES", "Benchmark", "Key", "benchmark_of", "key_of"]

IMAGES, SERIES = "image-classification", "time-series-forecasting"
HIGHER_IS_BETTER = ("top1", "top5", "accuracy")
ASIDE = ("coverage_80",)  # judged by its distance from 80 %, so nothing is ranked by it
WORDS = {"etth": "ETTh", "ettm": "ETTm", "fev": "fev", "ett": "ETT", "m3": "M3", "m4": "M4", "nn5": "NN5"}
WORDS |= {"cifar": "CIFAR-", "fashion_mnist": "Fashion-MNIST", "1h": "1H", "1d": "1D", "1w": "1W"}
INTERVALS = {IMAGES: "95 % Wilson interval", SERIES: "95 % block bootstrap over the period, for one trained model"}

Key = tuple[str, str, str, str, int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Describes one benchmark of the board.

    Attributes:
        id: how ``madzoo evaluate`` calls it.
        title: for readers.
        task, dataset, split, n: see :class:`madzoo.evaluation.ResultRow`.
        horizon: steps ahead, of a forecast.
        metrics: of its rows, the main one first.
        units: of the errors, where the rows say.
        caveats: what the rows warn of.
    """

    id: str
    title: str
    task: str
    dataset: str
    split: str
    n: int
    horizon: int | None
    metrics: tuple[str, ...]
    units: str | None
    caveats: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The main metric, by which lines are ranked."""
        return self.metrics[0]

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger main metric is better."""
        return self.metric in HIGHER_IS_BETTER

    @property
    def interval(self) -> str:
        """What the brackets are."""
        return INTERVALS[self.task]


def key_of(row: BoardRow) -> Key:
    """Returns what must agree for two rows to be comparable: also the data's fingerprint, where one is recorded."""
    task = IMAGES if "top1" in row.metrics else SERIES
    horizon = str(row.settings.get("horizon", ""))
    return (task, row.dataset, row.split, horizon, row.n, row.data_fingerprint or "")


def benchmark_of(rows: Sequence[BoardRow]) -> Benchmark:
    """Describes the benchmark of rows with one key.

    The main metric is the first of the first row that every row has; metrics that only some rows have follow.
    """
    task, dataset, split, horizon, n, _ = key_of(rows[0])
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    shared = [name for name in names if name not in ASIDE and all(name in row.metrics for row in rows)]
    main = next(iter(shared or names), "none")
    told = [str(row.settings["benchmark"]) for row in rows if row.settings.get("benchmark")]
    units = [str(row.settings["units"]) for row in rows if row.settings.get("units")]
    steps = int(horizon) if horizon.isdecimal() else None
    return Benchmark(
        id=_identifier(told[0] if told else _registered(dataset, steps), split),
        title=_title(dataset, split, steps),
        task=task,
        dataset=dataset,
        split=split,
        n=n,
        horizon=steps,
        metrics=(main, *(name for name in names if name != main)),
        units=units[0] if units else None,
        caveats=tuple(dict.fromkeys(str(row.settings["caveat"]) for row in rows if row.settings.get("caveat"))),
    )


def _registered(dataset: str, horizon: int | None) -> str:
    """Cards written before rows named their benchmark have the data set and the horizon."""
    for spec in (spec for spec in BENCHMARKS.values() if isinstance(spec, BenchmarkSpec)):
        if not spec.num_windows and spec.datasets == (dataset,) and spec.horizon == horizon:
            return spec.name
    return dataset if horizon is None else f"{dataset}-{horizon}"


def _identifier(name: str, split: str) -> str:
    return name if split == "test" else f"{name}, {split}"


def _title(dataset: str, split: str, horizon: int | None) -> str:
    steps = "" if horizon is None else f", {horizon} steps ahead"
    return f"{_spelt(dataset)}{steps}{'' if split == 'test' else f', {split} part'}"


def _spelt(dataset: str) -> str:
    if dataset in WORDS:
        return WORDS[dataset]
    for start in ("etth", "ettm", "cifar"):
        if dataset.startswith(start):
            return WORDS[start] + dataset.removeprefix(start)
    parts = dataset.replace("_", " ").split("-")
    return " ".join(WORDS.get(part, part.capitalize()) for part in parts)
