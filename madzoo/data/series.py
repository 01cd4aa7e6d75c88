"""Any user's table of time series, read into records on a regular time grid: gaps become NaN, doubts become errors.

Long tables have one row per series and time (and a column that names the series); wide tables one numeric column per
series. Where no step is given and none fits, rows are taken as equally spaced, and a warning says so.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from madzoo.data.calendar_steps import find_step
from madzoo.data.column_values import parse_time, parse_values
from madzoo.data.columns import ID_COLUMN, TIMESTAMP_COLUMN, Label, find_ids, find_targets, find_time, named_columns
from madzoo.data.time_grid import Step, future_stamps, median_step, parse_step, regular_grid
from madzoo.errors import DataError

__all__ = ["SINGLE_ITEM", "Series", "read_series", "read_table", "rows_of_items"]

SINGLE_ITEM = "0"  # the item_id where a table names no series
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Series:
    """Holds one series, on a regular grid unless its rows lie on none.

    Attributes:
        item_id: what the table calls it; ``"0"`` where the table has no id column.
        target_name: the column its values come from.
        stamps: its time stamps, without a gap (or those of its rows, where they are irregular).
        values: float64, NaN where the table has no row or no value.
        step: the distance of two stamps; the median one where they are irregular.
        rows: where in the table it stands.
    """

    item_id: Any
    target_name: str
    stamps: pd.Index
    values: np.ndarray
    step: Step
    rows: np.ndarray

    def future(self, count: int) -> pd.Index:
        """Returns the next ``count`` time stamps."""
        return future_stamps(self.stamps[-1], self.step, count)

    def on_grid(self, stamps: pd.Index, values: np.ndarray) -> np.ndarray:
        """Returns other values of its rows, such as a covariate's, at its time stamps; NaN where there is no row."""
        found = np.full(len(self.stamps), np.nan)
        found[self.stamps.get_indexer(stamps[self.rows])] = values[self.rows]
        return found


def read_series(
    source: str | Path | pd.DataFrame,
    *,
    id_column: Label = ID_COLUMN,
    timestamp_column: Label = TIMESTAMP_COLUMN,
    target: Label | Sequence[Label] | None = None,
    freq: Step | str | None = None,
) -> list[Series]:
    """Reads every series of a CSV file, a Parquet file or a data frame.

    Args:
        source: a path, or the table itself, which is left as it is.
        id_column: names the series. The default is looked for under its usual names and may be absent.
        timestamp_column: time, as dates or integers. The default is looked for by usual names, then by type.
        target: the column or columns to forecast; None takes every other column, which must then be numeric. A column
            labelled by a number is called by its text.
        freq: the step, a pandas offset or its name or (integer time) a number; None: the most common step of each
            series. A series of one row then takes the step of the others, and without any a day (integer time: 1); one
            whose rows lie on no grid is taken as equally spaced. A warning tells of both.

    Raises:
        DataError: in one line, when the file is missing, empty or unreadable, a column is missing or not numeric, the
            time stamps of a series are unreadable, unsorted, duplicate, dates written as numbers (20240131), or off the
            grid of a given ``freq``, or a value is infinite.
        ConfigError: when a column is asked for by no name, or as the id and as the time.

    Example:
        >>> table = pd.DataFrame({"date": ["2024-01-01", "2024-01-02", "2024-01-04"], "sales": [3, 4, 6]})
        >>> series = read_series(table)[0]
        >>> series.target_name, series.values.tolist()
        ('sales', [3.0, 4.0, nan, 6.0])
    """
    table = source if isinstance(source, pd.DataFrame) else read_table(Path(source))
    table = named_columns(table)
    ids = find_ids(table, id_column)
    time = find_time(table, timestamp_column, exclude=ids)
    targets = find_targets(table, target, exclude={ids, time})
    stamps = parse_time(pd.Series(table[time]))
    values = {name: parse_values(pd.Series(table[name])) for name in targets}
    rows = rows_of_items(table, ids)
    for item, where in rows.items():
        _check_order(stamps[where], f"{time!r}" if ids is None else f"{time!r} of series {item}")
    grids = _grids({item: stamps[where] for item, where in rows.items()}, freq)
    return [
        _on_grid(item, name, where, stamps[where], values[name], *grids[item])
        for item, where in rows.items()
        for name in targets
    ]


def read_table(path: Path) -> pd.DataFrame:
    """Reads a CSV or Parquet file.

    Raises:
        DataError: when it is missing, empty or unreadable.
    """
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


def rows_of_items(table: pd.DataFrame, ids: str | None) -> dict[Any, np.ndarray]:
    """Returns where in a table each series stands, in the order of its first rows.

    Raises:
        DataError: when a cell of the id column is empty, or holds a list.
    """
    if ids is None:
        return {SINGLE_ITEM: np.arange(len(table))}
    try:
        codes, items = pd.factorize(table[ids])
    except TypeError as error:
        raise DataError(f"id column {ids!r} holds what names nothing: {error}.", todo="text or numbers") from error
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


def _grids(stamps: dict[Any, pd.Index], freq: Step | str | None) -> dict[Any, tuple[pd.Index, Step]]:
    """The grid and the step of every series; series with the same time stamps share them."""
    dates = isinstance(next(iter(stamps.values())), pd.DatetimeIndex)
    given = None if freq is None else parse_step(freq, integer_time=not dates)
    kept: dict[bytes, tuple[pd.Index, Step] | None] = {}
    found = {item: _grid(kept, index, given, owner=f"series {item}") for item, index in stamps.items()}
    steps = [entry[1] for entry in found.values() if entry is not None]
    if not steps:
        logger.warning("the step of single rows is unknown: %s is assumed; freq=... says it.", "a day" if dates else 1)
    usual = steps[0] if steps else parse_step("D" if dates else 1, integer_time=not dates)
    return {item: (stamps[item], usual) if entry is None else entry for item, entry in found.items()}


def _grid(
    kept: dict[bytes, tuple[pd.Index, Step] | None], stamps: pd.Index, given: Step | None, *, owner: str
) -> tuple[pd.Index, Step] | None:
    """The grid and the step of one series, None for a single row without a given step."""
    key = (stamps.asi8 if isinstance(stamps, pd.DatetimeIndex) else stamps.to_numpy()).tobytes()
    if key not in kept:
        kept[key] = _make_grid(stamps, given, owner)
    return kept[key]


def _make_grid(stamps: pd.Index, given: Step | None, owner: str) -> tuple[pd.Index, Step] | None:
    step = find_step(stamps) if given is None else given
    if step is None:
        return None
    try:
        return regular_grid(stamps, step, owner=owner), step
    except DataError as error:
        if given is not None:
            raise
        reason = str(error).splitlines()[0]
        logger.warning("%s Its rows are taken as equally spaced; freq=... asks for a grid.", reason)
        return stamps, median_step(stamps)


def _on_grid(
    item: Any, name: str, rows: np.ndarray, stamps: pd.Index, column: np.ndarray, grid: pd.Index, step: Step
) -> Series:
    values = column[rows]
    if len(grid) > len(rows):
        values = np.full(len(grid), np.nan)
        values[grid.get_indexer(stamps)] = column[rows]
    return Series(item_id=item, target_name=name, stamps=grid, values=values, step=step, rows=rows)
