"""Every deliberate exception of madzoo, one tree under :class:`MadzooError`.

A message answers five questions: what was asked, what it resolved to, where it was looked for, why it failed,
and what to type next. Answers that do not apply are left out.
"""

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "MadzooError",
    "ConfigError",
    "UnknownModelError",
    "UnknownTagError",
    "DuplicateModelError",
    "CheckpointError",
    "DownloadError",
    "HubError",
    "UploadError",
    "DataError",
    "ShapeError",
    "NotCausalError",
    "BackendError",
    "SymmetryError",
    "check_choice",
    "nearest",
]


class MadzooError(Exception):
    """Says why something failed, and the rest of the five answers.

    Args:
        why: one sentence, why it failed.
        asked: what the caller asked for.
        resolved: what that was understood to mean.
        looked: where it was looked for.
        todo: what to type next.
    """

    def __init__(
        self,
        why: str,
        *,
        asked: object = None,
        resolved: object = None,
        looked: object = None,
        todo: str | None = None,
    ) -> None:
        answers = {"asked": asked, "resolved to": resolved, "looked in": looked, "try": todo}
        lines = [why] + [f"  {label}: {answer}" for label, answer in answers.items() if answer is not None]
        super().__init__("\n".join(lines))


class ConfigError(MadzooError, ValueError):
    """An unknown or ill-valued configuration field, override or recipe entry."""


class UnknownModelError(MadzooError, LookupError):
    """A name that is no registered architecture, or breaks the name grammar."""


class UnknownTagError(MadzooError, LookupError):
    """A registered architecture asked for with a weight tag it does not have."""


class DuplicateModelError(MadzooError, ValueError):
    """Two registrations under one name."""


class CheckpointError(MadzooError, RuntimeError):
    """A checkpoint that is missing, damaged, foreign, or does not fit the model."""


class DownloadError(CheckpointError):
    """A checkpoint that could not be fetched over the network, or arrived damaged."""


class HubError(MadzooError, RuntimeError):
    """A question or a command that the Hub refused, or that never reached it."""


class UploadError(HubError):
    """A checkpoint folder that could not be published; the repository is as it was before."""


class DataError(MadzooError, ValueError):
    """Input data (table, image, series, data set) that cannot be used as it is."""


class ShapeError(MadzooError, ValueError):
    """A tensor whose shape or dtype does not fit an operator or a module."""


class NotCausalError(MadzooError, TypeError):
    """Streaming asked of a module that must see its whole input first."""


class BackendError(MadzooError, RuntimeError):
    """A computation backend that is unknown, or unavailable on this machine."""


def nearest(word: object, known: Iterable[str], *, count: int = 3) -> str | None:
    """Returns ``did you mean a, b?`` for the closest known words, or None when nothing is close."""
    close = difflib.get_close_matches(str(word), list(known), n=count, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else None


class SymmetryError(MadzooError, ValueError):
    """A declared symmetry that moves the output of its model."""


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuses what is not among the known words.

    Raises:
        ConfigError: with the known words, and the nearest.
    """
    if value not in known:
        looked = ", ".join(map(repr, known))
        raise ConfigError(f"no {name} is named {value!r}.", asked=value, looked=looked, todo=nearest(value, known))
