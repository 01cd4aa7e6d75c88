"""What a repository says of its model, without its weights: card, reports and plots, all of one commit, verified."""

from pathlib import Path

from huggingface_hub import errors

from madzoo.checkpoint.download import pull_file
from madzoo.checkpoint.folder import CONFIG_FILE
from madzoo.checkpoint.resolve import Location
from madzoo.errors import DownloadError

__all__ = ["CARD_FILES", "pull_card"]

CARD_FILES = ("README.md", "evaluation.json", "geometry.json", "quantization.json", "geometry.png", "quantization.png")


def pull_card(repo: str, *, commit: str, cache_dir: Path | None = None) -> Path:
    """Returns the folder in the cache that holds ``config.json`` and those of :data:`CARD_FILES` that there are.

    Args:
        repo: ``org/repo``.
        commit: 40 hexadecimal digits.
        cache_dir: None: that of huggingface_hub.

    Raises:
        DownloadError: when there is no ``config.json``, or a file is neither cached nor reachable, or arrives damaged.
    """
    folder = _pull(repo, commit, CONFIG_FILE, cache_dir).parent
    for name in CARD_FILES:
        try:
            _pull(repo, commit, name, cache_dir)
        except DownloadError as error:
            if not isinstance(error.__cause__, errors.RemoteEntryNotFoundError):
                raise
    return folder


def _pull(repo: str, commit: str, name: str, cache_dir: Path | None) -> Path:
    return pull_file(Location(kind="hub", repo=repo, file=name, revision=commit), cache_dir=cache_dir).path
