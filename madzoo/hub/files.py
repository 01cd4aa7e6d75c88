"""What a published folder may hold: plain files of a few kinds, none of which can run, each with the Hub's hashes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from madzoo.checkpoint.weights import read_metadata, sha256_of
from madzoo.errors import CheckpointError
from madzoo.hub.leaks import find_leaks, find_secrets

__all__ = ["LocalFile", "find_file_problems", "list_files"]

TEXT = (".md", ".json", ".yaml", ".csv", ".txt")
TEXT_NAMES = ("LICENSE", "LICENCE", "NOTICE", ".gitattributes")
IMAGES = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff"}
WEIGHTS = ".safetensors"
FOLDERS = (".eval_results",)
MIB = 2**20
LARGEST = {"text": 10 * MIB, "image": 10 * MIB, "weights": 50_000 * MIB}


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFile:
    """Names a file of a folder and holds what the Hub compares it by.

    Attributes:
        name: as in the repository, with slashes.
        path: on disk.
        size: in bytes.
        sha256: how the Hub names large files.
        git_sha1: how it names the others.
    """

    name: str
    path: Path
    size: int
    sha256: str
    git_sha1: str


def list_files(folder: Path) -> tuple[LocalFile, ...]:
    """Hashes the files of a folder, sorted by name."""
    return tuple(_hashed(name, path) for name, path in sorted(_walk(folder)) if path.is_file())


def find_file_problems(folder: Path) -> Iterator[str]:
    """Yields what keeps the files of a folder from being published, one sentence each."""
    for name, path in sorted(_walk(folder)):
        if path.is_dir():
            yield f"{name}/ is no part of a checkpoint folder: remove it"
        elif path.is_symlink() and not _stays_inside(path, folder):
            yield f"{name} is a link to something outside the folder: put the file itself there"
        elif not path.is_file():
            yield f"{name} is no file"
        else:
            yield from (f"{name} {why}" for why in _check(name, path))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for entry in folder.iterdir():
        if entry.name in FOLDERS and entry.is_dir() and not entry.is_symlink():
            yield from ((f"{entry.name}/{inner.name}", inner) for inner in entry.iterdir())
        else:
            yield entry.name, entry


def _stays_inside(path: Path, folder: Path) -> bool:
    """Allows links inside the folder, and those of huggingface_hub's cache from a snapshot to its own blobs."""
    target, root = path.resolve(), folder.resolve()
    is_cached = root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs"
    return is_cached or target.is_relative_to(root)


def _check(name: str, path: Path) -> Iterator[str]:
    kind = _kind(name)
    size = path.stat().st_size
    if kind is None:
        yield "is of no kind that is published (Markdown, JSON, YAML, CSV, text, PNG, JPEG, safetensors)"
    elif not size:
        yield "is empty"
    elif size > LARGEST[kind]:
        yield f"has {size / MIB:,.1f} MiB; at most {LARGEST[kind] / MIB:,.0f} are published"
    elif kind == "text":
        yield from _check_text(path)
    elif kind == "image":
        yield from _check_image(path)
    else:
        yield from _check_weights(path)


def _kind(name: str) -> str | None:
    base, suffix = name.rpartition("/")[2], Path(name).suffix
    if base in TEXT_NAMES or (suffix in TEXT and not base.startswith(".")):
        return "text"
    if base.startswith("."):
        return None
    return "image" if suffix in IMAGES else "weights" if suffix == WEIGHTS and "/" not in name else None


def _check_text(path: Path) -> Iterator[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        yield "is no UTF-8 text"
        return
    if "\0" in text:
        yield "is no text: it holds zero bytes"
    yield from (f"holds {leak}" for leak in find_leaks(text))
    if path.suffix == ".json":
        try:
            json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            yield f"is no plain JSON: {error}"


def _check_image(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    if not content.startswith(IMAGES[path.suffix]):
        yield f"is no {path.suffix.removeprefix('.').upper()} picture"
    yield from (f"holds {secret.partition(' in line')[0]}" for secret in find_secrets(content.decode("latin-1")))


def _check_weights(path: Path) -> Iterator[str]:
    try:
        read_metadata(path)
    except CheckpointError as error:
        yield f"is no safetensors file: {str(error).splitlines()[0]}"
        return
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little")).decode("utf-8")
    yield from (f"holds {leak.replace(' in line 1', '')} in its header" for leak in find_leaks(header))


def _hashed(name: str, path: Path) -> LocalFile:
    size = path.stat().st_size
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(MIB):
            git.update(block)
    return LocalFile(name=name, path=path, size=size, sha256=sha256_of(path), git_sha1=git.hexdigest())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
