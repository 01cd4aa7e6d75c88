"""The board: every line of every benchmark, best first, baselines and ablations among the models."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from madzoo.workflows.leaderboard_benchmarks import Benchmark, Key, benchmark_of, key_of
from madzoo.workflows.leaderboard_facts import ModelFacts, facts_of, parameters_of
from madzoo.workflows.leaderboard_latency import Latency
from madzoo.workflows.leaderboard_lines import Line, Weights, lines_of, merge
from madzoo.workflows.leaderboard_rows import HUB, Source

__all__ = ["Board", "Group", "build_board"]

NAIVE = "seasonal_naive"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Holds a benchmark and its lines, best first."""

    benchmark: Benchmark
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """Holds everything a leaderboard shows.

    Attributes:
        groups: the benchmarks, those with most models first, images before series.
        models: (name, hash of the weights) -> what is known of them.
    """

    groups: tuple[Group, ...]
    models: Mapping[Weights, ModelFacts]


def build_board(sources: Sequence[Source], *, latencies: Mapping[str, Latency]) -> Board:
    """Sorts the rows of all sources into benchmarks.

    Weights found twice keep the facts of the first folder, and a folder on this disk comes before the Hub's.

    Args:
        sources: later rows take the place of earlier ones; see :func:`merge`.
        latencies: of models by their names; a repository of the Hub may only claim a name, so it gets none.

    Raises:
        CheckpointError, DataError: as :func:`facts_of`.
    """
    folders: dict[Weights, ModelFacts] = {}
    for source in sorted(sources, key=lambda source: source.label.startswith(HUB)):
        if source.folder is not None:
            known = {} if source.label.startswith(HUB) else latencies
            facts = facts_of(source, latency=known.get(str(source.name)))
            folders.setdefault((facts.name, facts.weights_sha256), facts)
    lines = merge(line for source in sources for line in lines_of(source))
    models = {line.weights: _facts(line, folders, latencies) for line in lines if line.weights is not None}
    lines = [_with_training(line, models) for line in lines]
    by_key: dict[Key, list[Line]] = defaultdict(list)
    for line in lines:
        by_key[key_of(line.row)].append(line)
    groups = [_group(found) for found in by_key.values()]
    order = sorted(groups, key=lambda group: (group.benchmark.task, -_models(group), group.benchmark.id))
    return Board(groups=tuple(_distinct(order)), models={key: models[key] for key in sorted(models, key=str)})


def _facts(line: Line, folders: Mapping[Weights, ModelFacts], latencies: Mapping[str, Latency]) -> ModelFacts:
    assert line.weights is not None  # a model's
    if line.weights in folders:
        return folders[line.weights]
    name, sha256 = line.weights
    return ModelFacts(
        name=name,
        weights_sha256=sha256,
        source=line.source,
        num_params=parameters_of(name),
        latency=latencies.get(name),
    )


def _with_training(line: Line, models: Mapping[Weights, ModelFacts]) -> Line:
    """Where the row does not say whether the model was trained on the data set, its configuration may."""
    if line.weights is None or line.trained_on_it is not None:
        return line
    trained_on = models[line.weights].trained_on
    return line if trained_on is None else replace(line, trained_on_it=line.row.dataset in trained_on.split("+"))


def _group(lines: Sequence[Line]) -> Group:
    benchmark = benchmark_of([line.row for line in lines if line.kind != "baseline"])
    lines = [replace(_labelled(line, lines), relative=_relative(line, benchmark)) for line in lines]
    sign = -1.0 if benchmark.higher_is_better else 1.0
    kinds = ("model", "ablation", "baseline")

    def order(line: Line) -> tuple[bool, float, int, str, str]:
        value = line.metrics.get(benchmark.metric)
        return (value is None, sign * (value or 0.0), kinds.index(line.kind), line.name, str(line.weights))

    ranked, rank = [], 0
    for line in sorted(lines, key=order):
        counts = line.kind == "model" and not line.leaked and benchmark.metric in line.metrics
        rank += counts
        ranked.append(replace(line, rank=rank) if counts else line)
    return Group(benchmark=benchmark, lines=tuple(ranked))


def _labelled(line: Line, lines: Sequence[Line]) -> Line:
    """Names a baseline's context where the same baseline was fitted on several."""
    if line.kind != "baseline":
        return line
    same = [other for other in lines if other.kind == "baseline" and other.name == line.name]
    name = line.name.replace("_", " ")
    context = line.row.settings.get("context_length")
    return replace(line, name=f"{name}, context {context}" if len(same) > 1 and context else name)


def _relative(line: Line, benchmark: Benchmark) -> float | None:
    naive = line.row.baselines.get(NAIVE, {}).get(benchmark.metric)
    value = line.metrics.get(benchmark.metric)
    return value / naive if naive and value is not None and not benchmark.higher_is_better else None


def _models(group: Group) -> int:
    return sum(line.kind == "model" for line in group.lines)


def _distinct(groups: Sequence[Group]) -> Iterable[Group]:
    """Benchmarks of one name but other data get the number of samples, then a number, behind their name."""
    taken: set[str] = set()
    for group in groups:
        name, count = group.benchmark.id, 2
        if name in taken:
            name = f"{name}, n={group.benchmark.n}"
        while name in taken:
            name, count = f"{group.benchmark.id}, n={group.benchmark.n}, {count}", count + 1
        taken.add(name)
        title = group.benchmark.title + name.removeprefix(group.benchmark.id)
        yield replace(group, benchmark=replace(group.benchmark, id=name, title=title))
