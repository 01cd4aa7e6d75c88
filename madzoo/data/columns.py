"""The columns of a user's table: which one is time, which names the series, which hold values.

A column may be labelled by anything; its name is the label's text. Every doubt is an error of one line that names the
column.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_hashable, is_numeric_dtype

from madzoo.errors import ConfigError, DataError, nearest

__all__ = [
    "ID_COLUMN", "TIMESTAMP_COLUMN", "Label", "column_name", "column_names", "find_ids", "find_targets", "find_time",
    "named_columns",
]  # fmt: skip

Label = str | int

ID_COLUMN = "item_id"
TIMESTAMP_COLUMN = "timestamp"
ID_NAMES = (ID_COLUMN, "unique_id", "series_id")
TIMESTAMP_NAMES = (TIMESTAMP_COLUMN, "date", "datetime", "time", "ds", "day", "week", "month", "year")


def named_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table whose columns are labelled by their names; the one given is left as it is.

    Raises:
        DataError: when it has no rows, or two columns of one name.
    """
    names = [str(label) for label in table.columns]
    if table.empty:
        raise DataError("the table has no rows.", looked=f"columns {', '.join(names)}" if names else None)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"two columns are named {sorted(twice)[0]!r}.", looked=", ".join(names))
    return table.set_axis(names, axis=1)


def column_name(asked: Any, option: str) -> str:
    """Returns the name of the column that an option asks for by its label.

    Raises:
        ConfigError: when that is None or a list: an option is left out to ask for its default.
    """
    if asked is None or not is_hashable(asked):
        raise ConfigError(f"{option} is the name of one column.", asked=f"{option}={asked}", todo=f"leave {option} out")
    return str(asked)


def column_names(asked: Any, option: str) -> list[str]:
    """Returns the names of the columns that an option asks for by one label or a list of them.

    Raises:
        ConfigError: when a label is None or a list.
    """
    many = isinstance(asked, Iterable) and not isinstance(asked, (str, bytes))
    return [column_name(label, option) for label in asked] if many else [column_name(asked, option)]


def find_ids(table: pd.DataFrame, asked: Any) -> str | None:
    """Returns the column that names the series; the default name may be absent, or be one of its usual forms."""
    name = column_name(asked, "id_column")
    if name in table:
        return name
    if name != ID_COLUMN:
        raise _no_column(table, name, "id_column")
    return next((known for known in table if known.lower() in ID_NAMES), None)


def find_time(table: pd.DataFrame, asked: Any, *, exclude: str | None) -> str:
    """Returns the column of time; the default is looked for by usual names, then by type, then by content.

    Args:
        table: with named columns.
        asked: the label of the column.
        exclude: the column that names the series, which cannot be time.
    """
    name = column_name(asked, "timestamp_column")
    if name in table:
        if name == exclude:
            asked = f"id_column={name}, timestamp_column={name}"
            raise ConfigError(f"column {name!r} is asked for as the id and as the time.", asked=asked)
        return name
    if name != TIMESTAMP_COLUMN:
        raise _no_column(table, name, "timestamp_column")
    columns = [known for known in table if known != exclude]
    by_name = [known for usual in TIMESTAMP_NAMES for known in columns if known.lower() == usual]
    by_type = [known for known in columns if is_datetime64_any_dtype(table[known])]
    by_text = [known for known in columns if _is_dates(pd.Series(table[known]))]
    for known in [*by_name, *by_type, *by_text]:
        return known
    raise DataError(
        "no time stamp column was found.",
        looked=f"columns {', '.join(columns)}",
        todo="timestamp_column=..., the column of dates (or of integer time)",
    )


def find_targets(table: pd.DataFrame, asked: Any, *, exclude: set[str | None]) -> list[str]:
    """Returns the columns to forecast; None asks for every other one."""
    everything = [name for name in table if name not in exclude]
    targets = everything if asked is None else column_names(asked, "target")
    for name in targets:
        if name not in table:
            raise _no_column(table, name, "target")
        if name in exclude:
            raise DataError(f"column {name!r} is the id or the time, it cannot be a target.", asked=f"target={name}")
    if not targets:
        raise DataError("there is no column to forecast.", looked=f"columns {', '.join(table)}")
    return targets


def _is_dates(column: pd.Series) -> bool:
    sample = column.dropna().head(100).infer_objects()
    if is_numeric_dtype(sample) or len(sample) == 0:
        return False
    return bool(np.asarray(pd.to_datetime(sample, errors="coerce", format="ISO8601").notna()).all())


def _no_column(table: pd.DataFrame, asked: str, option: str) -> DataError:
    todo = nearest(asked, table.columns)
    return DataError(f"there is no column {asked!r}.", asked=f"{option}={asked}", looked=", ".join(table), todo=todo)
