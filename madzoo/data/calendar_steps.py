"""The step of a series found from its time stamps: months and business days where the calendar says so."""

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

__all__ = ["find_step"]

DAYS_OF_EVERY_MONTH = 28


def find_step(stamps: pd.Index) -> pd.tseries.offsets.BaseOffset | int | None:
    """Returns the most common step of sorted time stamps, None where there are fewer than two.

    A step of months is one where each row lies in a month of its own, all on the first day, the last, the first or
    last business day, or the same day of the month (or the last, where a month has no such day). Any other step of
    whole days is a number of days, or a business day where the rows span a weekend and none lies on one.

    Example:
        >>> stamps = pd.to_datetime(["2024-05-31", "2024-06-28", "2024-07-31", "2024-10-31"])
        >>> find_step(stamps), find_step(stamps + pd.Timedelta(hours=12)), find_step(pd.Index([3, 5, 9, 11]))
        (<BusinessMonthEnd>, <BusinessMonthEnd>, 2)
    """
    if len(stamps) < 2:
        return None
    if not isinstance(stamps, pd.DatetimeIndex):
        return _most_common(np.diff(stamps.to_numpy()))
    on_the_wall = stamps.tz_localize(None)
    days = on_the_wall.to_numpy().astype("datetime64[D]")
    same_clock = np.ptp((on_the_wall - on_the_wall.normalize()).asi8) == 0
    if same_clock and (np.diff(days) >= np.timedelta64(1, "D")).all():
        return _month_step(days) or _day_step(days)
    return to_offset(pd.to_timedelta(_most_common(np.diff(stamps.asi8)), unit=stamps.unit))


def _day_step(days: np.ndarray) -> pd.tseries.offsets.BaseOffset:
    common = _most_common(np.diff(days).astype(np.int64))
    span = (days[-1] - days[0]).astype(np.int64)
    if common == 1 and span > 4 and np.is_busday(days).all():
        return pd.offsets.BusinessDay()
    return pd.offsets.Day(common)


def _month_step(days: np.ndarray) -> pd.tseries.offsets.BaseOffset | None:
    months = days.astype("datetime64[M]")
    distances = np.diff(months).astype(np.int64)
    if (distances < 1).any():
        return None
    count = _most_common(distances)
    first, after = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]")
    day, length = (days - first).astype(np.int64) + 1, (after - first).astype(np.int64)
    latest = int(day.max())
    if (day == 1).all():
        return pd.offsets.MonthBegin(count)
    if (day == length).all():
        return pd.offsets.MonthEnd(count)
    if (days == np.busday_offset(first, 0, roll="forward")).all():
        return pd.offsets.BusinessMonthBegin(count)
    if (days == np.busday_offset(after, -1, roll="forward")).all():
        return pd.offsets.BusinessMonthEnd(count)
    if (day == latest).all() or (len(day) > 2 and (day == np.minimum(latest, length)).all()):
        # Without its day, a step over February would end up on the 28th for good.
        late = latest > DAYS_OF_EVERY_MONTH
        return pd.DateOffset(months=count, day=latest) if late else pd.DateOffset(months=count)
    return None


def _most_common(distances: np.ndarray) -> int:
    """The smallest of those that occur most."""
    values, counts = np.unique(distances, return_counts=True)
    return int(values[counts.argmax()])
