"""What a push would do, asked of the Hub without changing anything there."""

from dataclasses import dataclass

from madzoo.errors import HubError
from madzoo.hub.client import connect, translated
from madzoo.hub.remote import BRANCH, compare, read_remote
from madzoo.hub.validation import CheckedFolder

__all__ = ["Preview", "preview"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Tells what a push would do.

    Attributes:
        repo: the repository.
        state: ``"new"`` where no repository or branch can be seen there, ``"changed"`` where it differs, ``"same"``.
        files: names that would be uploaded.
        deleted: names that would be deleted.
        bytes_to_upload: size of ``files``.
    """

    repo: str
    state: str
    files: tuple[str, ...]
    deleted: tuple[str, ...]
    bytes_to_upload: int


def preview(folder: CheckedFolder, repo: str, *, revision: str = BRANCH) -> Preview:
    """Compares a checked folder with a branch of the Hub; a token is used where there is one, and not needed.

    Raises:
        HubError: when the Hub refuses, or cannot be reached.
    """
    asked = f"compare {folder.name} with {repo}, branch {revision}"
    api = connect(HubError, asked=asked)
    with translated(HubError, asked=asked):
        remote = read_remote(api, repo, revision)
    change = compare(folder.files, remote)
    return Preview(
        repo=repo,
        state="new" if remote.commit is None else "changed" if change else "same",
        files=tuple(file.name for file in change.added),
        deleted=change.deleted,
        bytes_to_upload=change.size,
    )
