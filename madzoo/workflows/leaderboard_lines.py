"""The lines of the board: what each model, ablation and baseline scored, each once."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from madzoo.workflows.leaderboard_benchmarks import key_of
from madzoo.workflows.leaderboard_rows import BoardRow, Source

__all__ = ["Line", "Weights", "lines_of", "merge"]

Kind = Literal["model", "ablation", "baseline"]
Weights = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """States what one model, ablation or baseline scored.

    Attributes:
        kind: ``"model"``, ``"ablation"`` or ``"baseline"``.
        name: the model's full name, or what the ablation or the baseline is.
        beside: the model that it was measured with, empty for a model.
        weights: name and hash of the weights, the key of the board's ``models``; None for other kinds.
        rank: among the models of its benchmark; None for other kinds, for a model that saw the tested data, and without
            the main metric.
        metrics, intervals: see :class:`madzoo.evaluation.ResultRow`.
        relative: the main error in units of the seasonal naive forecast's; None where there is none.
        spread: metric -> (mean, standard deviation) over ``seeds`` training runs, the line's own among them.
        trained_on_it: whether the model was trained on the benchmark's own training part; None where unknown.
        leaked: whether its training data held the tested rows; None where unknown.
        row: the row behind it; for a baseline that of the model beside it.
        source: where the row was found.
    """

    kind: Kind
    name: str
    beside: str = ""
    weights: Weights | None = None
    rank: int | None = None
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    relative: float | None = None
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seeds: int = 1
    trained_on_it: bool | None = None
    leaked: bool | None = None
    row: BoardRow
    source: str


def lines_of(source: Source) -> Iterator[Line]:
    """Yields a line for each row of a source, each baseline beside it, and each ablation."""
    for row in source.rows:
        yield _model_line(row, [other for other in source.other_seeds if key_of(other) == key_of(row)], source.label)
        for name, metrics in row.baselines.items():
            yield Line(kind="baseline", name=name, beside=row.model, metrics=metrics, row=row, source=source.label)
    for row in source.ablations:
        yield Line(
            kind="ablation",
            name=row.model,
            beside=source.name or "",
            metrics=row.metrics,
            intervals=row.intervals,
            row=row,
            source=source.label,
        )


def _model_line(row: BoardRow, siblings: Sequence[BoardRow], label: str) -> Line:
    spread = {}
    for name in row.metrics if siblings else ():
        values = [other.metrics[name] for other in (row, *siblings) if name in other.metrics]
        if len(values) == len(siblings) + 1:
            spread[name] = (statistics.fmean(values), statistics.stdev(values))
    return Line(
        kind="model",
        name=row.model,
        weights=(row.model, row.weights_sha256),
        metrics=row.metrics,
        intervals=row.intervals,
        spread=spread,
        seeds=1 + len(siblings),
        trained_on_it=_said(row, "trained_on_this_dataset"),
        leaked=_said(row, "testdata_leakage"),
        row=row,
        source=label,
    )


def _said(row: BoardRow, name: str) -> bool | None:
    value = row.settings.get(name)
    return value if isinstance(value, bool) else None


def merge(lines: Iterable[Line]) -> list[Line]:
    """Returns the lines in order, of those that say the same the last.

    A row of the same model, weights and benchmark as an earlier one takes its place; seed, number of configurations and
    spread over seeds are kept where the later does not know them. An ablation that is a model's own line is dropped.
    """
    kept: dict[Any, Line] = {}
    for line in lines:
        key = _identity(line)
        if line.kind == "model" and key in kept:
            line = _complete(line, kept[key])
        elif line.kind == "baseline" and key in kept:
            continue
        kept[key] = line
    known = {(line.row.weights_sha256, key_of(line.row)) for line in kept.values() if line.kind == "model"}
    return [
        line
        for line in kept.values()
        if line.kind != "ablation"
        or line.row.weights_sha256 is None
        or (line.row.weights_sha256, key_of(line.row)) not in known
    ]


def _identity(line: Line) -> Any:
    if line.kind == "model":
        return (line.kind, line.weights, line.row.seed if line.row.weights_sha256 is None else None, key_of(line.row))
    numbers = tuple((name, f"{value:.6g}") for name, value in sorted(line.metrics.items()))
    beside = line.beside if line.kind == "ablation" else ""
    return (line.kind, line.name, beside, numbers, key_of(line.row))


def _complete(line: Line, old: Line) -> Line:
    known = {name: getattr(old.row, name) for name in ("seed", "configurations_tested")}
    missing = {name: value for name, value in known.items() if getattr(line.row, name) is None}
    seeds = {"spread": old.spread, "seeds": old.seeds} if old.seeds > line.seeds else {}
    return replace(line, row=line.row.model_copy(update=missing), **seeds)
