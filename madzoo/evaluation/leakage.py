"""What a checkpoint has seen of a benchmark: whether it was trained on the data, and whether on rows that are tested.

Rows of the electricity transformers (ETT) are counted in hours from 2016-07-01: ETTh1 and ETTm1 are one recording, so
that a model of one has seen the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["NOTHING", "BenchmarkRows", "Leakage", "find_leakage"]

# Data a checkpoint may name -> recording -> the hour before which its rows were used to train or to choose.
# The catalog's splits of ETT end validation at hour 11,520; the task ETT_1H allows what lies before its first window.
LTSF_HOURS, FEV_HOURS = 11520, 14060
ETT_HOURS: Mapping[str, Mapping[str, int]] = {
    "etth1": {"ett1": LTSF_HOURS},
    "ettm1": {"ett1": LTSF_HOURS},
    "etth2": {"ett2": LTSF_HOURS},
    "fev-ett-1h": {"ett1": FEV_HOURS, "ett2": FEV_HOURS},
}
NOTHING = "synthetic"  # what a model without a parameter has seen of any recording; no benchmark has that name


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRows:
    """States what a benchmark tests on.

    Attributes:
        datasets: the data sets it is made of, by the names a checkpoint may give.
        first_hour: recording -> the hour at which its first test row begins, for ETT; else the data's own test part.
    """

    datasets: tuple[str, ...]
    first_hour: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leakage:
    """Says what a checkpoint has seen; None where its card names no data.

    Attributes:
        trained_on_this_dataset: whether any row of the same recording was trained on (fev-bench's flag).
        testdata_leakage: whether a tested row was (GIFT-Eval's flag).
    """

    trained_on_this_dataset: bool | None
    testdata_leakage: bool | None


def find_leakage(trained_on: str | None, rows: BenchmarkRows) -> Leakage:
    """Returns what a model trained on a data set has seen of a benchmark.

    Args:
        trained_on: the checkpoint's ``dataset``: a name of the catalog, a benchmark's name, ``"synthetic"``, or several
            of them joined by ``+``, of which one may be of ETT.
        rows: what is tested.

    Example:
        >>> find_leakage("etth1", BenchmarkRows(datasets=("etth1",), first_hour={"ett1": 3960}))
        Leakage(trained_on_this_dataset=True, testdata_leakage=True)
    """
    if trained_on is None:
        return Leakage(trained_on_this_dataset=None, testdata_leakage=None)
    parts = trained_on.split("+")
    if ett := [part for part in parts if part in ETT_HOURS]:
        seen = ETT_HOURS[ett[0]]
        shared = [(seen[name], first) for name, first in rows.first_hour.items() if name in seen]
        return Leakage(trained_on_this_dataset=bool(shared), testdata_leakage=any(end > first for end, first in shared))
    # Every other set is split as it is published, and its test part is the one tested.
    return Leakage(trained_on_this_dataset=any(part in rows.datasets for part in parts), testdata_leakage=False)
