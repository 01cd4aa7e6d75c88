"""Checkpoint folders that the tests of the Hub publish: bundled ones, copied so that they can be spoiled."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import _http

from madzoo.checkpoint.folder import find_bundled

__all__ = ["FORECASTER", "IMAGE", "PACKED", "edit_json", "files_of", "hurry", "made"]

IMAGE = "weft_micro_patch8_32.cifar10"
PACKED = "weft_micro_patch8_32.cifar10-int4"
FORECASTER = "patch_s4d_nano_512_96.etth1"  # the smallest


def made(path: Path, name: str = FORECASTER) -> Path:
    """Copies a bundled folder to ``path/name`` and returns it."""
    return Path(shutil.copytree(find_bundled(name), path / name))


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_json(path: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps huggingface_hub from sleeping before it asks again."""
    clock = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(_http, "time", clock)
