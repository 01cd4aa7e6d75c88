"""Where huggingface_hub's cache keeps a file, and whether what lies there is still what the Hub published."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from madzoo.checkpoint.patience import Patience
from madzoo.checkpoint.resolve import Location

__all__ = [
    "COMMIT",
    "DIGEST",
    "LOOK",
    "cached_path",
    "client_head",
    "locked",
    "matches",
    "place",
    "published_hash",
    "repo_cache",
    "watch",
]

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LOOK = 0.25  # seconds between two looks at what another process does


def repo_cache(location: Location, cache_dir: Path | None) -> Path:
    """Returns the folder that holds everything of one repository."""
    return Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{location.repo.replace('/', '--')}"


def cached_path(folder: Path, commit: str, file: str) -> Path:
    """Returns where a file of a commit lies, or would lie."""
    return folder / "snapshots" / commit / file


def published_hash(path: Path) -> str | None:
    """Returns the Hub's own hash of a cached file, which is the name of what it links to; None: not a link."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if DIGEST.fullmatch(name) else None


def matches(path: Path, digest: str, *, sha256: str) -> bool:
    """Tells whether a file has a hash of the Hub: a sha256 of 64 digits, or git's sha1 of 40.

    Args:
        path: the file.
        digest: the Hub's hash.
        sha256: the file's own.
    """
    return (_git_sha1(path) if COMMIT.fullmatch(digest) else sha256) == digest


def client_head(folder: Path, revision: str) -> str | None:
    """Returns the commit that huggingface_hub itself last saw a branch or tag at, or None."""
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def place(partial: Path, folder: Path, commit: str, file: str, *, digest: str) -> Path:
    """Moves a verified file into the cache in one step and returns the path that names it there."""
    blob, path = folder / "blobs" / digest, cached_path(folder, commit, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(blob)
    link = path.with_name(f".{path.name}.{digest[:8]}.link")
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:  # a file system without links keeps the file itself there, as huggingface_hub does
        blob.replace(path)
    else:
        link.replace(path)
    return path


@contextmanager
def locked(folder: Path, patience: Patience) -> Iterator[None]:
    """Keeps other processes and threads from writing into a repository's folder, once those that do have ended.

    Raises:
        TimeoutError: when another one holds the lock and gets nowhere.
    """
    file = folder.parent / ".locks" / folder.name / "madzoo.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        look = watch(folder, patience)
        while True:
            try:
                stack.enter_context(WeakFileLock(file, timeout=LOOK))
                break
            except TimeoutError:
                _wait(look, file)
        yield


def _wait(look: Callable[[], None], file: Path) -> None:
    try:
        look()
    except TimeoutError as error:
        raise TimeoutError(f"another process holds {file} and gets nowhere") from error


def watch(folder: Path, patience: Patience) -> Callable[[], None]:
    """Returns a function that renews patience when something has grown in a cache since it was last called.

    It raises TimeoutError when nothing has for too long.
    """
    seen = _size(folder)

    def look() -> None:
        nonlocal seen
        now = _size(folder)
        if now != seen:
            patience.renew()
            seen = now
        patience.check()

    return look


def _size(folder: Path) -> list[int]:
    sizes = []
    for path in sorted([*folder.glob("*"), *folder.glob("blobs/*")]):
        with suppress(FileNotFoundError):  # renamed in between
            sizes.append(path.stat().st_size)
    return sizes


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
