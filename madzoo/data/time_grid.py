"""Regular time grids: the step of a series found from its time stamps, and the stamps of its future."""

from typing import Any

import pandas as pd
from pandas.tseries.frequencies import to_offset

from madzoo.errors import DataError

__all__ = ["Step", "find_step", "future_stamps", "median_step", "parse_step", "regular_grid", "season_of"]

Step = pd.tseries.offsets.BaseOffset | int  # a calendar step, or a number where time is counted in integers

MOST_GRID_POINTS_PER_ROW = 1000
MONTHS = {1: (28, 31), 3: (89, 92), 6: (181, 184), 12: (365, 366)}


def parse_step(freq: str | int, *, integer_time: bool) -> Step:
    """Returns the step a user wrote, such as ``"h"``, ``"MS"``, ``"15min"``, or 1 for integer time.

    Raises:
        DataError: when it is no frequency, or of the other kind of time.
    """
    asked = f"freq={freq!r}"
    if integer_time:
        if isinstance(freq, bool) or not isinstance(freq, int) or freq < 1:
            raise DataError("integer time needs a whole number of units as freq.", asked=asked, todo="freq=1")
        return freq
    try:
        step = to_offset(freq) if isinstance(freq, str) else None
    except ValueError as error:
        raise DataError(f"no frequency: {error}.", asked=asked, todo="'h', 'D', 'W-SUN', 'MS', '15min', ...") from error
    if step is None or step.n < 1:
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
    start = end = pd.Timestamp("2021-01-01")
    for _ in range(12):
        end = end + step
    days = (end - start).total_seconds() / (12 * 86400)
    if days < 1:
        return round(1 / days)
    if days < 2:
        return 7 if days == 1 else 5  # business days
    return max(1, round(365.25 / days)) if days > 27 else 1


def find_step(stamps: pd.Index) -> Step | None:
    """Returns the most common step of sorted time stamps, None where there are fewer than two.

    Calendar steps (months, quarters, years, business days) are recognised from the distances and days.
    """
    if len(stamps) < 2:
        return None
    if not isinstance(stamps, pd.DatetimeIndex):
        return int(stamps.to_series().diff().mode().iloc[0])
    common = stamps.to_series().diff().mode().iloc[0]
    months = next((m for m, (low, high) in MONTHS.items() if low <= common.days <= high), None)
    if months and common == common.floor("D"):
        return _month_step(stamps, months)
    if common == pd.Timedelta(days=1):
        return to_offset("B") if len(stamps) > 5 and (stamps.day_of_week < 5).all() else to_offset("D")
    return to_offset(common)


def median_step(stamps: pd.Index) -> Step:
    """Returns the median distance of sorted time stamps, for series that lie on no grid."""
    median = stamps.to_series().diff().median()
    return to_offset(median) if isinstance(stamps, pd.DatetimeIndex) else max(1, round(median))


def _month_step(stamps: pd.DatetimeIndex, months: int) -> Step:
    """A step of months keeps its day: the first, the last, or any other that all months have."""
    if (stamps == stamps + pd.offsets.MonthEnd(0)).all():
        return pd.offsets.MonthEnd(months)
    return pd.DateOffset(months=months)


def regular_grid(stamps: pd.Index, step: Step, *, owner: str) -> pd.Index:
    """Returns every stamp from the first to the last.

    Raises:
        DataError: when a given stamp is none of them, or the step is so small that almost all would be missing.
    """
    first, last = stamps[0], stamps[-1]
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
    """Returns the next time stamps after the last one."""
    if isinstance(step, int):
        return pd.RangeIndex(last + step, last + (count + 1) * step, step)
    return pd.date_range(last, periods=count + 1, freq=step)[1:]


def _name(step: Step) -> str:
    return str(step) if isinstance(step, int) else step.freqstr
