"""The zoo on many benchmarks: pair after pair, resumable, merged into one table."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madzoo.errors import ConfigError
from madzoo.evaluation import BENCHMARKS, ResultRow
from madzoo.evaluation.leaderboards import write_submissions
from madzoo.evaluation.result_files import write_results
from madzoo.evaluation.shard import Shard
from madzoo.evaluation.summary_table import summary_table
from madzoo.workflows.evaluate_pair import Outcome, measure_pair, read_rows, stored_pair, write_pair
from madzoo.workflows.evaluate_plan import SkippedPair, plan_pairs
from madzoo.workflows.processes import process_shard

__all__ = ["Spread", "Sweep", "TABLE", "evaluate_all"]

TABLE = "table.md"
logger = logging.getLogger(__name__)

Task = Mapping[str, Any]  # the keywords of measure_pair
Spread = Callable[[Sequence[Task]], Iterable[Outcome]]  # computes tasks elsewhere; outcomes come in any order


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """States what a sweep did and what its folder now holds.

    Attributes:
        out: the folder.
        rows: every result in it, also those of earlier runs, in the order of benchmarks and models.
        outcomes: of this run's pairs.
        skipped: pairs that do not fit.
    """

    out: Path
    rows: tuple[ResultRow, ...]
    outcomes: tuple[Outcome, ...]
    skipped: tuple[SkippedPair, ...]

    def count(self, status: str) -> int:
        """Returns how many pairs were ``"measured"``, ``"kept"`` or ``"failed"``."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The pairs without a result."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")


def evaluate_all(
    benchmark: str,
    *,
    out: Path | str,
    pattern: str = "*",
    data_dir: Path | str | None = None,
    batch_size: int = 256,
    spread: Spread | None = None,
) -> Sweep:
    """Measures every bundled model on every benchmark that it fits.

    Each pair is one file in ``out/pairs``; a run that was killed goes on where it stopped, and a pair is measured again
    only when its weights, data or settings have changed. After every pair the files are merged into results.json, .csv
    and .parquet and ``table.md``, which hold what earlier runs into the same folder found too.

    Under torchrun the processes share every benchmark; the first alone writes.

    Args:
        benchmark: see :func:`madzoo.workflows.evaluate_plan.plan_pairs`.
        out: the folder of the results.
        pattern: a shell pattern of full names.
        data_dir: local data folder; see :func:`madzoo.data.catalog.data_dir`.
        batch_size: samples at a time; the numbers do not depend on it.
        spread: computes the pairs elsewhere, see :mod:`madzoo.workflows.ray_tasks`; None: here, one after another.

    Raises:
        ConfigError: when no model or benchmark has such a name, or processes share benchmarks that are spread already.
        CheckpointError: when the folder cannot be written.
    """
    out = Path(out)
    pairs, skipped = plan_pairs(benchmark, pattern=pattern)
    tasks = [{"pair": pair, "out": out, "data_dir": data_dir, "batch_size": batch_size} for pair in pairs]
    shard = process_shard()
    if spread is not None and shard.world > 1:
        raise ConfigError("tasks that are spread are not shared as well.", asked=f"{shard.world} processes")
    found = _one_by_one(tasks, shard) if spread is None else spread([_with_stored(task) for task in tasks])
    outcomes = list(_kept(found, out, len(pairs), shard))
    order = {pair: place for place, pair in enumerate(pairs)}
    outcomes.sort(key=lambda outcome: order[outcome.pair])
    rows = shard.first(lambda: _sorted(read_rows(out)))  # which it has written last
    return Sweep(out=out, rows=tuple(rows), outcomes=tuple(outcomes), skipped=tuple(skipped))


def _one_by_one(tasks: Sequence[Task], shard: Shard) -> Iterator[Outcome]:
    for task in tasks:
        # The first process says what is stored: the others must not decide otherwise.
        ready = shard.first(lambda task=task: _with_stored(task))
        yield measure_pair(**ready, shard=shard)


def _with_stored(task: Task) -> dict[str, Any]:
    return {**task, "stored": stored_pair(task["out"], task["pair"])}


def _kept(found: Iterable[Outcome], out: Path, count: int, shard: Shard) -> Iterator[Outcome]:
    """Writes and tells each outcome as it comes."""
    for place, outcome in enumerate(found, start=1):
        if shard.rank == 0:
            if outcome.status == "measured":
                write_pair(out, outcome)
            if outcome.status == "measured" or place == count:
                _merge(out)
            logger.info("[%d/%d] %s: %s", place, count, outcome.pair, _said(outcome))
        yield outcome


def _merge(out: Path) -> None:
    rows = _sorted(read_rows(out))
    write_results(rows, out)
    (out / TABLE).write_text(summary_table(rows), encoding="utf-8")
    for model in dict.fromkeys(row.model for row in rows):
        write_submissions([row for row in rows if row.model == model], out)


def _sorted(rows: Iterable[ResultRow]) -> list[ResultRow]:
    order = {name: place for place, name in enumerate(BENCHMARKS)}
    return sorted(rows, key=lambda row: (order.get(row.benchmark, len(order)), row.model))


def _said(outcome: Outcome) -> str:
    if outcome.row is None:
        return f"failed: {outcome.why}"
    metric, value = next(iter(outcome.row.metrics.items()))
    seconds = f", {outcome.row.seconds:.1f} s" if outcome.status == "measured" else ""
    return f"{outcome.status}, {metric} {value:.4f}{seconds}"
