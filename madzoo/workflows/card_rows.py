"""The result rows that a checkpoint's own card reports, by the benchmark that each belongs to."""

from pathlib import Path

from madzoo.checkpoint.folder import find_bundled
from madzoo.checkpoint.report_files import EVALUATION_FILE, read_report
from madzoo.evaluation import BENCHMARKS, ResultRow
from madzoo.factory import list_models

__all__ = ["bundled_models", "card_rows", "recorded_rows"]


def bundled_models(pattern: str = "*") -> list[str]:
    """Returns the full names of the models whose checkpoints lie in the package, those that match a shell pattern."""
    return [name for name in list_models(pattern, pretrained=True) if find_bundled(name) is not None]


def recorded_rows(folder: Path | None) -> list[ResultRow]:
    """Returns the rows of a checkpoint folder's own weights; none where it has no evaluation.json.

    Raises:
        CheckpointError, ConfigError: when the file is damaged.
    """
    report = read_report(folder, EVALUATION_FILE) if folder is not None else None
    return [ResultRow.from_dict(row) for row in (report or {}).get("rows", ())]


def card_rows(name: str) -> dict[str, ResultRow]:
    """Returns benchmark -> row of a bundled model's card; rows that are of no registered benchmark are left out.

    Raises:
        CheckpointError, ConfigError: when evaluation.json is damaged.
    """
    rows = {row.benchmark: row for row in recorded_rows(find_bundled(name)) if row.split == "test"}
    return {benchmark: row for benchmark, row in rows.items() if benchmark in BENCHMARKS}
