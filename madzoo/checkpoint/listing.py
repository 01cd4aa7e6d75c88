"""What a commit of the Hub holds: asked in one request, kept in the cache, and never asked again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from huggingface_hub import get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from madzoo.checkpoint.cache import COMMIT, DIGEST
from madzoo.checkpoint.network import endpoint
from madzoo.checkpoint.patience import Patience
from madzoo.checkpoint.weights import atomic_path

__all__ = ["Listing", "ask_listing", "may_hold", "read_listing", "write_listing"]

PLAIN = {".json", ".safetensors", ".md", ".yaml", ".yml", ".csv", ".parquet", ".txt", ".png", ".svg", ".jpg", ".jpeg"}
NAMES = {"LICENSE", "LICENCE", "NOTICE"}
LARGEST = 64 << 20  # bytes of a list that is still read


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Names every file of one commit.

    Attributes:
        commit: of the repository.
        files: names, and the Hub's hash of each; None where it tells none.
    """

    commit: str
    files: Mapping[str, str | None]


def may_hold(name: str) -> bool:
    """Tells whether a checkpoint folder may hold a file of this name: plain data inside the folder, never code.

    Example:
        >>> [may_hold(name) for name in ("config.json", ".eval_results/a.yaml", "weights.pth", "run.py", "../a.json")]
        [True, True, False, False, False]
    """
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\:\0") and str(path) == name
    return is_inside and (path.suffix.lower() in PLAIN or path.name in NAMES)


def ask_listing(repo: str, revision: str, *, patience: Patience) -> Listing:
    """Asks the Hub which commit a revision stands for, and what it holds.

    Raises:
        OSError: when no Hub answers; huggingface_hub's errors when one refuses.
    """
    url = f"{endpoint()}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    text = bytearray()
    headers = build_hf_headers(library_name="madzoo")
    with get_session().stream("GET", url, headers=headers, timeout=patience.timeout) as response:
        hf_raise_for_status(response)
        for part in response.iter_bytes():
            text += part
            patience.reach(len(text))
            if len(text) > LARGEST:
                raise OSError(f"the list of files that {url} sends does not end")
    return _parsed(bytes(text), url)


def read_listing(folder: Path, commit: str) -> Listing | None:
    """Returns the list kept in the cache, or None where there is none that can be read."""
    try:
        files = json.loads(_file(folder, commit).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_list = isinstance(files, dict) and all(isinstance(digest, str | None) for digest in files.values())
    return Listing(commit=commit, files=files) if is_list else None


def write_listing(folder: Path, listing: Listing) -> None:
    """Keeps a list in the cache, for use without a network.

    Raises:
        CheckpointError: when it cannot be written.
    """
    with atomic_path(_file(folder, listing.commit)) as partial:
        partial.write_text(json.dumps(dict(listing.files), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _file(folder: Path, commit: str) -> Path:
    return folder / "madzoo_files" / f"{commit}.json"


def _parsed(text: bytes, url: str) -> Listing:
    try:
        told = json.loads(text)
        commit = told["sha"]
        files = {entry["rfilename"]: _digest(entry) for entry in told["siblings"]}
        if not COMMIT.fullmatch(commit):
            raise ValueError(f"{commit!r} is no commit")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise OSError(f"{url} names no commit and its files, so that no Hub seems to answer there") from error
    return Listing(commit=commit, files=files)


def _digest(entry: Mapping) -> str | None:
    lfs = entry.get("lfs")
    digest = lfs.get("sha256") if lfs else entry.get("blobId")
    return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else None
