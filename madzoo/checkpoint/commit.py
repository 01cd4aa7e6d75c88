"""The commit of the Hub that weights were read from, as the cache remembers it: no network."""

from pathlib import Path

from madzoo.checkpoint.cache import COMMIT, repo_cache
from madzoo.checkpoint.pins import read_head, read_pin
from madzoo.checkpoint.resolve import Location

__all__ = ["commit_of"]


def commit_of(location: Location, *, cache_dir: Path | None = None) -> str | None:
    """Returns the commit that a location was last read at, 40 hexadecimal digits; None for what is not on the Hub.

    Args:
        location: where the weights are; see :func:`madzoo.checkpoint.resolve.locate_weights`.
        cache_dir: None: that of huggingface_hub.

    Raises:
        CheckpointError: when the cache's record is damaged.

    Example:
        >>> commit_of(Location(kind="hub", repo="org/model", revision="0" * 40)) == "0" * 40
        True
    """
    if location.kind != "hub":
        return None
    revision = location.revision or "main"
    if COMMIT.fullmatch(revision):
        return revision
    folder = repo_cache(location, cache_dir)
    pinned = read_pin(folder, revision, location.file)[0] if location.pinned else None
    return pinned or read_head(folder, revision)
