"""The only network read: files of the Hub and release files, verified, and pinned where no hash was known before."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError as ReleaseError
from urllib.parse import urlsplit
from urllib.request import urlopen

from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from madzoo.checkpoint.folder import CONFIG_FILE, GOLDEN_FILE, WEIGHTS_FILE, read_folder
from madzoo.checkpoint.pins import read_head, read_pin, write_head, write_pin
from madzoo.checkpoint.resolve import Location
from madzoo.checkpoint.weights import atomic_path, sha256_of
from madzoo.errors import ConfigError, DownloadError

__all__ = ["NETWORK", "Pulled", "pull_file", "pull_folder"]

PAUSES = (0.5, 1.0)  # seconds between the three tries of a request that a server failed to answer
TIMEOUT = 30.0  # seconds without a byte from a release page
COMMIT = re.compile(r"[0-9a-f]{40}")
NETWORK = (HTTPError, errors.EntryNotFoundError, http.client.HTTPException, OSError)
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """Names a file in the cache that was verified just now.

    Attributes:
        path: the file.
        sha256: of its content.
    """

    path: Path
    sha256: str


def pull_file(location: Location, *, cache_dir: Path | None = None) -> Pulled:
    """Returns one verified file: from the cache where it is there, else over the network.

    A pinned location without commit or sha256 takes what the first pull finds, records both in the cache, says so
    once in the log, and accepts nothing else later.

    Args:
        location: of kind ``"hub"`` or ``"url"``.
        cache_dir: None: that of huggingface_hub.

    Raises:
        DownloadError: when the file is neither cached nor reachable, or arrives damaged twice.
    """
    if location.kind == "url":
        return _pull_release(location, cache_dir)
    folder, revision = _repo_cache(location, cache_dir), location.revision or "main"
    if not location.pinned:
        return _fetch(location, _follow(location, folder), cache_dir)
    commit, sha256 = read_pin(folder, revision, location.file)
    commit = commit or _follow(location, folder)
    pulled = _fetch(replace(location, sha256=location.sha256 or sha256), commit, cache_dir)
    if not (sha256 or (location.sha256 and COMMIT.fullmatch(revision))):
        write_pin(folder, revision, location.file, commit=commit, sha256=pulled.sha256)
        logger.warning("pinned %s of %s at commit %s, sha256 %s", location.file, location.repo, commit, pulled.sha256)
    return pulled


def pull_folder(location: Location, *, weights: bool, golden: bool, cache_dir: Path | None = None) -> Path:
    """Returns a checkpoint folder of the Hub in the cache, all files of one commit.

    Args:
        location: of kind ``"hub"``; a branch is followed whenever the Hub can be reached.
        weights: fetch the weight file.
        golden: fetch the golden tensors.
        cache_dir: None: that of huggingface_hub.

    Raises:
        CheckpointError: when ``config.json`` is not madzoo's.
        DownloadError: when a file is neither cached nor reachable, or arrives damaged twice.
    """
    location = replace(location, file=CONFIG_FILE)
    commit = _follow(location, _repo_cache(location, cache_dir))
    folder = _fetch(location, commit, cache_dir).path.parent
    checkpoint = read_folder(folder)
    if weights:
        _fetch(replace(location, file=WEIGHTS_FILE, sha256=checkpoint.sha256), commit, cache_dir)
    if golden:
        _fetch(replace(location, file=GOLDEN_FILE), commit, cache_dir)
    return folder


def _follow(location: Location, folder: Path) -> str:
    revision = location.revision or "main"
    if COMMIT.fullmatch(revision):
        return revision
    known = read_head(folder, revision)
    if _offline() and known:
        return known
    try:
        commit = _resolve(location, revision, folder)
    except DownloadError as error:
        if known is None or not isinstance(error.__cause__, HTTPError) or _status(error.__cause__):
            raise
        logger.warning("the Hub cannot be reached; %s is taken at the commit last seen, %s", location.repo, known)
        return known
    write_head(folder, revision, commit)
    return commit


def _resolve(location: Location, revision: str, folder: Path) -> str:
    with _translated(location, folder):
        if _offline():
            raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        url = hf_hub_url(location.repo, location.file, revision=revision, endpoint=_endpoint())
        commit = _persist(lambda: get_hf_file_metadata(url)).commit_hash
        if not commit or not COMMIT.fullmatch(commit):
            raise OSError(f"{url} names no commit, so that no Hub seems to answer there")
    return commit


def _fetch(location: Location, commit: str, cache_dir: Path | None) -> Pulled:
    folder = _repo_cache(location, cache_dir)
    with _translated(replace(location, revision=commit), folder):
        for _ in range(2):
            path = Path(_persist(lambda: _download(location, commit, cache_dir)))
            sha256 = sha256_of(path)
            if _is_intact(path, sha256, location.sha256):
                return Pulled(path=path, sha256=sha256)
            logger.warning("%s does not have the sha256 it must have and is deleted", path)
            _delete(path)
        raise OSError(f"it arrived damaged twice: its sha256 is {sha256}, not {location.sha256 or 'the published one'}")


def _download(location: Location, commit: str, cache_dir: Path | None) -> str:
    return hf_hub_download(
        location.repo,
        location.file,
        revision=commit,
        cache_dir=cache_dir,
        endpoint=_endpoint(),
        local_files_only=_offline(),
        library_name="madzoo",
    )


def _is_intact(path: Path, sha256: str, expected: str | None) -> bool:
    """Compares with the expected hash, else with the Hub's own, which the cache keeps as the name of the blob."""
    if expected is not None:
        return sha256 == expected
    published = _blob(path).name
    if re.fullmatch(r"[0-9a-f]{64}", published):
        return sha256 == published
    return not COMMIT.fullmatch(published) or _git_sha1(path) == published


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _blob(path: Path) -> Path:
    return path.parent / os.readlink(path) if path.is_symlink() else path


