"""What a leaderboard is made from: result rows of files and of checkpoint folders, read strictly, never run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madzoo.checkpoint.card_records import Evaluation, Row
from madzoo.checkpoint.folder import CONFIG_FILE, bundled_root
from madzoo.checkpoint.report_files import EVALUATION_FILE
from madzoo.errors import DataError

__all__ = ["HUB", "RESULTS_FILE", "BoardRow", "Source", "bundled_sources", "read_card", "read_results"]

RESULTS_FILE = "results.json"
HUB = "hf-hub:"  # begins the label of a source on the Hub


class BoardRow(Row):
    """A result row with what a card does not show; see :class:`madzoo.evaluation.ResultRow`."""

    weights_commit: str | None = None
    data_fingerprint: str | None = None
    versions: dict[str, str] | None = None
    seconds: float | None = None
    threads: int | None = None


class BoardEvaluation(Evaluation):
    """``evaluation.json`` with whole rows."""

    rows: tuple[BoardRow, ...]  # type: ignore[assignment]
    other_seeds: tuple[BoardRow, ...] = ()  # type: ignore[assignment]
    ablations: tuple[BoardRow, ...] = ()  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Names where rows came from.

    Attributes:
        label: in words: ``"bundled"``, a file's name, or ``hf-hub:org/repo@commit``.
        folder: the checkpoint folder whose card tells more, None for rows alone.
        name: the model of the folder, as its ``config.json`` has it.
        rows, other_seeds, ablations: see :class:`madzoo.checkpoint.card_records.Evaluation`.
    """

    label: str
    folder: Path | None = None
    name: str | None = None
    rows: tuple[BoardRow, ...]
    other_seeds: tuple[BoardRow, ...] = ()
    ablations: tuple[BoardRow, ...] = ()


def bundled_sources() -> list[Source]:
    """Reads every bundled checkpoint folder.

    Raises:
        DataError: when a file of one is damaged.
    """
    return [read_card(folder.parent, label="bundled") for folder in sorted(bundled_root().glob(f"*/{CONFIG_FILE}"))]


def read_card(folder: Path, *, label: str) -> Source:
    """Reads a checkpoint folder; its weights need not be there.

    Raises:
        DataError: when it has no usable ``config.json``, or ``evaluation.json`` does not fit its schema.
    """
    config = _json(folder / CONFIG_FILE)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise DataError(f"{folder / CONFIG_FILE} names no model.", asked=folder, todo="madzoo card FOLDER")
    file = folder / EVALUATION_FILE
    try:
        found = BoardEvaluation.model_validate_json(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise _misfit(file, error) from error
    rows = found.rows if found else ()
    seeds, ablations = (found.other_seeds, found.ablations) if found else ((), ())
    return Source(label=label, folder=folder, name=name, rows=rows, other_seeds=seeds, ablations=ablations)


def read_results(path: Path | str) -> list[Source]:
    """Reads what ``madzoo evaluate --out`` wrote, a checkpoint folder, or a folder of either.

    Args:
        path: a JSON list of result rows; a folder with ``results.json`` or ``config.json``, or of such folders.

    Raises:
        DataError: when nothing of that is there, or a row does not fit.
    """
    path = Path(path)
    if path.is_file():
        return [Source(label=path.name, rows=tuple(_rows(path)))]
    found = _folder(path)
    if not found:
        found = [source for folder in sorted(p for p in path.glob("*") if p.is_dir()) for source in _folder(folder)]
    if not found:
        raise DataError(
            "no results are there.",
            asked=path,
            looked=f"{RESULTS_FILE} and {CONFIG_FILE}, there and one folder deeper",
            todo="madzoo evaluate NAME --benchmark B --out FOLDER",
        )
    return found


def _folder(path: Path) -> list[Source]:
    if (path / RESULTS_FILE).is_file():
        return [Source(label=f"{path.name}/{RESULTS_FILE}", rows=tuple(_rows(path / RESULTS_FILE)))]
    return [read_card(path, label=path.name)] if (path / CONFIG_FILE).is_file() else []


def _rows(file: Path) -> Iterator[BoardRow]:
    values: Any = _json(file)
    if isinstance(values, dict):
        values = values.get("rows")
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise DataError(f"{file} holds no list of result rows.", asked=file, todo="madzoo evaluate NAME --out FOLDER")
    for number, row in enumerate(values):
        try:
            yield BoardRow.model_validate_json(json.dumps(row))
        except ValueError as error:
            raise _misfit(file, error, number=number) from error


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no readable JSON: {error}.", asked=file) from error


def _misfit(file: Path, error: ValueError, *, number: int | None = None) -> DataError:
    details = getattr(error, "errors", list)()
    where = ".".join(str(part) for part in details[0]["loc"]) if details else ""
    why = details[0]["msg"] if details else str(error)
    place = ", ".join(part for part in ("" if number is None else f"row {number}", where) if part)
    return DataError(f"{file} does not fit: {place or 'the file'}: {why}.", asked=file, todo="madzoo evaluate --out")
