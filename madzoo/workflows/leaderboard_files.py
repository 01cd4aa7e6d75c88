"""The board as ``leaderboard.csv`` and ``leaderboard.json``: every number, in full, one line each."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from madzoo.workflows.leaderboard_board import Board, Group
from madzoo.workflows.leaderboard_facts import ModelFacts
from madzoo.workflows.leaderboard_lines import Line

__all__ = ["COLUMNS", "board_csv", "board_json"]

SCHEMA = 1
METRICS = ("top1", "top5", "nll", "ece", "mse", "mae", "mase", "sql", "wql", "wape", "smape", "coverage_80")
COLUMNS = (
    *("task", "benchmark", "position", "rank", "kind", "name", "beside", "metric", "value", "low", "high"),
    *("relative_to_seasonal_naive", *METRICS, "n", "dataset", "split", "horizon", "seed", "seeds", "mean_of_seeds"),
    *("sd_of_seeds", "configurations_tested", "trained_on_this_dataset", "testdata_leakage", "num_params"),
    *("size_bytes", "latency_ms", "local_dimension", "local_dimension_is", "upper_bound", "int8_cost", "int4_cost"),
    *("cost_unit", "packed_bits", "weights_sha256", "weights_commit", "data_fingerprint", "seconds", "threads"),
    *("madzoo", "torch", "numpy", "python", "source"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def board_csv(board: Board) -> str:
    """Returns one line for every line of the board, in its order.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for group in board.groups:
        for position, line in enumerate(group.lines, 1):
            writer.writerow({name: _cell(value) for name, value in _values(board, group, line, position).items()})
    return text.getvalue()


def board_json(board: Board, *, made_with: dict[str, str], command: str) -> str:
    """Returns the whole board: benchmarks with their lines, models with what their cards say.

    Raises:
        ValueError: never on what :func:`madzoo.workflows.leaderboard_rows.read_results` let pass; NaN is refused there.
    """
    values = {
        "schema": SCHEMA,
        "command": command,
        "made_with": made_with,
        "benchmarks": [_group(group) for group in board.groups],
        "models": [_facts(facts) for facts in board.models.values()],
    }
    return json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _values(board: Board, group: Group, line: Line, position: int) -> dict[str, Any]:
    benchmark, row = group.benchmark, line.row
    metric = benchmark.metric
    low, high = line.intervals.get(metric, (None, None))
    mean, deviation = line.spread.get(metric, (None, None))
    own = line.kind != "baseline"
    return {
        "task": benchmark.task,
        "benchmark": benchmark.id,
        "position": position,
        "rank": line.rank,
        "kind": line.kind,
        "name": line.name,
        "beside": line.beside,
        "metric": metric,
        "value": line.metrics.get(metric),
        "low": low,
        "high": high,
        "relative_to_seasonal_naive": line.relative,
        **{name: line.metrics.get(name) for name in METRICS},
        "n": benchmark.n,
        "dataset": benchmark.dataset,
        "split": benchmark.split,
        "horizon": benchmark.horizon,
        "seed": row.seed if own else None,
        "seeds": line.seeds if own else None,
        "mean_of_seeds": mean,
        "sd_of_seeds": deviation,
        "configurations_tested": row.configurations_tested if own else None,
        "trained_on_this_dataset": line.trained_on_it,
        "testdata_leakage": line.leaked,
        **(_columns(board.models[line.weights]) if line.weights else {}),
        "weights_sha256": row.weights_sha256 if own else None,
        "weights_commit": row.weights_commit if own else None,
        "data_fingerprint": row.data_fingerprint,
        "seconds": row.seconds if own else None,
        "threads": row.threads if own else None,
        **{name: (row.versions or {}).get(name) for name in ("madzoo", "torch", "numpy", "python")},
        "source": line.source,
    }


def _columns(facts: ModelFacts) -> dict[str, Any]:
    drop8, drop4 = facts.drops.get(8), facts.drops.get(4)
    drop = drop4 or drop8
    unit = None if drop is None else "points" if drop.points is not None else "percent of the error"
    bound = None if facts.row_limited is None else "a lower bound" if facts.row_limited else "the rank"
    return {
        "num_params": facts.num_params,
        "size_bytes": facts.size_bytes,
        "latency_ms": facts.latency.milliseconds if facts.latency else None,
        "local_dimension": facts.rank,
        "local_dimension_is": bound,
        "upper_bound": facts.upper_bound,
        "int8_cost": drop8.value if drop8 else None,
        "int4_cost": drop4.value if drop4 else None,
        "cost_unit": unit,
        "packed_bits": facts.packed_bits,
    }


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _group(group: Group) -> dict[str, Any]:
    lines = [_line(line) for line in group.lines]
    return asdict(group.benchmark) | {"higher_is_better": group.benchmark.higher_is_better, "lines": lines}


def _line(line: Line) -> dict[str, Any]:
    values = {name: getattr(line, name) for name in ("kind", "name", "beside", "rank", "relative", "seeds", "source")}
    values |= {"metrics": dict(line.metrics), "intervals": dict(line.intervals), "spread": dict(line.spread)}
    values |= {"trained_on_this_dataset": line.trained_on_it, "testdata_leakage": line.leaked}
    return values | {"row": dict(_row(line))}


def _row(line: Line) -> Iterator[tuple[str, Any]]:
    """What lies behind the line; a baseline shares data and settings with the model beside it, nothing else."""
    names = ("data_fingerprint", "versions", "settings")
    names += (
        ()
        if line.kind == "baseline"
        else ("weights_sha256", "weights_commit", "seed", "configurations_tested", "seconds", "threads")
    )
    yield from ((name, getattr(line.row, name)) for name in names)


def _facts(facts: ModelFacts) -> dict[str, Any]:
    values = {name: value for name, value in asdict(facts).items() if name != "folder"}
    return values | {"drops": {str(bits): drop for bits, drop in values["drops"].items()}}
