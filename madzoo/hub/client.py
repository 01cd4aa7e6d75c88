"""How to command the Hub: in whose name, with how much patience, and what its refusals mean to the person who asked."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import HfApi, errors, get_session, get_token
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from madzoo.checkpoint.network import endpoint, is_offline
from madzoo.errors import HubError, MadzooError, UploadError

__all__ = ["FAILURES", "TIMEOUT", "connect", "status_of", "translated"]

TIMEOUT = 20.0  # seconds without a byte; huggingface_hub itself would wait for ever
# What huggingface_hub and hf_xet raise, the last two at an answer of another shape than the Hub's.
FAILURES = (HTTPError, OSError, RuntimeError, ValueError, LookupError, TypeError)
LOGIN = "hf auth login, with a token that may write; hf auth whoami says whose it is"


def connect(kind: type[HubError], *, asked: str) -> HfApi:
    """Returns a client of the Hub, at the address that the environment names now.

    Args:
        kind: the error to raise; an :class:`~madzoo.errors.UploadError` needs a token.
        asked: what is to be done, for the message.

    Raises:
        HubError: when the network is forbidden, or nobody is logged in who could write.
    """
    address = endpoint()
    if is_offline():
        raise kind("HF_HUB_OFFLINE is set.", asked=asked, looked=address, todo="unset HF_HUB_OFFLINE")
    if issubclass(kind, UploadError) and get_token() is None:
        raise kind("nobody is logged in to the Hub here.", asked=asked, looked=address, todo=LOGIN)
    return HfApi(endpoint=address, library_name="madzoo")


@contextmanager
def translated(kind: type[HubError], *, asked: str) -> Iterator[None]:
    """Limits the patience of requests inside the block, and turns what they raise into ``kind``.

    Raises:
        HubError: of the ``kind`` given, naming what was asked, the Hub, why it failed and what to do.
    """
    session, repeats = get_session(), _Repeats()
    patience, session.timeout = session.timeout, TIMEOUT
    hooks, session.event_hooks = session.event_hooks, {"request": [repeats.ask], "response": [repeats.hear]}
    try:
        yield
    except MadzooError:
        raise
    except FAILURES as error:
        cause = _cause(error)
        raise kind(f"{_explain(cause)}.", asked=asked, looked=endpoint(), todo=_remedy(cause)) from error
    finally:
        session.timeout, session.event_hooks = patience, hooks


class _Repeats:
    """Ends requests that are made again and again: huggingface_hub repeats one five times, each time in full patience.

    An upload waits half as long for its answer, so that it is tried twice before patience ends.
    """

    def __init__(self) -> None:
        self.since: dict[tuple[str, str], float] = {}

    def ask(self, request: Any) -> None:
        """Notes when a request was first made; refuses to make it again when that is too long ago.

        Raises:
            TimeoutError: which huggingface_hub does not take for a reason to try again.
        """
        if request.method == "POST":  # which huggingface_hub makes once, and push only after it has looked
            return
        began = self.since.setdefault((request.method, str(request.url)), time.monotonic())
        waited = time.monotonic() - began
        if waited >= TIMEOUT:
            raise TimeoutError(f"{request.url.host} has not answered for {waited:.0f} seconds")
        if request.method == "PUT":
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT / 2)

    def hear(self, response: Any) -> None:
        """Forgets a request that was answered."""
        if response.status_code < 500:
            self.since.pop((response.request.method, str(response.request.url)), None)


def status_of(error: BaseException) -> int | None:
    """Returns the status that a server answered with, or None where none did."""
    cause = _cause(error)
    return cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None


def _cause(error: BaseException) -> BaseException:
    """Returns the request that failed: huggingface_hub wraps failed uploads of large files in a RuntimeError."""
    inner = error.__cause__
    return inner if type(error) is RuntimeError and isinstance(inner, HTTPError | OSError) else error


def _explain(error: BaseException) -> str:
    known = {
        errors.GatedRepoError: "the repository is gated, and its terms were not accepted by this account",
        errors.RepositoryNotFoundError: "there is no such repository, or this account may not see it",
        errors.RevisionNotFoundError: "there is no such branch",
    }
    for kind, why in known.items():
        if isinstance(error, kind):
            return why
    status, told = status_of(error), _told(error)
    by_status = {
        400: f"the Hub refuses the content ({told})",
        401: f"the Hub does not know the token ({told})",
        403: f"this account may not do that there ({told})",
        409: f"the Hub is busy with another operation on this repository ({told})",
        412: f"the branch moved while the folder was on its way ({told})",
        429: "the Hub asks for fewer requests",
    }
    if status is not None:
        return by_status.get(status, f"the Hub answered {status} ({told})")
    stranger = f"what answered is not the Hub, or only half of it ({told})"
    by_kind = {
        HTTPError | TimeoutError: f"the Hub cannot be reached ({told})",
        json.JSONDecodeError: stranger,
        LookupError: stranger,
        TypeError: stranger,
        ValueError: f"the Hub refuses the content ({told})",
    }
    return next((why for kind, why in by_kind.items() if isinstance(error, kind)), f"the transfer failed ({told})")


def _remedy(error: BaseException) -> str:
    status = status_of(error)
    if isinstance(error, errors.GatedRepoError):
        return "accept the terms on the repository's page"
    if status == 403:
        return "a repository of your own or of an organisation you belong to; " + LOGIN
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        return LOGIN
    if status == 400 or (isinstance(error, ValueError) and not isinstance(error, HTTPError | json.JSONDecodeError)):
        return "mend what the Hub names, and the same command again"
    later = "the same command again later"
    is_network = isinstance(error, HTTPError | TimeoutError)
    return later if is_network else f"{later}; HF_HUB_DISABLE_XET=1 for large files without xet"


def _told(error: BaseException) -> str:
    told = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return next((line.strip().rstrip(".") for line in told.splitlines() if line.strip()), type(error).__name__)
