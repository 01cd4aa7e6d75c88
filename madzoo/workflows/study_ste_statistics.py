"""What the straight-through study says of its runs: chosen runs by cell, means over seeds, differences seed by seed."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["cells", "chosen", "floats", "mean_sd", "over_seeds", "paired", "post_training", "scores", "select"]

Run = Mapping[str, Any]
Study = Mapping[str, Any]


def select(records: Iterable[Run], **wanted: Any) -> list[Run]:
    """Returns the records that have these values."""
    return [record for record in records if all(record.get(key) == value for key, value in wanted.items())]


def chosen(study: Study, kind: str, **wanted: Any) -> list[Run]:
    """Returns the runs of the learning rate that the held-out pictures chose, one per seed, in order of the seeds."""
    return sorted(select(study["runs"], kind=kind, chosen=True, **wanted), key=lambda run: run["seed"])


def floats(study: Study, network: str) -> list[Run]:
    """Returns the float runs of a network, in order of the seeds."""
    return sorted(select(study["runs"], kind="float", network=network), key=lambda run: run["seed"])


def cells(study: Study) -> list[tuple[str, int]]:
    """Returns the networks and widths that were trained with rounding."""
    p = study["protocol"]
    return [(network, bits) for network in p["networks"] for bits in p["bits"]]


def post_training(runs: Sequence[Run], bits: int, observer: str) -> list[Run]:
    """Returns what rounding did to each of some float runs."""
    return [select(run["ptq"], bits=bits, observer=observer)[0] for run in runs]


def scores(runs: Sequence[Run], part: str = "test") -> list[float]:
    """Returns the accuracies in percent."""
    return [100 * run[part]["accuracy"] for run in runs]


def mean_sd(values: Sequence[float], form: str = ".1f") -> str:
    """Writes mean and standard deviation over the seeds.

    Example:
        >>> mean_sd([1.0, 2.0, 3.0]), mean_sd([1.0])
        ('2.0 ± 1.0', '1.0')
    """
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def paired(first: Sequence[float], second: Sequence[float], form: str = ".1f") -> str:
    """Writes the differences seed by seed: mean, standard deviation, and in how many seeds the first is larger.

    Example:
        >>> paired([3.0, 5.0, 4.0], [1.0, 6.0, 2.0])
        '+1.0 ± 1.7 (2 of 3)'
    """
    apart = [a - b for a, b in zip(first, second, strict=True)]
    spread = f" ± {statistics.stdev(apart):{form}}" if len(apart) > 1 else ""
    return f"{statistics.fmean(apart):+{form}}{spread} ({sum(d > 0 for d in apart)} of {len(apart)})"


def over_seeds(records: Sequence[Run], measure: Callable[[Run], float | None]) -> list[float]:
    """Returns one number per record, those that are defined."""
    return [value for record in records if (value := measure(record)) is not None]
