"""Every checkpoint folder to its repository on the Hub: a plan first, and pushes only when asked for."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from madzoo.checkpoint.address import ORGANIZATION, repo_id_of
from madzoo.checkpoint.folder import CONFIG_FILE, bundled_root, read_folder
from madzoo.errors import CheckpointError, HubError, UploadError
from madzoo.hub.files import list_files
from madzoo.hub.preview import preview
from madzoo.hub.push import Pushed, upload
from madzoo.hub.validation import CheckedFolder, find_problems

__all__ = ["PublishStep", "publish"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishStep:
    """Holds the plan for one folder, and afterwards what was done.

    Attributes:
        folder: the checkpoint folder and its files.
        repo: where it belongs.
        state: ``"new"``, ``"changed"`` or ``"same"`` there; ``"unknown"`` where the Hub was not asked or did not
            answer; ``"unfit"`` where the folder has ``problems``.
        bytes_to_upload: size of the files that are new or different; None: unknown.
        problems: what keeps the folder from being published.
        pushed: what the push did; None: nothing was pushed.
    """

    folder: CheckedFolder
    repo: str
    state: str
    bytes_to_upload: int | None = None
    problems: tuple[str, ...] = ()
    pushed: Pushed | None = None


def publish(
    root: Path | str | None = None,
    *,
    organization: str = ORGANIZATION,
    private: bool = False,
    dry_run: bool = True,
) -> tuple[PublishStep, ...]:
    """Publishes every checkpoint folder of a root, or says what that would do.

    No state is kept between runs: a push of what the Hub has already uploads nothing, so that the same call goes on
    where an earlier one stopped. Nothing is pushed before every folder has passed its checks.

    Args:
        root: holds the folders; None: those bundled with madzoo.
        organization: whose repositories; each is named after the folder's ``arch.tag``.
        private: make new repositories private.
        dry_run: plan only; the Hub is asked what it has, where it can be reached.

    Raises:
        CheckpointError: when there is no folder, or, unless in a dry run, when one is not fit to be published.
        UploadError: when a push fails, saying how many were done before.
    """
    plan = tuple(_plan(folder, organization) for folder in _folders(Path(root or bundled_root())))
    plan = _with_states(plan)
    if dry_run:
        return plan
    unfit = [f"{step.folder.path.name}: {'; '.join(step.problems)}" for step in plan if step.problems]
    if unfit:
        why = "nothing was published, because folders are not fit for it:"
        raise CheckpointError("".join([why, *(f"\n  - {line}" for line in unfit)]), todo="mend them, publish again")
    return _carry_out(plan, private=private)


def _folders(root: Path) -> list[Path]:
    found = sorted(path.parent for path in root.glob(f"*/{CONFIG_FILE}"))
    if not found:
        raise CheckpointError("there are no checkpoint folders.", asked=root, todo="a folder of checkpoint folders")
    return found


def _plan(path: Path, organization: str) -> PublishStep:
    problems = find_problems(path)
    folder = CheckedFolder(path=path, name=read_folder(path).config.architecture, files=list_files(path))
    repo = repo_id_of(folder.name, organization=organization)
    return PublishStep(folder=folder, repo=repo, state="unfit" if problems else "unknown", problems=problems)


def _with_states(plan: tuple[PublishStep, ...]) -> tuple[PublishStep, ...]:
    steps: list[PublishStep] = []
    for position, step in enumerate(plan):
        if step.problems:
            steps.append(step)
            continue
        try:
            found = preview(step.folder, step.repo)
        except HubError as error:
            logger.warning("what the Hub has is unknown: %s", error)
            return (*steps, *plan[position:])
        steps.append(replace(step, state=found.state, bytes_to_upload=found.bytes_to_upload))
    return tuple(steps)


def _carry_out(plan: tuple[PublishStep, ...], *, private: bool) -> tuple[PublishStep, ...]:
    steps: list[PublishStep] = []
    for step in plan:
        if step.state == "same":
            steps.append(step)
            continue
        try:
            pushed = upload(step.folder, step.repo, private=private)
        except UploadError as error:
            why = f"{len(steps)} of {len(plan)} folders are on the Hub; the next one failed: {error}"
            raise UploadError(why, todo="then this command again, which goes on with the rest") from error
        logger.info("%s: %d files, %s", step.repo, len(pushed.files), pushed.url)
        steps.append(replace(step, pushed=pushed))
    return tuple(steps)
