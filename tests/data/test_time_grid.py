"""Steps of time: what is one, how long a season usually is, and where the future ends."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from madzoo.data.series import read_series
from madzoo.data.time_grid import future_stamps, parse_step, season_of
from madzoo.errors import DataError


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("h", 24), ("15min", 96), ("6h", 4), ("D", 7), ("B", 5), ("W-SUN", 1), ("MS", 12), ("ME", 12), ("2MS", 6),
        ("QS", 4), ("QE-DEC", 4), ("YE", 1), ("YS", 1),
    ],
)  # fmt: skip
def test_season_of_a_step(freq, season):
    assert season_of(parse_step(freq, integer_time=False)) == season


def test_integer_time_counts_as_hours():
    assert season_of(1) == 24


@pytest.mark.parametrize(
    ("step", "season"),
    [(pd.DateOffset(months=1, day=30), 12), (pd.offsets.BusinessMonthEnd(3), 4), (pd.offsets.BusinessMonthBegin(), 12)],
    ids=str,
)
def test_season_of_an_offset(step, season):
    assert season_of(parse_step(step, integer_time=False)) == season


def test_whole_numbers_of_any_library_are_steps():
    three: Any = np.int64(3)
    step = parse_step(three, integer_time=True)
    assert step == 3 and type(step) is int


def test_a_future_beyond_the_dates_of_the_unit_is_refused():
    nanoseconds = pd.Timestamp("2020-01-01").as_unit("ns")
    for step in (pd.offsets.YearBegin(), pd.offsets.Day(365)):
        with pytest.raises(DataError, match=r"beyond the dates(.|\n)*units of ns(.|\n)*as_unit\('us'\)"):
            future_stamps(nanoseconds, step, 300)
    found = future_stamps(nanoseconds.as_unit("us"), pd.offsets.YearBegin(), 300)
    assert found[-1] == pd.Timestamp(year=2320, month=1, day=1).as_unit("us")


def test_years_beyond_nanoseconds_are_read():
    stamps = pd.DatetimeIndex([f"{year}-01-01" for year in (2998, 2999, 3001)]).as_unit("us")
    (series,) = read_series(pd.DataFrame({"timestamp": stamps, "y": [1.0, 2.0, 4.0]}))
    assert len(series.values) == 4 and series.future(1)[0].year == 3002
