"""The columns of a user's table: which one is time, which names the series, which hold values, and their content.

Every doubt is a DataError of one line that names the column, and the row where there is one (counted from 1, without
the header).
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

from madzoo.errors import DataError, nearest

__all__ = ["ID_COLUMN", "TIMESTAMP_COLUMN", "find_ids", "find_targets", "find_time", "parse_time", "parse_values"]

ID_COLUMN = "item_id"
TIMESTAMP_COLUMN = "timestamp"
ID_NAMES = (ID_COLUMN, "unique_id", "series_id")
TIMESTAMP_NAMES = (TIMESTAMP_COLUMN, "date", "datetime", "time", "ds", "day", "week", "month", "year")

# Offsets that change within a column, as where summer begins, have only UTC in common.
DATE_FORMS: tuple[dict[str, Any], ...] = ({"format": "ISO8601"}, {}, {"format": "ISO8601", "utc": True})


def find_ids(table: pd.DataFrame, asked: str) -> str | None:
    """Returns the column that names the series; the default name may be absent, or be one of its usual forms."""
    if asked in table:
        return asked
    if asked != ID_COLUMN:
        raise _no_column(table, asked, "id_column")
    return next((name for name in table if str(name).lower() in ID_NAMES), None)


def find_time(table: pd.DataFrame, asked: str, *, exclude: str | None) -> str:
    """Returns the column of time; the default is looked for by usual names, then by type, then by content."""
    if asked in table:
        return asked
    if asked != TIMESTAMP_COLUMN:
        raise _no_column(table, asked, "timestamp_column")
    columns = [name for name in table if name != exclude]
    by_name = [name for known in TIMESTAMP_NAMES for name in columns if name.lower() == known]
    by_type = [name for name in columns if is_datetime64_any_dtype(table[name])]
    by_text = [name for name in columns if _is_dates(pd.Series(table[name]))]
    for name in [*by_name, *by_type, *by_text]:
        return name
    raise DataError(
        "no time stamp column was found.",
        looked=f"columns {', '.join(columns)}",
        todo="timestamp_column=..., the column of dates (or of integer time)",
    )


def find_targets(table: pd.DataFrame, asked: str | Sequence[str] | None, *, exclude: set[str | None]) -> list[str]:
    """Returns the columns to forecast; None asks for every other one."""
    if asked is None:
        targets = [name for name in table if name not in exclude]
    else:
        targets = [asked] if isinstance(asked, str) else list(asked)
    for name in targets:
        if name not in table:
            raise _no_column(table, name, "target")
        if name in exclude:
            raise DataError(f"column {name!r} is the id or the time, it cannot be a target.", asked=f"target={name}")
    if not targets:
        raise DataError("there is no column to forecast.", looked=f"columns {', '.join(table)}")
    return targets


def parse_time(column: pd.Series) -> pd.Index:
    """Returns dates, or integers."""
    empty = np.asarray(column.isna())
    if empty.any():
        raise DataError(f"time stamp column {column.name!r} has an empty cell in row {_row(empty)}.")
    if is_datetime64_any_dtype(column):
        return pd.DatetimeIndex(column)
    if not is_numeric_dtype(column):
        return _parse_dates(column)
    numbers = np.asarray(column, dtype=np.float64)
    stray = ~np.isfinite(numbers) | (numbers % 1 != 0)
    if stray.any():
        found = f"{column.iloc[_row(stray) - 1]} in row {_row(stray)}"
        raise DataError(f"time stamp column {column.name!r} holds {found}, neither a date nor an integer.")
    return pd.Index(numbers.astype(np.int64))


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
    """Returns float64 values, NaN where a cell is empty."""
    values = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    bad = np.isnan(values) & ~np.asarray(column.isna())
    if bad.any() or is_datetime64_any_dtype(column):
        found = f"{column.iloc[_row(bad) - 1]!r} in row {_row(bad)}" if bad.any() else "dates"
        raise DataError(
            f"column {column.name!r} is not numeric: it holds {found}.",
            todo="target=..., the numeric columns; id_column=..., the column that names the series",
        )
    if np.isinf(values).any():
        raise DataError(f"column {column.name!r} is infinite in row {_row(np.isinf(values))}.")
    return values


def _is_dates(column: pd.Series) -> bool:
    sample = column.dropna().head(100)
    if is_numeric_dtype(column) or len(sample) == 0:
        return False
    return bool(np.asarray(pd.to_datetime(sample, errors="coerce", format="ISO8601").notna()).all())


def _no_column(table: pd.DataFrame, asked: str, option: str) -> DataError:
    todo = nearest(asked, table.columns)
    return DataError(f"there is no column {asked!r}.", asked=f"{option}={asked}", looked=", ".join(table), todo=todo)


def _row(where: np.ndarray) -> int:
    return int(np.flatnonzero(where)[0]) + 1
