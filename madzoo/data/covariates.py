"""Covariates of a user's table: columns beside the target, laid on the grid of each series and on its future.

Past covariates are known as long as the target; known-future ones also for the steps to forecast; static ones are one
value a series.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from madzoo.data.column_values import parse_time, parse_values
from madzoo.data.columns import ID_COLUMN, find_ids, find_time
from madzoo.data.series import Series, rows_of_items
from madzoo.errors import DataError, nearest

__all__ = ["future_columns", "read_future", "read_past", "read_static"]


def read_past(
    table: pd.DataFrame, series: Sequence[Series], names: Sequence[str], *, timestamp_column: str
) -> list[Any]:
    """Returns one array [L, K] for every series, on its time stamps; NaN where the table has no row or no value.

    Raises:
        DataError: when a column is missing or not numeric.
    """
    stamps = parse_time(pd.Series(table[timestamp_column]))
    columns = [parse_values(pd.Series(table[_known(table, name)])) for name in names]
    return [_side_by_side([one.on_grid(stamps, column) for column in columns], len(one.stamps)) for one in series]


def read_static(table: pd.DataFrame, series: Sequence[Series], names: Sequence[str]) -> np.ndarray:
    """Returns [series, K]: the one value of each column in the rows of each series.

    Raises:
        DataError: when a column is missing, not numeric, or changes within a series.
    """
    columns = [parse_values(pd.Series(table[_known(table, name)])) for name in names]
    found = np.array([[column[one.rows[0]] for column in columns] for one in series])
    for place, one in enumerate(series):
        for number, column in enumerate(columns):
            if not np.array_equal(column[one.rows], np.full(len(one.rows), found[place, number]), equal_nan=True):
                raise DataError(f"static covariate {names[number]!r} changes within series {one.item_id}.")
    return found


def future_columns(future: pd.DataFrame, *, id_column: str, timestamp_column: str) -> list[str]:
    """Returns the columns of a table of the future that are neither id nor time: the known-future covariates."""
    ids = find_ids(future, id_column) if id_column in (*future, ID_COLUMN) else None
    try:
        time = find_time(future, timestamp_column, exclude=ids)
    except DataError:  # told by read_future, once it is known that the covariates can be used
        time = None
    return [name for name in future if name not in (ids, time)]


def read_future(
    future: pd.DataFrame, series: Sequence[Series], names: Sequence[str], horizon: int, *, id_column: str,
    timestamp_column: str,
) -> list[Any]:  # fmt: skip
    """Returns one array [H, K] for every series: its covariates at the steps to forecast.

    Raises:
        DataError: when the table lacks a series, a step or a value, has a step twice, or a series that the past lacks.
    """
    ids = find_ids(future, id_column)
    stamps = parse_time(pd.Series(future[find_time(future, timestamp_column, exclude=ids)]))
    values = _side_by_side([parse_values(pd.Series(future[name])) for name in names], len(future))
    rows = rows_of_items(future, ids)
    if strangers := sorted(map(str, rows.keys() - {one.item_id for one in series})):
        raise DataError(
            f"future_df has series that the table of the past lacks: {', '.join(strangers[:5])}.",
            looked=f"{len({one.item_id for one in series})} series of the past",
            todo="the same ids in both tables",
        )
    return [_future_of(one, stamps, values, rows.get(one.item_id, np.empty(0, int)), horizon) for one in series]


def _future_of(one: Series, stamps: pd.Index, values: np.ndarray, rows: np.ndarray, horizon: int) -> np.ndarray:
    asked = one.future(horizon)
    if stamps[rows].has_duplicates:
        raise DataError(f"future_df has a time stamp of series {one.item_id} twice.")
    places = stamps[rows].get_indexer(asked)
    if (places < 0).any():
        raise DataError(
            f"future_df has no row for series {one.item_id} at {asked[places < 0][0]}.",
            looked=f"{len(rows)} rows of that series",
            todo=f"one row for each of the {horizon} steps after {one.stamps[-1]}",
        )
    found = values[rows[places]]
    if np.isnan(found).any():
        raise DataError(f"a known-future covariate of series {one.item_id} is empty at a step to forecast.")
    return found


def _side_by_side(columns: Sequence[np.ndarray], length: int) -> np.ndarray:
    return np.stack(columns, axis=1) if columns else np.empty((length, 0))


def _known(table: pd.DataFrame, name: str) -> str:
    if name not in table:
        known = [str(column) for column in table]
        todo = nearest(name, known)
        raise DataError(f"there is no column {name!r}.", asked="a covariate", looked=", ".join(known), todo=todo)
    return name
