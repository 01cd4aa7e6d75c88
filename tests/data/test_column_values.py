"""The cells of a user's columns: integer time is never rounded, and what is no number is not read as one."""

import numpy as np
import pandas as pd
import pytest

from madzoo.data.column_values import parse_time, parse_values
from madzoo.data.series import read_series
from madzoo.errors import DataError


@pytest.mark.parametrize("kind", ["int64", "uint64", "Int64", "object"])
@pytest.mark.parametrize("start", [2**60 + 1, 1_700_000_000_000_000_123])
def test_integer_time_is_exact(kind, start):
    (series,) = read_series(pd.DataFrame({"time": pd.Series(range(start, start + 9), dtype=kind), "y": 1.0}))
    assert series.stamps.tolist() == list(range(start, start + 9)) and series.step == 1
    assert series.future(3).tolist() == [start + 9, start + 10, start + 11]


def test_gaps_in_large_integer_time():
    table = pd.DataFrame({"time": np.delete(np.arange(9) * 10 + 2**61 + 7, 4), "y": 1.0})
    (series,) = read_series(table)
    assert np.flatnonzero(np.isnan(series.values)).tolist() == [4] and series.step == 10


@pytest.mark.parametrize("first", [2**63, -(2**63), 2.0**64])
def test_time_beyond_64_bits_is_refused(first):
    with pytest.raises(DataError, match=r"beyond 2\*\*63"):
        parse_time(pd.Series([first, 1 if first < 0 else first + 4096], name="time"))


def test_the_future_beyond_64_bits_is_refused():
    (series,) = read_series(pd.DataFrame({"time": [2**63 - 12, 2**63 - 7], "y": 1.0}))
    assert series.step == 5
    with pytest.raises(DataError, match="go beyond 64 bits"):
        series.future(2)


@pytest.mark.parametrize("kind", ["int64", "int32", "float64", "category"])
def test_dates_written_as_numbers_are_refused(kind):
    numbers = pd.Series(pd.date_range("2024-01-30", periods=3).strftime("%Y%m%d").astype(int), name="date")
    with pytest.raises(DataError, match=r"looks like dates written as numbers: 20240130 to 20240201(.|\n)*to_datetime"):
        parse_time(numbers.astype(kind))
    assert parse_time(numbers.astype(str)).tolist() == list(pd.date_range("2024-01-30", periods=3))


@pytest.mark.parametrize(
    "numbers", [[20240101], [20240101, 20240132], [20240228, 20230229], [20241301, 20240101], [18991231, 19000101]]
)
def test_numbers_that_are_no_dates_are_numbers(numbers):
    assert parse_time(pd.Series(numbers)).tolist() == numbers


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        (pd.Series([1 + 2j, 3]), "holds complex128"),
        (pd.Series([1 + 2j, 3], dtype=object), "holds complex128"),
        (pd.Series(pd.to_timedelta([1, 2], unit="h")), "holds timedelta64"),
        (pd.Series(pd.to_timedelta([1, 2], unit="h"), dtype=object), "holds timedelta64"),
        (pd.Series(pd.period_range("2024", periods=2, freq="D")), r"holds period\[D\]"),
        (pd.Series(pd.to_datetime(["2024-01-01"])).astype("category"), "holds dates"),
        (pd.Series([[1], 2]), r"holds \[1\] in row 1"),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused(cells, match):
    with pytest.raises(DataError, match=f"column 'y' is not numeric: it {match}"):
        parse_values(cells.rename("y"))


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([1, None], dtype="Int64"), pd.Series(["1", None], dtype="string"), pd.Series([1, None], dtype=object),
        pd.Series([1, None]).astype("category"), pd.Series(["1", None]).astype("category"), pd.Series([True, None]),
    ],
    ids=lambda cells: str(cells.dtype),
)  # fmt: skip
def test_numbers_in_any_form(cells):
    np.testing.assert_array_equal(parse_values(cells), [1, np.nan])


def test_complex_time_is_refused():
    with pytest.raises(DataError, match="complex"):
        parse_time(pd.Series([1 + 1j, 2]))
