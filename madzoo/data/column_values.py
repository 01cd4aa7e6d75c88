"""What stands in a column of a user's table: time as dates or exact integers, values as floats.

Every doubt is a DataError of one line that names the column, and the row where there is one (counted from 1, without
the header).
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import (
    is_complex_dtype,
    is_datetime64_any_dtype,
    is_integer_dtype,
    is_numeric_dtype,
    is_object_dtype,
    is_string_dtype,
)

from madzoo.errors import DataError

__all__ = ["parse_time", "parse_values"]

LARGEST_INTEGER = 2**63 - 2  # int64, with room for one step after it
FIRST_DATE, LAST_DATE = 19000101, 21001231  # as numbers

# Offsets that change within a column, as where summer begins, have only UTC in common.
DATE_FORMS: tuple[dict[str, Any], ...] = ({"format": "ISO8601"}, {}, {"format": "ISO8601", "utc": True})


def parse_time(column: pd.Series) -> pd.Index:
    """Returns dates, or integers, which are never rounded.

    Raises:
        DataError: when a cell is empty or neither, an integer is too large, or all integers read as days (yyyymmdd):
            these are dates written as numbers, whose distances mean nothing.
    """
    empty = np.asarray(column.isna())
    if empty.any():
        raise DataError(f"time stamp column {column.name!r} has an empty cell in row {_row(empty)}.")
    column = _plain(column)
    if is_datetime64_any_dtype(column):
        return pd.DatetimeIndex(column)
    if not is_numeric_dtype(column):
        return _parse_dates(column)
    numbers = _whole_numbers(column)
    if _are_days(numbers):
        raise DataError(
            f"time stamp column {column.name!r} looks like dates written as numbers: {numbers[0]} to {numbers[-1]}.",
            todo=f"pd.to_datetime(df[{column.name!r}].astype(int).astype(str)), or 2024-01-31 in a file; "
            "where they are no dates, subtract the first of them",
        )
    return pd.Index(numbers)


def _whole_numbers(column: pd.Series) -> np.ndarray:
    """Returns int64."""
    if is_complex_dtype(column):
        raise DataError(f"time stamp column {column.name!r} holds complex numbers, neither dates nor integers.")
    whole = is_integer_dtype(column)
    numbers = column.to_numpy() if whole else np.asarray(column, dtype=np.float64)
    if not whole:
        stray = ~np.isfinite(numbers) | (numbers % 1 != 0)
        if stray.any():
            found = f"{column.iloc[_row(stray) - 1]} in row {_row(stray)}"
            raise DataError(f"time stamp column {column.name!r} holds {found}, neither a date nor an integer.")
    if len(numbers) and (numbers.max() > LARGEST_INTEGER or numbers.min() < -LARGEST_INTEGER):
        todo = "subtract the first time stamp from all"
        raise DataError(f"time stamp column {column.name!r} holds a number beyond 2**63 - 2.", todo=todo)
    return numbers.astype(np.int64)


def _are_days(numbers: np.ndarray) -> bool:
    """Whether all numbers, and not only one, are calendar days written as yyyymmdd."""
    if len(numbers) == 0 or not FIRST_DATE <= numbers.min() < numbers.max() <= LAST_DATE:
        return False
    year, month, day = numbers // 10000, numbers // 100 % 100, numbers % 100
    start = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    length = ((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(np.int64)
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= length)).all())


def _parse_dates(column: pd.Series) -> pd.DatetimeIndex:
    reasons = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas says that it guessed day first; a wrong guess fails on a later row
        for options in DATE_FORMS:
            try:
                return pd.DatetimeIndex(pd.to_datetime(column, **options))
            except (ValueError, TypeError, OverflowError) as error:
                reasons.append(str(error).splitlines()[0])
    raise DataError(f"time stamp column {column.name!r} is unreadable: {reasons[1]}")


def parse_values(column: pd.Series) -> np.ndarray:
    """Returns float64 values, NaN where a cell is empty.

    Raises:
        DataError: when a cell is infinite or no real number, as dates, durations and complex numbers are none.
    """
    column = _plain(column)
    text = is_object_dtype(column) or is_string_dtype(column)
    numbers = pd.Series(pd.to_numeric(column, errors="coerce")) if text else column
    if not is_numeric_dtype(numbers) or is_complex_dtype(numbers):
        raise _not_numeric(column, "dates" if is_datetime64_any_dtype(column) else f"{numbers.dtype}")
    values = np.asarray(numbers, dtype=np.float64)
    bad = np.isnan(values) & ~np.asarray(column.isna())
    if bad.any():
        raise _not_numeric(column, f"{column.iloc[_row(bad) - 1]!r} in row {_row(bad)}")
    if np.isinf(values).any():
        raise DataError(f"column {column.name!r} is infinite in row {_row(np.isinf(values))}.")
    return values


def _plain(column: pd.Series) -> pd.Series:
    """A column of what its categories or objects are."""
    category = isinstance(column.dtype, pd.CategoricalDtype)
    return (pd.Series(column.to_numpy(), name=column.name) if category else column).infer_objects()


def _not_numeric(column: pd.Series, found: str) -> DataError:
    return DataError(
        f"column {column.name!r} is not numeric: it holds {found}.",
        todo="target=..., the numeric columns; id_column=..., the column that names the series",
    )


def _row(where: np.ndarray) -> int:
    return int(np.flatnonzero(where)[0]) + 1
