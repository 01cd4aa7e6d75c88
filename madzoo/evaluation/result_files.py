"""Result rows as files: JSON whole, and one long table, a number a line, as CSV and Parquet."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from madzoo.errors import ConfigError
from madzoo.evaluation.result import ResultRow

__all__ = ["COLUMNS", "RESULTS_CSV", "RESULTS_JSON", "RESULTS_PARQUET", "long_table", "read_results", "write_results"]

RESULTS_JSON, RESULTS_CSV, RESULTS_PARQUET = "results.json", "results.csv", "results.parquet"
MODEL = "model"  # what ``scored`` says where the number is the model's own

# Column -> its dtype. Empty cells are missing values, which the nullable dtypes keep apart from 0 and False.
COLUMNS: Mapping[str, str] = {
    "model": "string",
    "benchmark": "string",
    "task": "string",
    "dataset": "string",
    "split": "string",
    "n": "Int64",
    "scored": "string",
    "metric": "string",
    "value": "float64",
    "low": "Float64",
    "high": "Float64",
    "seed": "Int64",
    "configurations_tested": "Int64",
    "trained_on_this_dataset": "boolean",
    "testdata_leakage": "boolean",
    "weights_sha256": "string",
    "weights_commit": "string",
    "data_fingerprint": "string",
    "seconds": "float64",
    "threads": "Int64",
    "madzoo": "string",
    "torch": "string",
    "numpy": "string",
    "python": "string",
    "settings": "string",
}


def long_table(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """Returns a table with one line per model, benchmark, scored forecaster or classifier, and metric.

    ``scored`` is ``"model"``, or the name of the baseline that was measured on the same samples; the flags of leakage
    and the weights are the model's and empty for a baseline, which has seen no more than the benchmark allows.

    Example:
        >>> row = ResultRow(model="m", dataset="d", split="test", n=2, metrics={"mse": 1.5}, seconds=0.1)
        >>> long_table([row])[["model", "benchmark", "scored", "metric", "value"]].values.tolist()
        [['m', 'd', 'model', 'mse', 1.5]]
    """
    lines = [line for row in rows for line in _lines(row)]
    columns = {name: pd.Series([line.get(name) for line in lines], dtype=kind) for name, kind in COLUMNS.items()}
    return pd.DataFrame(columns)


def write_results(rows: Sequence[ResultRow], folder: Path | str) -> list[Path]:
    """Writes results.json, results.csv and results.parquet, each at once; returns their paths.

    The CSV holds every digit of a float64.

    Raises:
        ValueError: when a number is not finite, which JSON cannot say.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = long_table(rows)
    text = json.dumps([row.to_dict() for row in rows], indent=2, allow_nan=False) + "\n"
    written = []
    for name in (RESULTS_JSON, RESULTS_CSV, RESULTS_PARQUET):
        partial = folder / f".{name}.{os.getpid()}"
        if name == RESULTS_JSON:
            partial.write_text(text, encoding="utf-8")
        elif name == RESULTS_CSV:
            table.to_csv(partial, index=False, lineterminator="\n")
        else:
            table.to_parquet(partial, index=False)
        written.append(partial.replace(folder / name))
    return written


def read_results(path: Path | str) -> list[ResultRow]:
    """Reads the rows of a results.json, or of a folder that holds one.

    Raises:
        ConfigError: when there is none, or it holds anything else.
    """
    file = Path(path) / RESULTS_JSON if Path(path).is_dir() else Path(path)
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the results cannot be read: {error}.", asked=file, todo="madzoo evaluate --out") from error
    if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
        raise ConfigError("results are a list of rows.", asked=file, looked=type(values).__name__)
    return [ResultRow.from_dict(row) for row in values]


def _lines(row: ResultRow) -> Iterator[dict[str, Any]]:
    shared = {
        "model": row.model,
        "benchmark": row.benchmark,
        "task": row.task,
        "dataset": row.dataset,
        "split": row.split,
        "n": row.n,
        "data_fingerprint": row.data_fingerprint,
        **{name: row.versions.get(name) for name in ("madzoo", "torch", "numpy", "python")},
        "settings": json.dumps(row.settings, allow_nan=False, ensure_ascii=False),
    }
    of_model = {
        "seed": row.seed,
        "configurations_tested": row.configurations_tested,
        "trained_on_this_dataset": row.trained_on_this_dataset,
        "testdata_leakage": row.testdata_leakage,
        "weights_sha256": row.weights_sha256,
        "weights_commit": row.weights_commit,
        "seconds": row.seconds,
        "threads": row.threads,
    }
    for metric, value in row.metrics.items():
        low, high = row.intervals.get(metric, (None, None))
        yield {**shared, **of_model, "scored": MODEL, "metric": metric, "value": value, "low": low, "high": high}
    for baseline, metrics in row.baselines.items():
        for metric, value in metrics.items():
            yield {**shared, "scored": baseline, "metric": metric, "value": value}
