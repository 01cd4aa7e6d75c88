"""How to ask the network: whether at all, whom, how often; and what its errors mean to the person who asked."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants, errors
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from madzoo.checkpoint.patience import Patience
from madzoo.checkpoint.resolve import Location
from madzoo.errors import ConfigError, DownloadError

__all__ = [
    "NETWORK_ERRORS",
    "OtherFileError",
    "endpoint",
    "is_full",
    "is_offline",
    "is_unreachable",
    "persist",
    "refuse_offline",
    "translated",
]

PAUSES = (0.5, 1.0)  # seconds between the three tries of a request that a server failed to answer
NETWORK_ERRORS = (HTTPError, errors.EntryNotFoundError, OSError)
T = TypeVar("T")


class OtherFileError(OSError):
    """A file that the Hub publishes is not the one that was pinned or hashed into the configuration beside it."""


def endpoint() -> str:
    """Returns the address of the Hub, from the environment as it is now; huggingface_hub reads it once, at import.

    Raises:
        ConfigError: when ``HF_ENDPOINT`` is no address.
    """
    address = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if not urlsplit(address).hostname:
        raise ConfigError("HF_ENDPOINT is no address.", asked=address, todo="https://huggingface.co")
    return address.rstrip("/")


def is_offline() -> bool:
    """Tells whether ``HF_HUB_OFFLINE`` forbids the network, now or when huggingface_hub was imported."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or constants.HF_HUB_OFFLINE


def refuse_offline() -> None:
    """Raises huggingface_hub's OfflineModeIsEnabled where the network is forbidden."""
    if is_offline():
        raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")


def persist(request: Callable[[], T], *, patience: Patience | None = None) -> T:
    """Makes a request up to three times, as long as its failure may pass: no answer, half an answer, a 5xx.

    Args:
        request: what to try.
        patience: when it ends, no further try is made; a try that brought its request further does not count. None:
            no limit but the number of tries.
    """
    failures = 0
    while True:
        before = patience.reached if patience else 0
        try:
            return request()
        except NETWORK_ERRORS as error:
            failures = 1 if patience and patience.reached > before else failures + 1
            if not _may_pass(error) or failures > len(PAUSES):
                raise
            if patience:
                patience.check(error)
        time.sleep(PAUSES[failures - 1])


def is_unreachable(error: BaseException | None) -> bool:
    """Tells whether a request failed because nobody answered it, or only with a 5xx."""
    return isinstance(error, TimeoutError) or (isinstance(error, HTTPError) and _may_pass(error))


@contextmanager
def translated(location: Location, folder: Path, *, commit: str | None = None) -> Iterator[None]:
    """Turns errors of the network and of the disk inside the block into a DownloadError.

    Args:
        location: what is being fetched.
        folder: where the cache keeps it.
        commit: what the location's revision stands for.

    Raises:
        DownloadError: naming what was asked, everywhere it was looked for, and what to do.
    """
    try:
        yield
    except NETWORK_ERRORS as error:
        source = location.url or f"{endpoint()}/{location.repo}"
        revision = location.revision or "main"
        raise DownloadError(
            f"{location.file} could not be fetched: {_explain(error)}.",
            asked=f"{location.file} of {f'{location.repo}@{revision}' if location.repo else location.url}",
            resolved=f"commit {commit}" if commit not in (None, revision) else None,
            looked="; ".join([*location.looked, f"cache {folder}", source]),
            todo=_remedy(error, location),
        ) from error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    is_short_file = type(error) is OSError and error.errno is None
    return is_short_file or isinstance(error, HTTPError)


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None


def _explain(error: Exception) -> str:
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return f"it is not in the cache and {'HF_HUB_OFFLINE is set' if is_offline() else 'the Hub cannot be reached'}"
    for kind, why in _REASONS.items():
        if isinstance(error, kind):
            return why
    status, told = _status(error), (str(error) or type(error).__name__).rstrip(".")
    if status:
        return f"the server answered {status}" + (", the token is not valid" if status == 401 else "")
    if is_full(error):
        return f"the disk is full ({told})"
    return f"the server cannot be reached ({told})" if isinstance(error, HTTPError) else told


_REASONS = {
    errors.GatedRepoError: "its terms must be accepted first",
    errors.RepositoryNotFoundError: "there is no such repository, or it is private",
    errors.RevisionNotFoundError: "there is no such revision",
    errors.EntryNotFoundError: "the repository holds no such file",
}


def _remedy(error: Exception, location: Location) -> str:
    again = f"madzoo pull {location.repo}" + (f" --revision {location.revision}" if location.revision else "")
    if isinstance(error, errors.OfflineModeIsEnabled) or is_offline():
        return "unset HF_HUB_OFFLINE once, or checkpoint_path=FILE"
    if isinstance(error, errors.GatedRepoError):
        return f"accept them at {endpoint()}/{location.repo}, then hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError) or _status(error) in (401, 403):
        return "check its name; hf auth login for a private or gated one"
    if isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError | OtherFileError):
        return "another revision, or checkpoint_path=FILE"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, HTTPError):
        return "make room, or cache_dir=FOLDER elsewhere"
    return f"again later{f', {again}' if location.repo else ''}; or checkpoint_path=FILE"


def is_full(error: Exception) -> bool:
    """Tells whether a disk takes no more."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
