"""A whole checkpoint folder of the Hub, all files of one commit and each verified, in the cache."""

import os
from pathlib import Path

from madzoo.checkpoint.download import pull_repository
from madzoo.checkpoint.resolve import as_path, parse_name

__all__ = ["pull"]


def pull(repo_id: str, *, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Fetches the checkpoint folder of a Hub repository and returns where it lies.

    A branch is resolved to its commit once. Every file is checked against the Hub's hash on arrival and whenever it
    is pulled again, and the weights against the folder's own. Only what a checkpoint folder holds is fetched, never
    code and never a pickle. Without a network the commit last seen is taken from the cache. Several processes may
    pull at once: each file is fetched by one of them. ``create_model("hf-hub:...")`` reads the same cache.

    Args:
        repo_id: ``"org/repo"``, ``"org/repo@revision"``, or either after ``"hf-hub:"``.
        revision: branch, tag or commit; None: the main branch.
        cache_dir: where downloads are kept; None: the cache of huggingface_hub.

    Raises:
        UnknownModelError: when the name is no Hub repository's.
        ConfigError: on a malformed revision, or two different ones.
        CheckpointError: when the repository holds no checkpoint of madzoo.
        DownloadError: when a file is neither cached nor reachable, or arrives damaged twice.

    Cost: one request for the list of files, two for each file that is not in the cache, one pass over every file.
    """
    name = repo_id if not isinstance(repo_id, str) or repo_id.startswith("hf-hub:") else f"hf-hub:{repo_id}"
    return pull_repository(parse_name(name, revision=revision), cache_dir=as_path("cache_dir", cache_dir))
