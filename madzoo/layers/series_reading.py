"""What ``predict`` is given, read as series of numbers: tensors, arrays, tables' columns and lists.

Arrays are read by what every array offers (``dtype``, ``astype``, ``__array__``), so no library of arrays is imported.

Axes: B series, L length, C channels.
"""

import math
import operator
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import ConfigError, DataError, ShapeError

__all__ = ["each_of", "read_array", "read_past", "read_series", "whole_number", "widest"]


def whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """Returns a whole number as Python's own, whatever library it comes from.

    Raises:
        ConfigError: when it is none, or below ``least``.

    Example:
        >>> whole_number("steps", torch.tensor(3))
        3
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise ConfigError(f"{name} is a whole number, at least {least}.", asked=repr(value))
    return found


def each_of(
    name: str, values: Any, *, todo: str = "a tensor [B, L, C], or a list of [L] or [L, C] arrays"
) -> list[Any]:
    """Returns the parts of what holds one for every series.

    Raises:
        DataError: when it holds no parts.
    """
    try:
        return list(values)
    except TypeError as error:
        found = type(values).__name__
        raise DataError(f"{name} holds nothing for each series.", asked=found, todo=todo) from error


def read_array(x: Any, name: str = "a series") -> Tensor:
    """Returns an array of numbers as a tensor of floating-point numbers; its own memory where x is no tensor.

    Masked, empty (``None``) and not available values of arrays become NaN. Any order of bytes and of memory is read;
    whole numbers, and numbers that are objects, become float64; narrower numbers than float32 become float32.

    Raises:
        DataError: when x is no array of real numbers, or one of them is infinite.

    Example:
        >>> read_array([1, 2]).dtype
        torch.float64
    """
    try:
        found = x if isinstance(x, Tensor) else _from_array(x)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"{name} is not an array of numbers.", asked=f"{type(x).__name__}: {error}") from error
    if found.is_complex():
        raise DataError(f"{name} is not an array of real numbers.", asked=str(found.dtype), todo="its real part")
    # Integers beyond 2**24 are no float32.
    wide = torch.promote_types(found.dtype, torch.float32) if found.is_floating_point() else torch.float64
    return _finite(found.to(wide), name)


def read_series(x: Any) -> Tensor:
    """Returns one series [L, C] of floating-point numbers.

    Raises:
        DataError: when it is no array of real numbers, or holds an infinite value.
        ShapeError: when it has other axes than [L] or [L, C].
    """
    series = read_array(x)
    if series.ndim not in (1, 2):
        raise ShapeError("a series is [L] or [L, C].", asked=list(series.shape))
    return series.unsqueeze(-1) if series.ndim == 1 else series


def read_past(past_values: Any, *, num_channels: int | None, context_length: int) -> Sequence[Tensor] | Tensor:
    """Returns series of one dtype, cropped to the context: a tensor [B, L, C] as it is, or a list of [L, C].

    Raises:
        DataError: when it holds no series, something that is no real number, or an infinite value.
        ShapeError: when it is empty, or axes or channels do not fit.
    """
    if isinstance(past_values, Tensor):
        if past_values.ndim != 3:
            raise ShapeError("past_values is a tensor [B, L, C].", asked=list(past_values.shape))
        series: Any = read_array(past_values, "past_values")
    else:
        series = [read_series(x) for x in each_of("past_values", past_values)]
    if len(series) == 0 or any(x.numel() == 0 for x in series):
        raise ShapeError("past_values is empty: a forecast needs a series of at least one step.")
    if len({x.shape[1] for x in series}) > 1 or num_channels not in (None, series[0].shape[1]):
        found = sorted({x.shape[1] for x in series})
        raise ShapeError("the channels of past_values differ, or do not fit the model.", asked=found)
    if isinstance(series, Tensor):
        return series[:, -context_length:]
    dtype = widest(series)
    return [x[-context_length:].to(dtype) for x in series]


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """Returns the dtype that loses no digit of any of them."""
    return max((x.dtype for x in tensors), key=lambda dtype: torch.finfo(dtype).bits)


def _from_array(x: Any) -> Tensor:
    if not hasattr(x, "dtype") and not hasattr(x, "__array__"):
        return torch.tensor(x, dtype=torch.float64)  # plain numbers are doubles, which torch would narrow
    x = _as_array(x)
    kind = x.dtype.kind
    if kind == "O" and not all(one is None or isinstance(one, Real | Decimal) for one in x.ravel().tolist()):
        raise TypeError("objects that are no numbers")
    if kind not in "biufO":
        raise TypeError(f"{x.dtype} is no real number")
    keeps_dtype = kind == "f" and x.dtype.itemsize <= torch.float64.itemsize
    numbers = x.astype(x.dtype.newbyteorder("=") if keeps_dtype else "float64").reshape(x.shape)
    numbers = numbers.filled(math.nan) if hasattr(numbers, "filled") else numbers[...]
    # A copy in the order of its axes: what is reversed, transposed or read-only is no memory of a tensor.
    return torch.from_numpy(numbers.copy(order="C"))


def _as_array(x: Any) -> Any:
    """Returns an array of numpy, which keeps a mask where x has one."""
    if hasattr(x, "to_numpy"):
        found = x.to_numpy()
        # What tables call not available is no number; None is one that is missing.
        return x.to_numpy(dtype=object, na_value=None) if found.dtype.kind == "O" and hasattr(x, "isna") else found
    return x if hasattr(x, "astype") else x.__array__()


def _finite(x: Tensor, name: str) -> Tensor:
    if x.isinf().any():
        raise DataError(f"{name} holds an infinite value.", todo="NaN where a value is missing")
    return x
