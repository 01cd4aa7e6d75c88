"""What a first pull fixed for all later ones: commits and hashes, in one small JSON file inside the cache."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madzoo.checkpoint.weights import atomic_path
from madzoo.errors import CheckpointError

__all__ = ["PIN_FILE", "read_head", "read_pin", "write_head", "write_pin"]

PIN_FILE = "madzoo_pins.json"


def read_pin(folder: Path, revision: str, file: str) -> tuple[str | None, str | None]:
    """Returns the commit pinned for a revision and the sha256 pinned for a file of it; None where nothing is pinned.

    Raises:
        CheckpointError: when the record is damaged.
    """
    pin = _read(folder)["pins"].get(revision, {})
    return pin.get("commit"), pin.get("sha256", {}).get(file)


def write_pin(folder: Path, revision: str, file: str, *, commit: str, sha256: str) -> None:
    """Records the commit of a revision and the sha256 of one of its files.

    Raises:
        CheckpointError: when the record cannot be written.
    """
    record = _read(folder)
    hashes = record["pins"].get(revision, {}).get("sha256", {})
    pin = {"commit": commit, "sha256": {**hashes, file: sha256}}
    _write(folder, {**record, "pins": {**record["pins"], revision: pin}})


def read_head(folder: Path, revision: str) -> str | None:
    """Returns the commit that a branch or tag was last seen at, or None.

    Raises:
        CheckpointError: when the record is damaged.
    """
    return _read(folder)["heads"].get(revision)


def write_head(folder: Path, revision: str, commit: str) -> None:
    """Records where a branch or tag was seen, for use without a network.

    Raises:
        CheckpointError: when the record cannot be written.
    """
    record = _read(folder)
    if record["heads"].get(revision) != commit:
        _write(folder, {**record, "heads": {**record["heads"], revision: commit}})


def _read(folder: Path) -> dict[str, Any]:
    file = folder / PIN_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not _is_record(record):
            raise ValueError("not a record of pins")
    except FileNotFoundError:
        return {"pins": {}, "heads": {}}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the record of pinned weights {file} is damaged: {error}.",
            asked=file,
            todo="delete it; the next pull pins anew what it finds",
        ) from error
    return record


def _is_record(record: object) -> bool:
    if not isinstance(record, dict) or set(record) != {"pins", "heads"}:
        return False
    pins, heads = record["pins"], record["heads"]
    if not isinstance(pins, dict) or not isinstance(heads, dict):
        return False
    return all(isinstance(commit, str) for commit in heads.values()) and all(map(_is_pin, pins.values()))


def _is_pin(pin: object) -> bool:
    return (
        isinstance(pin, dict)
        and isinstance(pin.get("commit"), str)
        and isinstance(pin.get("sha256"), dict)
        and all(isinstance(value, str) for value in pin["sha256"].values())
    )


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    with atomic_path(folder / PIN_FILE) as partial:
        partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
