"""What a branch of a repository holds now, and in what a folder differs from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from madzoo.checkpoint.network import persist
from madzoo.hub.files import LocalFile

__all__ = ["BRANCH", "Change", "Remote", "compare", "read_remote"]

BRANCH = "main"
TIMEOUT = 10.0  # seconds without a byte, three times; these questions are answered at once or not at all
KEPT = (".gitattributes",)  # the Hub's own: says which files are stored apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """Holds the state of a branch.

    Attributes:
        exists: whether the repository does.
        private: whether it is; None: not known.
        commit: the newest of the branch; None where there is no such branch.
        hashes: file name -> sha256 of a large file, git's sha1 of another.
    """

    exists: bool
    private: bool | None = None
    commit: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Holds what makes a branch equal to a folder.

    Attributes:
        added: files that are new, or not as they are there.
        deleted: names of files that the folder does not have.
    """

    added: tuple[LocalFile, ...]
    deleted: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)

    @property
    def size(self) -> int:
        """Bytes of the files added."""
        return sum(file.size for file in self.added)


def read_remote(api: HfApi, repo: str, revision: str) -> Remote:
    """Asks for a branch or commit, with one request where it exists.

    Raises:
        HfHubHTTPError: when the Hub refuses or does not answer.
    """
    try:
        info = persist(lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT))
    except RepositoryNotFoundError:
        return Remote(exists=False)
    except RevisionNotFoundError:
        return Remote(exists=True, private=persist(lambda: api.model_info(repo, timeout=TIMEOUT)).private)
    hashes = {file.rfilename: _hash(file) for file in info.siblings or ()}
    return Remote(exists=True, private=info.private, commit=info.sha, hashes=hashes)


def compare(files: tuple[LocalFile, ...], remote: Remote) -> Change:
    """Returns what makes a branch equal to the files, its ``.gitattributes`` apart."""
    added = [file for file in files if remote.hashes.get(file.name) not in (file.sha256, file.git_sha1)]
    names = {file.name for file in files} | set(KEPT)
    return Change(added=tuple(added), deleted=tuple(name for name in remote.hashes if name not in names))


def _hash(file: Any) -> str:
    return file.lfs.sha256 if file.lfs else file.blob_id
