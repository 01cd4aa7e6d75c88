"""The report files of a checkpoint folder: plain JSON, read whole, replaced atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madzoo.checkpoint.weights import atomic_path
from madzoo.errors import CheckpointError

__all__ = ["EVALUATION_FILE", "GEOMETRY_FILE", "QUANTIZATION_FILE", "read_report", "write_report"]

EVALUATION_FILE = "evaluation.json"
GEOMETRY_FILE = "geometry.json"
QUANTIZATION_FILE = "quantization.json"


def read_report(folder: Path, name: str) -> dict[str, Any] | None:
    """Returns the values of a report file, or None where the folder has none.

    Raises:
        CheckpointError: when the file is no JSON object.
    """
    path = Path(folder) / name
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(values, dict):
        raise _damaged(path, f"it holds a {type(values).__name__}")
    return values


def write_report(folder: Path, name: str, values: Mapping[str, Any]) -> Path:
    """Replaces a report file; returns its path.

    Raises:
        CheckpointError: when a value is no plain JSON (NaN is none), or the folder cannot be written.
    """
    path = Path(folder) / name
    try:
        text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} holds plain JSON only: {error}.", asked=path) from error
    with atomic_path(path) as partial:
        partial.write_bytes(text.encode("utf-8"))
    return path


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is no readable report: {why}.", asked=path, todo="remove it and compute it again")
