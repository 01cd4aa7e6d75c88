"""The only network read: files of the Hub and release files, verified, and pinned where no hash was known before."""

import logging
from dataclasses import replace
from pathlib import Path

from madzoo.checkpoint.cache import COMMIT
from madzoo.checkpoint.fetch import Pulled
from madzoo.checkpoint.folder import CONFIG_FILE, GOLDEN_FILE, WEIGHTS_FILE
from madzoo.checkpoint.listing import may_hold
from madzoo.checkpoint.pins import read_pin, write_pin
from madzoo.checkpoint.release import pull_release
from madzoo.checkpoint.repository_pull import RepositoryPull
from madzoo.checkpoint.resolve import Location

__all__ = ["Pulled", "pull_file", "pull_folder", "pull_repository"]

logger = logging.getLogger(__name__)


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
        return pull_release(location, cache_dir)
    pull = RepositoryPull(location, cache_dir)
    revision = location.revision or "main"
    if not location.pinned:
        return pull.file(location.file, pull.commit_of_file(), sha256=location.sha256)
    commit, sha256 = read_pin(pull.folder, revision, location.file)
    commit = commit or pull.commit_of_file()
    pulled = pull.file(location.file, commit, sha256=location.sha256 or sha256)
    if not (sha256 or (location.sha256 and COMMIT.fullmatch(revision))):
        with pull.writing():
            write_pin(pull.folder, revision, location.file, commit=commit, sha256=pulled.sha256)
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
    pull = RepositoryPull(replace(location, file=CONFIG_FILE), cache_dir)
    listing = pull.listing()
    folder, sha256 = pull.config(listing)
    if weights:
        pull.file(WEIGHTS_FILE, listing.commit, sha256=sha256, listing=listing)
    if golden:
        pull.file(GOLDEN_FILE, listing.commit, listing=listing)
    return folder


def pull_repository(location: Location, *, cache_dir: Path | None = None) -> Path:
    """Returns the whole checkpoint folder of a Hub repository in the cache, all files of one commit, each verified.

    Files that a checkpoint folder does not hold, code and pickles above all, are not fetched; a log line names them.

    Args:
        location: of kind ``"hub"``; a branch is followed whenever the Hub can be reached.
        cache_dir: None: that of huggingface_hub.

    Raises:
        CheckpointError: when ``config.json`` is not madzoo's.
        DownloadError: when a file is neither cached nor reachable, or arrives damaged twice.
    """
    pull = RepositoryPull(replace(location, file=CONFIG_FILE), cache_dir)
    listing = pull.listing()
    folder, sha256 = pull.config(listing)
    others = [name for name in listing.files if name != CONFIG_FILE]
    if skipped := [name for name in others if not may_hold(name) and name != ".gitattributes"]:
        logger.warning("not fetched from %s, since a checkpoint holds no such files: %s", location.repo, skipped)
    for name in filter(may_hold, others):
        expected = sha256 if name == WEIGHTS_FILE else None
        pull.file(name, listing.commit, sha256=expected, listing=listing)
    return folder
