"""Turns whatever code outside madzoo raises on bad input into one error of madzoo."""

import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from madzoo.errors import MadzooError

__all__ = ["refusing"]

# Everything that a damaged file inside torch.load, an odd value inside a configuration, or an odd option of timm was
# seen to raise. A failure of madzoo itself keeps its own error, and its traceback in any case.
FOREIGN_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def refusing(kind: type[MadzooError], why: str, **answers: Any) -> Iterator[None]:
    """Raises ``kind`` for any foreign error of the block, and lets errors of madzoo pass.

    Args:
        kind: the error to raise.
        why: what the block was doing; the first line of the foreign message is added.
        answers: the other answers of :class:`MadzooError`.

    Example:
        >>> from madzoo.errors import ConfigError
        >>> with refusing(ConfigError, "no size", asked="x"):
        ...     int("x")
        Traceback (most recent call last):
        madzoo.errors.ConfigError: no size: invalid literal for int() with base 10: 'x'.
          asked: x
    """
    try:
        yield
    except MadzooError:
        raise
    except FOREIGN_ERRORS as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise kind(f"{why}: {told.rstrip('.')}.", **answers) from error
