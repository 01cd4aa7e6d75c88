"""Regular time grids: the step a user asks for, the stamps between the first and the last, and those of the future."""

import operator
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from madzoo.errors import DataError

__all__ = ["Step", "future_stamps", "median_step", "parse_step", "regular_grid", "season_of"]

Step = pd.tseries.offsets.BaseOffset | int  # a calendar step, or a number where time is counted in integers

MOST_GRID_POINTS_PER_ROW = 1000
LARGEST_INTEGER = 2**63 - 1


def parse_step(freq: Step | str, *, integer_time: bool) -> Step:
    """Returns the step a user wrote, such as ``"h"``, ``"MS"``, ``"15min"``, an offset, or 1 for integer time.

    Raises:
        DataError: when it is no frequency, or of the other kind of time.
    """
    asked = f"freq={freq!r}"
    return _parse_number(freq, asked) if integer_time else _parse_offset(freq, asked)


def _parse_number(freq: Any, asked: str) -> int:
    try:
        step = 0 if isinstance(freq, bool) else operator.index(freq)
    except TypeError:
        step = 0
    if step < 1:
        raise DataError("integer time needs a whole number of units as freq.", asked=asked, todo="freq=1")
    return step


def _parse_offset(freq: Any, asked: str) -> pd.tseries.offsets.BaseOffset:
    try:
        step = to_offset(freq) if isinstance(freq, (str, pd.tseries.offsets.BaseOffset)) else None
    except ValueError as error:
        raise DataError(f"no frequency: {error}.", asked=asked, todo="'h', 'D', 'W-SUN', 'MS', '15min', ...") from error
    start = pd.Timestamp("2021-01-01")
    if step is None or not start + step > start:
        raise DataError("a frequency is a positive pandas offset.", asked=asked, todo="'h', 'D', 'MS', '15min', ...")
    return step


def season_of(step: Step) -> int:
    """Returns how many steps a season usually has: a day of hours or finer, a week of days, a year of months.

    Weeks and years have none (1); integer time tells nothing and counts as hours (24).

    Example:
        >>> [season_of(to_offset(step)) for step in ("15min", "D", "QS", "YE")]
        [96, 7, 4, 1]
    """
    if isinstance(step, int):
        return 24
    start = end = pd.Timestamp("2021-01-01") + step
    for _ in range(12):
        end = end + step
    days = (end - start).total_seconds() / (12 * 86400)
    if days < 1:
        return round(1 / days)
    if days < 2:
        return 7 if days == 1 else 5  # business days
    return max(1, round(365.25 / days)) if days > 27 else 1


def median_step(stamps: pd.Index) -> Step:
    """Returns the median distance of sorted time stamps, for series that lie on no grid."""
    if isinstance(stamps, pd.DatetimeIndex):
        return to_offset(stamps.to_series().diff().median())
    return max(1, round(float(np.median(np.diff(stamps.to_numpy())))))


def regular_grid(stamps: pd.Index, step: Step, *, owner: str) -> pd.Index:
    """Returns every stamp from the first to the last.

    Raises:
        DataError: when a given stamp is none of them, or the step is so small that almost all would be missing.
    """
    first, last = stamps[0], stamps[-1]
    if isinstance(step, int):
        first, last = int(first), int(last)  # whose differences have no end
        points = (last - first) / step + 1
    else:
        points = (last - first) / ((first + step) - first) + 1
    if points > MOST_GRID_POINTS_PER_ROW * len(stamps) + 1:
        found = f"{len(stamps)} rows, {points:.0f} steps from {first} to {last}"
        raise DataError(f"{owner}: the step {_name(step)} is too small for these time stamps.", resolved=found)
    grid = pd.RangeIndex(first, last + 1, step) if isinstance(step, int) else pd.date_range(first, last, freq=step)
    strays = stamps[~stamps.isin(grid)]
    if len(strays):
        raise DataError(
            f"{owner}: time stamp {strays[0]} lies off the regular grid of step {_name(step)} from {first}.",
            looked=f"{len(strays)} of {len(stamps)} time stamps are off it",
            todo="freq=..., or resample the series to a regular step",
        )
    return grid


def future_stamps(last: Any, step: Step, count: int) -> pd.Index:
    """Returns the next time stamps after the last one.

    Raises:
        DataError: when they go beyond what the time's own type holds, such as the year 2262 in nanoseconds.
    """
    if isinstance(step, int):
        start, stop = int(last) + step, int(last) + (count + 1) * step
        if stop > LARGEST_INTEGER:
            raise DataError(f"the {count} steps of {step} after {last} go beyond 64 bits.", todo="a shorter horizon")
        return pd.RangeIndex(start, stop, step)
    try:
        return pd.date_range(last, periods=count + 1, freq=step)[1:]
    except (ValueError, OverflowError) as error:  # OutOfBoundsDatetime is a ValueError
        raise DataError(
            f"the {count} steps of {_name(step)} after {last} go beyond the dates that pandas holds: {error}.",
            looked=f"time stamps in units of {last.unit}",
            todo="a shorter horizon, or df[...].dt.as_unit('us') where the unit is ns",
        ) from error


def _name(step: Step) -> str:
    return str(step) if isinstance(step, int) else step.freqstr
