"""A model's name and a data set's name in, result rows out; they may be recorded in a checkpoint folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from madzoo.checkpoint.folder import read_folder
from madzoo.checkpoint.report_files import EVALUATION_FILE, read_report, write_report
from madzoo.errors import CheckpointError, ConfigError
from madzoo.evaluation import ResultRow
from madzoo.evaluation import evaluate as measure
from madzoo.evaluation.evaluate import Benchmark
from madzoo.evaluation.leaderboards import write_leaderboards
from madzoo.workflows.benchmarks import load_benchmark
from madzoo.workflows.processes import process_shard
from madzoo.workflows.registered_benchmarks import load_registered
from madzoo.workflows.weights_record import create_measured, weights_record

__all__ = ["ROLES", "evaluate", "record_rows"]

SCHEMA = 1
ROLES = ("rows", "other_seeds", "ablations")


def evaluate(
    name: Path | str,
    dataset: str | None = None,
    *,
    benchmark: str | None = None,
    split: str = "test",
    horizon: int | None = None,
    data_dir: Path | str | None = None,
    batch_size: int = 256,
    seed: int | None = None,
    configurations_tested: int | None = None,
    record_in: Path | str | None = None,
    out: Path | str | None = None,
) -> list[ResultRow]:
    """Measures a model, with its own weights, on a data set of the catalog or on registered benchmarks.

    Under torchrun the processes share every benchmark, each takes whole batches in turn; all return the same rows as
    one process, and the first alone writes.

    Args:
        name: a model's name, or a checkpoint folder.
        dataset: for instance ``"fashion_mnist"`` or ``"etth1"``; None with a benchmark.
        benchmark: one of :data:`madzoo.evaluation.BENCHMARKS`, or the beginning of several, or such names with commas
            between; it sets split and horizon.
        split: ``"test"``, ``"validation"`` or ``"train"``.
        horizon: steps to forecast; see :func:`madzoo.workflows.benchmarks.load_benchmark`.
        data_dir: local data folder; see :func:`madzoo.data.catalog.data_dir`.
        batch_size: samples at a time; the numbers do not depend on it.
        seed: of the training run, for the record; None: as the checkpoint's evaluation.json has it.
        configurations_tested: of this model, that ever met the split, for the record.
        record_in: a checkpoint folder whose evaluation.json gets the rows; its weights must be the ones measured.
        out: a folder that gets the rows as JSON, CSV, Parquet, a Markdown table, and in the leaderboards' formats.

    Raises:
        ConfigError: when the data set is unknown, or not for this model; when there is not just one of data set and
            benchmark, or a benchmark has another split or horizon.
        DataError: when the data cannot be read.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if (dataset is None) == (benchmark is None) or (benchmark is not None and (split != "test" or horizon is not None)):
        asked = f"data set {dataset}, benchmark {benchmark}, split {split}, horizon {horizon}"
        todo = "a data set; or benchmark= alone, which sets split and horizon"
        raise ConfigError("a model is measured on a data set or on a benchmark.", asked=asked, todo=todo)
    shared: Any = {"batch_size": batch_size, "folder": data_dir}

    def load() -> tuple[Any, Sequence[Benchmark]]:
        model = create_measured(name)
        if benchmark is not None:
            return model, load_registered(model, benchmark, **shared)
        return model, [load_benchmark(model, str(dataset), split=split, horizon=horizon, **shared)]

    shard = process_shard()
    model, loaded = shard.together(load)
    record: Any = weights_record(name, model, seed=seed) | {"configurations_tested": configurations_tested}
    rows = [row for one in loaded for row in measure(model, one, **record, shard=shard)]
    if shard.rank == 0 and record_in is not None:
        record_rows(record_in, rows)
    if shard.rank == 0 and out is not None:
        is_fitted = any(True for _ in model.parameters())
        write_leaderboards(rows, out, model_type=None if is_fitted else "statistical")
    return rows


def record_rows(folder: Path | str, rows: Sequence[ResultRow], *, role: str = "rows", label: str | None = None) -> Path:
    """Writes rows into a folder's evaluation.json; returns its path.

    A row takes the place of one on the same data (and, beside the checkpoint itself, of the same label and seed).
    What a new row of these weights does not know, its seed and the number of configurations, is kept from the old.
    Rows of other weights than the folder's are dropped from ``"rows"`` when the weights have changed.

    Args:
        folder: a checkpoint folder.
        rows: what :func:`evaluate` returned.
        role: ``"rows"`` (of the folder's weights), ``"other_seeds"`` (the same recipe) or ``"ablations"``.
        label: what the card calls them in place of the model's name.

    Raises:
        ConfigError: on an unknown role.
        CheckpointError: when a row of role ``"rows"`` is of other weights than the folder's.
    """
    if role not in ROLES:
        raise ConfigError(f"there is no role {role!r}.", asked=role, looked=", ".join(ROLES))
    checkpoint = read_folder(folder)
    present = read_report(checkpoint.path, EVALUATION_FILE) or {}
    kept = [ResultRow.from_dict(row) for row in present.get(role, ())]
    if role == "rows":
        kept = [row for row in kept if row.weights_sha256 == checkpoint.sha256]
    for row in rows:
        if role == "rows" and row.weights_sha256 != checkpoint.sha256:
            raise CheckpointError(
                "the row is of other weights than the folder's.",
                asked=f"{row.model} on {row.dataset}, weights {row.weights_sha256}",
                resolved=f"{checkpoint.path}, weights {checkpoint.sha256}",
                todo="role='other_seeds' or 'ablations'",
            )
        kept = _replace(kept, dataclasses.replace(row, model=label) if label else row, role)
    lists = {name: present.get(name, []) for name in ROLES} | {role: [row.to_dict() for row in kept]}
    values = {"schema": SCHEMA, "weights_sha256": checkpoint.sha256, **{k: v for k, v in lists.items() if v}}
    return write_report(checkpoint.path, EVALUATION_FILE, {"rows": [], **values})


def _replace(kept: list[ResultRow], row: ResultRow, role: str) -> list[ResultRow]:
    old = next((other for other in kept if _key(other, role) == _key(row, role)), None)
    if old is None:
        return [*kept, row]
    known = {name: getattr(old, name) for name in ("seed", "configurations_tested") if getattr(row, name) is None}
    return [dataclasses.replace(row, **known) if other is old else other for other in kept]


def _key(row: ResultRow, role: str) -> tuple[Any, ...]:
    key = (row.dataset, row.split, row.settings.get("horizon"))
    return key if role == "rows" else (*key, row.model, row.seed)
