"""The cells of a task's table: what is written, and the number it is sorted by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from madzoo.workflows.leaderboard_benchmarks import ASIDE, SERIES
from madzoo.workflows.leaderboard_board import Board, Group
from madzoo.workflows.leaderboard_facts import ModelFacts
from madzoo.workflows.leaderboard_lines import Line, Weights
from madzoo.workflows.leaderboard_rows import HUB
from madzoo.workflows.leaderboard_text import (
    METRICS,
    cost,
    dimension,
    interval,
    label,
    meaning,
    millions,
    number,
    score,
    spread,
)

__all__ = ["Cell", "Column", "TableRow", "tags_of", "task_columns", "task_rows"]

MAIN = "main"
HINTS = {
    "relative": ("÷ naive", "Main error in units of the seasonal naive forecast's: below 1 is better than it."),
    "interval": ("95 % interval", "Of the main metric: Wilson for images, block bootstrap for forecasts."),
    "seeds": (
        "± sd (seeds)",
        "Standard deviation of the main metric over training runs, and how many; their mean is on the model's page.",
    ),
    "params": ("Params, M", "Parameters, in millions."),
    "size": ("File, MB", "Size of the weight file, in millions of bytes."),
    "latency": ("Latency, ms", "One input on one thread of a CPU: median. The foot of the page names the machine."),
    "dimension": ("Local dim.", "Rank of the Jacobian of the outputs; ≥: the sample limited it."),
    "int4": (
        "At 4 bits",
        "What rounding every weight to 4 bits costs: points of top-1, or per cent of the error. On validation.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Describes a column: its key, heading and explanation, whether less comes first, and the metric it holds."""

    key: str
    label: str
    hint: str
    ascending: bool = True
    metric: str | None = None
    optional: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Holds what is written and what is compared; None comes last in either order."""

    text: str
    order: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """Holds a line with its cells, by the columns' keys, and its tags: (words, kind)."""

    id: str
    benchmark: str
    line: Line
    weights: Weights | None
    tags: tuple[tuple[str, str], ...]
    cells: Mapping[str, Cell]


def task_columns(groups: Sequence[Group], rows: Sequence[TableRow]) -> list[Column]:
    """Returns the columns in which any row says something; of forecasts, one metric at a time is the main one."""
    task = groups[0].benchmark.task
    used = dict.fromkeys(name for group in groups for name in group.benchmark.metrics)
    names = [*(name for name in METRICS if name in used), *(name for name in used if name not in METRICS)]
    if task == SERIES:
        main = Column(key=MAIN, label="Score", hint="The benchmark's main error, named above its lines.")
    else:
        main = Column(key=MAIN, label=label("top1"), hint=meaning("top1"), ascending=False)
        names.remove("top1")
    metrics = [
        Column(
            key=name,
            label=label(name),
            hint=meaning(name),
            ascending=name != "top5",
            metric=name,
            optional=task == SERIES and name not in ASIDE,
        )
        for name in names
    ]
    others = {key: Column(key=key, label=name, hint=hint) for key, (name, hint) in HINTS.items()}
    columns = [main, others.pop("relative"), others.pop("interval"), *metrics, *others.values()]
    return [column for column in columns if any(row.cells[column.key].order is not None for row in rows)]


def task_rows(board: Board, groups: Sequence[Group]) -> list[TableRow]:
    """Returns every line of a task's benchmarks, best first."""
    names = dict.fromkeys(name for group in groups for name in group.benchmark.metrics)
    return [
        TableRow(
            id=f"{group.benchmark.id}/{position}",
            benchmark=group.benchmark.id,
            line=line,
            weights=line.weights,
            tags=tags_of(line, board.models.get(line.weights) if line.weights else None, group.benchmark.task),
            cells=_scores(line, group.benchmark.metric, names)
            | _costs(board.models.get(line.weights) if line.weights else None),
        )
        for group in groups
        for position, line in enumerate(group.lines)
    ]


def tags_of(line: Line, facts: ModelFacts | None, task: str) -> tuple[tuple[str, str], ...]:
    """Returns what must be known beside a name, in words, and of which kind it is."""
    tags = []
    if line.kind == "baseline":
        tags.append(("baseline", "baseline"))
    if line.kind == "ablation":
        tags.append((f"ablation of {line.beside}" if line.beside else "ablation", "ablation"))
    if line.leaked:
        tags.append(("⚠ saw the tested data", "leak"))
    if line.kind == "model" and task == SERIES:
        words = {True: "trained on it", False: "zero-shot", None: "training data unknown"}[line.trained_on_it]
        tags.append((words, "training"))
    if facts is not None and facts.packed_bits:
        tags.append((f"{facts.packed_bits}-bit file", "packed"))
    if line.source.startswith(HUB):
        tags.append((line.source.partition("@")[0], "hub"))
    return tuple(tags)


def _scores(line: Line, metric: str, names: Mapping[str, None]) -> dict[str, Cell]:
    edges = line.intervals.get(metric)
    deviation = line.spread.get(metric, (None, None))[1]
    return {
        MAIN: Cell(text=score(metric, line.metrics.get(metric)), order=line.metrics.get(metric)),
        "interval": Cell(text=interval(metric, edges), order=None if edges is None else edges[1] - edges[0]),
        "relative": Cell(text="" if line.relative is None else f"{line.relative:.3f}", order=line.relative),
        "seeds": Cell(text=spread(metric, deviation, line.seeds), order=deviation),
        **{name: Cell(text=score(name, line.metrics.get(name)), order=line.metrics.get(name)) for name in names},
    }


def _costs(facts: ModelFacts | None) -> dict[str, Cell]:
    if facts is None:
        return {key: Cell(text="") for key in ("params", "size", "latency", "dimension", "int4")}
    latency = facts.latency.milliseconds if facts.latency else None
    drop = facts.drops.get(4)
    return {
        "params": Cell(text=millions(facts.num_params), order=facts.num_params),
        "size": Cell(text=millions(facts.size_bytes), order=facts.size_bytes),
        "latency": Cell(text=number(latency) if latency is None else f"{latency:,.1f}", order=latency),
        "dimension": Cell(text=dimension(facts), order=facts.rank),
        "int4": Cell(text=cost(drop), order=drop.value if drop else None),
    }
