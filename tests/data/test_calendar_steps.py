"""Steps found from time stamps: the future goes on as pandas' own range does, and missing rows become NaN."""

import numpy as np
import pandas as pd
import pytest

from madzoo.data.calendar_steps import find_step
from madzoo.data.series import read_series

STEPS = [
    "BME", "BMS", "2MS", "MS", "ME", "3ME", "QS", "QE", "QS-FEB", "BQE-DEC", "YE", "YS", "YE-JUN", "BYE-DEC", "B", "D",
    "W-SUN", "28D", "30D", "h", "36h", pd.DateOffset(months=1, day=15), pd.DateOffset(months=1, day=29),
    pd.DateOffset(months=1, day=30), pd.DateOffset(months=3, day=15),
]  # fmt: skip


def read(stamps):
    (series,) = read_series(pd.DataFrame({"timestamp": stamps, "y": 1.0}))
    return series


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("freq", STEPS, ids=str)
def test_futures_go_on_as_pandas_would_and_gaps_are_missing(freq, zone):
    start = pd.Timestamp("2011-11-20 06:00") + (freq if isinstance(freq, pd.DateOffset) else pd.Timedelta(0))
    stamps = pd.date_range(start, periods=14, freq=freq, tz=zone)
    expected = pd.date_range(stamps[-1], periods=31, freq=freq)[1:]
    for gaps in ([], [5]):
        series = read(stamps.delete(gaps))
        assert series.future(30).tolist() == expected.tolist()
        assert np.flatnonzero(np.isnan(series.values)).tolist() == gaps


def test_days_that_february_lacks_come_back():
    thirtieth = pd.to_datetime(["2023-12-30", "2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30"])
    assert [stamp.day for stamp in read(thirtieth).future(12)] == [30] * 9 + [28, 30, 30]
    spring = read(pd.to_datetime(["2024-03-29", "2024-04-29", "2024-05-29"]))
    assert [stamp.day for stamp in spring.future(10)] == [29] * 8 + [28, 29]


@pytest.mark.parametrize(
    ("stamps", "step"),
    [
        (["2023-02-01", "2023-03-01"], "MS"),
        (["2023-02-03", "2023-03-03"], pd.DateOffset(months=1)),
        (["2024-05-31", "2024-06-28"], "BME"),
        (["2024-01-10", "2024-02-07"], "28D"),
        (["2024-01-04", "2024-01-05", "2024-01-08"], "D"),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09"], "B"),
        (["2024-01-01", "2024-01-31"], "30D"),
    ],
    ids=str,
)
def test_few_rows(stamps, step):
    stamps = pd.to_datetime(stamps)
    assert stamps[-1] + find_step(stamps) == pd.date_range(stamps[-1], periods=2, freq=step)[1]


def test_a_clock_time_that_comes_twice_in_a_day_is_no_step_of_days():
    twice = pd.DatetimeIndex(["2024-10-27 00:30", "2024-10-27 01:30"], tz="UTC").tz_convert("Europe/Berlin")
    assert twice.tz_localize(None).has_duplicates
    assert read(twice[:2]).future(1)[0] - twice[-1] == pd.Timedelta("1h")
    # A day of one hour less is still a day.
    midnights = pd.date_range("2024-03-31", periods=2, freq="D", tz="Europe/Berlin")
    assert read(midnights).future(1)[0] == pd.Timestamp("2024-04-02", tz="Europe/Berlin")


def test_large_integers_have_exact_steps():
    assert find_step(pd.Index(np.arange(0, 30, 3) + 2**60 + 1)) == 3