def _delete(path: Path) -> None:
    _blob(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _pull_release(location: Location, cache_dir: Path | None) -> Pulled:
    root = cache_dir or Path(constants.HF_HOME)
    folder = root / "madzoo" / hashlib.sha256(location.url.encode()).hexdigest()[:16]
    location = replace(location, file=Path(urlsplit(location.url).path).name)
    path = folder / location.file
    expected = location.sha256 or read_pin(folder, "release", location.file)[1]
    with _translated(location, folder):
        for is_retry in (False, True):
            if is_retry or not path.exists():
                _persist(lambda: _download_release(location.url, path))
            sha256 = sha256_of(path)
            if expected in (None, sha256):
                break
            logger.warning("%s does not have the sha256 it must have and is deleted", path)
            path.unlink()
        else:
            raise OSError(f"it arrived damaged twice: its sha256 is {sha256}, not {expected}")
    if expected is None:
        write_pin(folder, "release", location.file, commit="release", sha256=sha256)
        logger.warning("pinned %s, sha256 %s", location.url, sha256)
    return Pulled(path=path, sha256=sha256)


def _download_release(url: str, path: Path) -> None:
    if _offline():
        raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    path.parent.mkdir(parents=True, exist_ok=True)
    with urlopen(url, timeout=TIMEOUT) as response, atomic_path(path) as partial:
        with partial.open("wb") as file:
            shutil.copyfileobj(response, file)
        length = response.headers.get("Content-Length")
        if length and partial.stat().st_size != int(length):
            raise http.client.IncompleteRead(b"", int(length))


def _persist(request: Callable[[], T]) -> T:
    for pause in PAUSES:
        try:
            return request()
        except NETWORK as error:
            if not _may_pass(error):
                raise
            time.sleep(pause)
    return request()


def _may_pass(error: Exception) -> bool:
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500
    is_short_file = type(error) is OSError and error.errno is None
    return is_short_file or isinstance(error, HTTPError | http.client.HTTPException | ConnectionError | TimeoutError)


def _status(error: BaseException) -> int | None:
    if isinstance(error, ReleaseError):
        return error.code
    return error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None


@contextmanager
def _translated(location: Location, folder: Path) -> Iterator[None]:
    try:
        yield
    except NETWORK as error:
        source = location.url or f"{_endpoint() or constants.ENDPOINT}/{location.repo}"
        at = f" at revision {location.revision or 'main'}" if location.repo else ""
        raise DownloadError(
            f"{location.file} could not be fetched: {_explain(error)}.",
            asked=f"{location.file} of {location.repo or location.url}{at}",
            looked="; ".join([*location.looked, f"cache {folder}", source]),
            todo=_remedy(error),
        ) from error


def _explain(error: Exception) -> str:
    if isinstance(error, errors.OfflineModeIsEnabled) or _offline():
        return "it is not in the cache and HF_HUB_OFFLINE is set"
    kinds = {
        errors.GatedRepoError: "its terms must be accepted first",
        errors.RepositoryNotFoundError: "there is no such repository, or it is private",
        errors.RevisionNotFoundError: "there is no such revision",
        errors.LocalEntryNotFoundError: "it is not in the cache and the Hub cannot be reached",
        errors.EntryNotFoundError: "the repository holds no such file",
    }
    for kind, why in kinds.items():
        if isinstance(error, kind):
            return why
    status = _status(error)
    return f"the server answered {status}" if status else f"{str(error) or type(error).__name__}".rstrip(".")


def _remedy(error: Exception) -> str:
    if isinstance(error, errors.OfflineModeIsEnabled) or _offline():
        return "unset HF_HUB_OFFLINE once, or checkpoint_path=FILE"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "check its name; hf auth login for a private or gated one"
    if isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError):
        return "another revision, or checkpoint_path=FILE"
    return "again later, or checkpoint_path=FILE"


def _repo_cache(location: Location, cache_dir: Path | None) -> Path:
    return Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{location.repo.replace('/', '--')}"


def _endpoint() -> str | None:
    """Reads the environment at the time of the call; huggingface_hub alone would read it once, at import."""
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and not urlsplit(endpoint).hostname:
        raise ConfigError("HF_ENDPOINT is no address.", asked=endpoint, todo="https://huggingface.co")
    return endpoint.rstrip("/") if endpoint else None


def _offline() -> bool:
    named = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return named or constants.HF_HUB_OFFLINE
