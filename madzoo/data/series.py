"""Any user's table of time series, read into records on a regular time grid: gaps become NaN, doubts become errors.

Long tables have one row per series and time (and a column that names the series); wide tables one numeric column per
series.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from madzoo.data.columns import ID_COLUMN, TIMESTAMP_COLUMN, find_ids, find_targets, find_time, parse_time, parse_values
from madzoo.data.time_grid import Step, find_step, future_stamps, parse_step, regular_grid
from madzoo.errors import DataError

__all__ = ["Series", "read_series"]

SINGLE_ITEM = "0"  # the item_id where a table names no series


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Series:
    """Holds one series on its regular grid.

    Attributes:
        item_id: what the table calls it; ``"0"`` where the table has no id column.
        target_name: the column its values come from.
        stamps: its time stamps, without a gap.
        values: float64, NaN where the table has no row or no value.
        step: the distance of two stamps.
    """

    item_id: Any
    target_name: str
    stamps: pd.Index
    values: np.ndarray
    step: Step

    def future(self, count: int) -> pd.Index:
        """Returns the next ``count`` time stamps."""
        return future_stamps(self.stamps[-1], self.step, count)


def read_series(
    source: str | Path | pd.DataFrame,
    *,
    id_column: str = ID_COLUMN,
    timestamp_column: str = TIMESTAMP_COLUMN,
    target: str | Sequence[str] | None = None,
    freq: str | int | None = None,
) -> list[Series]:
    """Reads every series of a CSV file, a Parquet file or a data frame.

    Args:
        source: a path, or the table itself, which is left as it is.
        id_column: names the series. The default is looked for under its usual names and may be absent.
        timestamp_column: time, as dates or integers. The default is looked for by usual names, then by type.
        target: the column or columns to forecast; None takes every other column, which must then be numeric.
        freq: the step, a pandas offset or (integer time) a number; None: the most common step of each series, so
            that only a table of single rows needs one.

    Raises:
        DataError: in one line, when the file is missing, empty or unreadable, a column is missing or not numeric, the
            time stamps of a series are unreadable, unsorted, duplicate or irregular, a value is infinite, or no step
            can be found.

    Example:
        >>> table = pd.DataFrame({"date": ["2024-01-01", "2024-01-02", "2024-01-04"], "sales": [3, 4, 6]})
        >>> series = read_series(table)[0]
        >>> series.target_name, series.values.tolist()
        ('sales', [3.0, 4.0, nan, 6.0])
    """
    table = source if isinstance(source, pd.DataFrame) else _read_file(Path(source))
    table = _checked(table)
    ids = find_ids(table, id_column)
    time = find_time(table, timestamp_column, exclude=ids)
    targets = find_targets(table, target, exclude={ids, time})
    stamps = parse_time(pd.Series(table[time]))
    values = {name: parse_values(pd.Series(table[name])) for name in targets}
    rows = _rows_of_items(table, ids)
    for item, where in rows.items():
        _check_order(stamps[where], f"{time!r}" if ids is None else f"{time!r} of series {item}")
    dates = isinstance(stamps, pd.DatetimeIndex)
    steps = _steps({i: stamps[where] for i, where in rows.items()}, freq, integer_time=not dates)
    return [
        _on_grid(item, name, stamps[where], values[name][where], steps[item])
        for item, where in rows.items()
        for name in targets
    ]


def _read_file(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError("there is no such file." if not path.exists() else "this is no file.", asked=path)
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, skipinitialspace=True)
    except pd.errors.EmptyDataError as error:
        raise DataError("the file is empty.", asked=path) from error
    except (ValueError, OSError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"the file is no readable CSV or Parquet table: {reason}", asked=path) from error


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    names = [str(name) for name in table.columns]
    if table.empty:
        raise DataError("the table has no rows.", looked=f"columns {', '.join(names)}" if names else None)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"two columns are named {sorted(twice)[0]!r}.", looked=", ".join(names))
    return table.set_axis(names, axis=1)


def _rows_of_items(table: pd.DataFrame, ids: str | None) -> dict[Any, np.ndarray]:
    if ids is None:
        return {SINGLE_ITEM: np.arange(len(table))}
    codes, items = pd.factorize(table[ids])
    if (codes < 0).any():
        raise DataError(f"id column {ids!r} has an empty cell in row {int(np.flatnonzero(codes < 0)[0]) + 1}.")
    order = np.argsort(codes, kind="stable")
    return dict(zip(items, np.split(order, np.bincount(codes).cumsum()[:-1]), strict=True))


def _check_order(stamps: pd.Index, owner: str) -> None:
    if stamps.has_duplicates:
        twice = stamps[stamps.duplicated()][0]
        raise DataError(f"duplicate time stamp {twice} in {owner}.", todo="id_column=..., if the table has many series")
    if not stamps.is_monotonic_increasing:
        early = stamps[1:][np.asarray(stamps[1:] < stamps[:-1])][0]
        raise DataError(f"unsorted time stamps in {owner}: {early} comes after a later one.", todo="sort the table")


def _steps(stamps: dict[Any, pd.Index], freq: str | int | None, *, integer_time: bool) -> dict[Any, Step]:
    """The step of every series; a series of one row takes that of the first longer one."""
    if freq is not None:
        return dict.fromkeys(stamps, parse_step(freq, integer_time=integer_time))
    found = {item: step for item, index in stamps.items() if (step := find_step(index)) is not None}
    if not found:
        raise DataError("the step of a single row is unknown.", todo="freq=..., such as 'D' or 'h'")
    return {item: found.get(item, next(iter(found.values()))) for item in stamps}


def _on_grid(item: Any, name: str, stamps: pd.Index, values: np.ndarray, step: Step) -> Series:
    grid = regular_grid(stamps, step, owner=f"series {item}")
    on_grid = np.full(len(grid), np.nan)
    on_grid[grid.get_indexer(stamps)] = values
    return Series(item_id=item, target_name=name, stamps=grid, values=on_grid, step=step)
