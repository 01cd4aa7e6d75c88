"""A checkpoint folder to a repository of the Hub: checked first, then one commit or none."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from madzoo.checkpoint import network
from madzoo.checkpoint.address import check_repo_id
from madzoo.checkpoint.cache import COMMIT
from madzoo.checkpoint.folder import madzoo_version
from madzoo.checkpoint.resolve import check_flag, check_revision
from madzoo.errors import ConfigError, MadzooError, UploadError
from madzoo.hub.client import FAILURES, connect, status_of, translated
from madzoo.hub.remote import BRANCH, Change, Remote, compare, read_remote
from madzoo.hub.validation import CheckedFolder, check_folder

__all__ = ["Pushed", "push", "upload"]

PATIENCE = 10.0  # seconds of trying after which a failure is final: huggingface_hub has tried long enough by then
STALE = 412
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """Tells what a push did.

    Attributes:
        repo, revision: the repository and branch that now hold the folder.
        name: the ``arch.tag`` of the folder.
        commit, url: of the commit that holds it.
        files: names of the files that were new or different; empty where the branch held the folder already.
        deleted: names of the files that the folder does not have.
        bytes_uploaded: size of ``files``; of these the Hub may have known some.
    """

    repo: str
    revision: str
    name: str
    commit: str
    url: str
    files: tuple[str, ...]
    deleted: tuple[str, ...]
    bytes_uploaded: int

    @property
    def is_new(self) -> bool:
        """Whether there was anything to commit."""
        return bool(self.files or self.deleted)


def push(folder: Path | str, repo_id: str, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Publishes a checkpoint folder: checks it, makes the repository where it is missing, and commits what differs.

    Afterwards the branch holds exactly the files of the folder (and the Hub's own ``.gitattributes``). Where it does
    already, nothing is uploaded and no commit is made. A push that fails leaves the branch as it was.

    Args:
        folder: a checkpoint folder.
        repo_id: ``org/repo``.
        private: make a new repository private, and refuse a public one that exists. False: leave one as it is, and
            make a new one as the account does by default, which is public unless an organisation says otherwise.
        revision: the branch, made from ``main`` where it is missing; None: ``main``.

    Raises:
        CheckpointError: listing all that is wrong with the folder; see :func:`madzoo.hub.validation.check_folder`.
        ConfigError: when the Hub allows no such name or branch.
        UploadError: when the Hub refuses, or cannot be reached.
    """
    repo, branch = check_repo_id(repo_id), _check_branch(revision)
    check_flag("private", private)
    return upload(check_folder(folder), repo, private=private, revision=branch)


def upload(folder: CheckedFolder, repo: str, *, private: bool, revision: str = BRANCH) -> Pushed:
    """Commits what a checked folder has and a branch has not; see :func:`push`.

    Raises:
        UploadError: when the Hub refuses, or cannot be reached.
    """
    asked = f"push {folder.name} to {repo}, branch {revision}"
    api = connect(UploadError, asked=asked)
    with translated(UploadError, asked=asked):
        remote = _open(api, repo, revision, private=private)
        change, commit = _bring(api, repo, revision, folder=folder, remote=remote)
    return Pushed(
        repo=repo,
        revision=revision,
        name=folder.name,
        commit=commit,
        url=f"{api.endpoint}/{repo}/commit/{commit}",
        files=tuple(file.name for file in change.added),
        deleted=change.deleted,
        bytes_uploaded=change.size,
    )


def _check_branch(revision: str | None) -> str:
    check_revision(revision)
    if revision and COMMIT.fullmatch(revision):
        raise ConfigError("a commit cannot be pushed to.", asked=f"revision={revision!r}", todo="the name of a branch")
    return revision or BRANCH


def _open(api: HfApi, repo: str, branch: str, *, private: bool) -> Remote:
    """Returns the state of the branch, which is there afterwards."""
    remote = read_remote(api, repo, branch)
    if not remote.exists:
        network.persist(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        remote = read_remote(api, repo, branch)
    if private and remote.private is False:
        why = "the repository is public already, so that a private push would be seen by everybody."
        raise UploadError(why, asked=repo, todo="another repository, or change its visibility on its settings page")
    if remote.commit is None and branch != BRANCH:
        network.persist(lambda: api.create_branch(repo, branch=branch, exist_ok=True))
        remote = read_remote(api, repo, branch)
    return remote


def _bring(api: HfApi, repo: str, branch: str, *, folder: CheckedFolder, remote: Remote) -> tuple[Change, str]:
    """Makes the branch equal to the folder and returns what that took, with the commit.

    The answer to a commit may get lost. So after a failure the branch is looked at before anything else is done: the
    commit may have gone through, or another one, on which the next try then builds.
    """
    done, failure, started = Change(added=(), deleted=()), None, time.monotonic()
    for pause in (*network.PAUSES, None):
        change = compare(folder.files, remote)
        if not change and remote.commit is not None:
            return done, remote.commit
        if failure and not _may_be_repeated(failure, time.monotonic() - started):
            raise failure
        try:
            return change, _commit(api, repo, branch, folder=folder, change=change, parent=remote.commit)
        except FAILURES as error:
            if pause is None or _is_refused(error):
                raise
            logger.warning("%s: %s; looking whether the commit went through", repo, type(error).__name__)
            done, failure = change, error
        time.sleep(pause)
        remote = read_remote(api, repo, branch)
    raise AssertionError("the last try returns or raises")


def _is_refused(error: Exception) -> bool:
    """Tells whether the Hub, or madzoo itself, said no: then nothing was committed."""
    status = status_of(error)
    return isinstance(error, MadzooError) or (status is not None and 400 <= status < 500 and status != STALE)


def _may_be_repeated(error: Exception, seconds: float) -> bool:
    return seconds < PATIENCE and (network.is_unreachable(error) or status_of(error) == STALE)


def _commit(api: HfApi, repo: str, branch: str, *, folder: CheckedFolder, change: Change, parent: str | None) -> str:
    info = api.create_commit(
        repo,
        list(_operations(change)),
        commit_message=f"{folder.name}, published with madzoo {madzoo_version()}",
        revision=branch,
        parent_commit=parent,
    )
    _confirm(api, repo, info.oid, folder=folder)
    return info.oid


def _operations(change: Change) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    for file in change.added:
        operation = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path)
        if operation.upload_info.sha256.hex() != file.sha256:
            why = f"{file.name} was changed after it had been checked; nothing was committed."
            raise UploadError(why, asked=file.path, todo="push again when nobody writes to the folder")
        yield operation
    yield from (CommitOperationDelete(path_in_repo=name) for name in change.deleted)


def _confirm(api: HfApi, repo: str, commit: str, *, folder: CheckedFolder) -> None:
    """Looks whether the commit holds what was sent."""
    wrong = compare(folder.files, read_remote(api, repo, commit))
    if wrong:
        names = ", ".join([*(file.name for file in wrong.added), *wrong.deleted])
        why = f"the commit was made, but not as it was sent: {names}."
        raise UploadError(why, asked=f"{repo} at {commit}", todo="look at the repository, and push again")
