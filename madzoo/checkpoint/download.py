"""The only network read: files of the Hub and release files, verified, and pinned where no hash was known before."""

import hashlib
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.utils import hf_raise_for_status

from madzoo.checkpoint.folder import CONFIG_FILE, GOLDEN_FILE, WEIGHTS_FILE, read_folder
from madzoo.checkpoint.network import endpoint, is_offline, is_unreachable, persist, refuse_offline, translated
from madzoo.checkpoint.pins import read_head, read_pin, write_head, write_pin
from madzoo.checkpoint.resolve import Location
from madzoo.checkpoint.weights import sha256_of
from madzoo.errors import DownloadError

__all__ = ["Pulled", "pull_file", "pull_folder"]

TIMEOUT = 30.0  # seconds without a byte from a release page
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
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
    sha256 = read_folder(folder).sha256
    if weights:
        _fetch(replace(location, file=WEIGHTS_FILE, sha256=sha256), commit, cache_dir)
    if golden:
        _fetch(replace(location, file=GOLDEN_FILE), commit, cache_dir)
    return folder


def _follow(location: Location, folder: Path) -> str:
    """Returns the commit a revision stands for: asked of the Hub, or as last seen where the Hub does not answer."""
    revision = location.revision or "main"
    if COMMIT.fullmatch(revision):
        return revision
    known = read_head(folder, revision)
    if known and is_offline():
        return known
    try:
        commit = _resolve(location, revision, folder)
    except DownloadError as error:
        if known is None or not is_unreachable(error.__cause__):
            raise
        logger.warning("the Hub does not answer; %s is taken at the commit last seen, %s", location.repo, known)
        return known
    write_head(folder, revision, commit)
    return commit


def _resolve(location: Location, revision: str, folder: Path) -> str:
    with translated(location, folder):
        refuse_offline()
        url = hf_hub_url(location.repo, location.file, revision=revision, endpoint=endpoint())
        commit = persist(lambda: get_hf_file_metadata(url)).commit_hash
        if not commit or not COMMIT.fullmatch(commit):
            raise OSError(f"{url} names no commit, so that no Hub seems to answer there")
    return commit


def _fetch(location: Location, commit: str, cache_dir: Path | None) -> Pulled:
    with translated(replace(location, revision=commit), _repo_cache(location, cache_dir)):
        for _ in range(2):
            path = Path(persist(lambda: _download(location, commit, cache_dir)))
            sha256 = sha256_of(path)
            if _is_intact(path, sha256, location.sha256):
                return Pulled(path=path, sha256=sha256)
            logger.warning("%s does not have the sha256 it must have and is deleted", path)
            _delete(path)
        raise _damaged(sha256, location.sha256)


def _download(location: Location, commit: str, cache_dir: Path | None) -> str:
    return hf_hub_download(
        location.repo,
        location.file,
        revision=commit,
        cache_dir=cache_dir,
        endpoint=endpoint(),
        local_files_only=is_offline(),
        library_name="madzoo",
    )


def _is_intact(path: Path, sha256: str, expected: str | None) -> bool:
    """Compares with the expected hash, else with the Hub's own, which the cache keeps as the name of the blob."""
    if expected is not None:
        return sha256 == expected
    published = _blob(path).name
    if SHA256.fullmatch(published):
        return sha256 == published
    return not COMMIT.fullmatch(published) or _git_sha1(path) == published


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _blob(path: Path) -> Path:
    return path.parent / os.readlink(path) if path.is_symlink() else path


def _repo_cache(location: Location, cache_dir: Path | None) -> Path:
    return Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{location.repo.replace('/', '--')}"


def _delete(path: Path) -> None:
    _blob(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _pull_release(location: Location, cache_dir: Path | None) -> Pulled:
    root = cache_dir or Path(constants.HF_HOME)
    folder = root / "madzoo" / hashlib.sha256(location.url.encode()).hexdigest()[:16]
    path = folder / Path(urlsplit(location.url).path).name
    pinned = read_pin(folder, "release", path.name)[1]
    sha256 = _fetch_release(replace(location, file=path.name, sha256=location.sha256 or pinned), path)
    if not (location.sha256 or pinned):
        write_pin(folder, "release", path.name, commit=location.url, sha256=sha256)
        logger.warning("pinned %s, sha256 %s", location.url, sha256)
    return Pulled(path=path, sha256=sha256)


def _fetch_release(location: Location, path: Path) -> str:
    with translated(location, path.parent):
        for _ in range(2):
            if not path.exists():
                persist(lambda: _download_release(location.url, path))
            sha256 = sha256_of(path)
            if location.sha256 in (None, sha256):
                return sha256
            logger.warning("%s does not have the sha256 it must have and is deleted", path)
            path.unlink()
        raise _damaged(sha256, location.sha256)


def _download_release(url: str, path: Path) -> None:
    refuse_offline()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with get_session().stream("GET", url, follow_redirects=True, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            with partial.open("wb") as file:
                file.writelines(response.iter_bytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _damaged(sha256: str, expected: str | None) -> OSError:
    return OSError(f"it arrived damaged twice: its sha256 is {sha256}, not {expected or 'the published one'}")
