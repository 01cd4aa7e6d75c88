"""Users' tables: what is read, and the one clear line for what cannot be."""

import numpy as np
import pandas as pd
import pytest

from madzoo.data.series import read_series
from madzoo.errors import DataError


def frame(stamps, **columns):
    return pd.DataFrame({"timestamp": stamps, **columns})


def days(count, **options):
    return pd.date_range("2024-01-01", periods=count, freq="D", **options)


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_with_gap(tmp_path):
    path = write(tmp_path, "Date, load\n2024-01-01 00:00:00,1\n2024-01-01 01:00:00,\n2024-01-01 03:00:00,4.5\n")
    (series,) = read_series(path)
    assert (series.item_id, series.target_name, len(series.stamps)) == ("0", "load", 4)
    np.testing.assert_array_equal(series.values, [1, np.nan, np.nan, 4.5])
    assert list(series.future(2)) == [pd.Timestamp("2024-01-01 04:00"), pd.Timestamp("2024-01-01 05:00")]


def test_wide_parquet(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"when": days(3), "a": [1, 2, 3], "b": [4.0, np.nan, 6.0]}).to_parquet(path)
    first, second = read_series(path)
    assert (first.target_name, second.target_name) == ("a", "b")
    np.testing.assert_array_equal(second.values, [4, np.nan, 6])


def test_long_table_keeps_ids_and_their_order():
    table = frame(list(days(3)) + list(days(2)), item_id=[7, 7, 7, 3, 3], target=range(5), other=range(5))
    series = read_series(table, target="target")
    assert [s.item_id for s in series] == [7, 3] and [s.values.tolist() for s in series] == [[0, 1, 2], [3, 4]]
    interleaved = read_series(table.iloc[[0, 3, 1, 4, 2]], target=["target", "other"])
    assert [(s.item_id, s.target_name) for s in interleaved] == [(i, t) for i in (7, 3) for t in ("target", "other")]
    assert interleaved[0].values.tolist() == [0, 1, 2]
    named = read_series(table.rename(columns={"item_id": "unique_id"}), target="target")
    assert [s.item_id for s in named] == [7, 3]


def test_the_callers_table_is_left_alone():
    table = frame(["2024-01-01", "2024-01-02"], y=["1", "2"])
    before = table.copy()
    read_series(table)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("stamps", "following"),
    [
        (pd.date_range("2024-01-31", periods=5, freq="ME"), "2024-06-30"),
        (pd.date_range("2024-01-01", periods=5, freq="MS"), "2024-06-01"),
        (pd.date_range("2024-01-15", periods=3, freq=pd.DateOffset(months=1)), "2024-04-15"),
        (pd.date_range("2023-10-01", periods=4, freq="QS"), "2024-10-01"),
        (pd.date_range("2020-12-31", periods=3, freq="YE"), "2023-12-31"),
        (pd.date_range("2024-01-01", periods=8, freq="B"), "2024-01-11"),
        (pd.date_range("2024-01-04", periods=3, freq="7D"), "2024-01-25"),
        (pd.date_range("2024-01-01", periods=9, freq="15min"), "2024-01-01 02:15"),
        (days(3, tz="Europe/Berlin"), pd.Timestamp("2024-01-04", tz="Europe/Berlin")),
    ],
    ids=str,
)
def test_steps_are_found(stamps, following):
    (series,) = read_series(frame(stamps, y=range(len(stamps))))
    assert series.future(1)[0] == pd.Timestamp(following)
    assert len(series.values) == len(stamps)


def test_gaps_in_calendar_steps():
    monthly = pd.date_range("2024-01-01", periods=9, freq="MS").delete([3, 4])
    business = pd.date_range("2024-01-01", periods=10, freq="B").delete(6)
    assert np.isnan(read_series(frame(monthly, y=1.0))[0].values).sum() == 2
    assert np.isnan(read_series(frame(business, y=1.0))[0].values).sum() == 1


def test_integer_time():
    table = pd.DataFrame({"year": [1950, 1951, 1953], "spots": [1, 2, 3]})
    (series,) = read_series(table)
    assert (
        series.step == 1 and list(series.stamps) == [1950, 1951, 1952, 1953] and list(series.future(2)) == [1954, 1955]
    )
    (even,) = read_series(pd.DataFrame({"t": [0.0, 2.0, 6.0], "y": 1}), timestamp_column="t")
    assert list(even.future(1)) == [8]
    assert read_series(table, freq=1)[0].step == 1


def test_short_series():
    one = frame(["2024-05-01"], y=[3.0])
    assert list(read_series(one, freq="MS")[0].future(1)) == [pd.Timestamp("2024-06-01")]
    table = frame(["2024-05-01", "2024-05-01", "2024-05-08"], item_id=["short", "long", "long"], y=1)
    assert read_series(table)[0].future(1)[0] == pd.Timestamp("2024-05-08")


@pytest.mark.parametrize(("stamps", "following"), [(["2024-02-28"], pd.Timestamp("2024-02-29")), ([1950], 1951)])
def test_the_step_of_single_rows_is_assumed_and_said(stamps, following, caplog):
    assert read_series(frame(stamps, y=1.0))[0].future(1)[0] == following
    assert "is assumed; freq=" in caplog.text


def test_two_rows_have_a_step(caplog):
    assert read_series(frame(days(2), y=1.0))[0].future(1)[0] == pd.Timestamp("2024-01-03")
    assert not caplog.records


@pytest.mark.parametrize(
    ("stamps", "following"),
    [
        (["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 01:25"], "2024-01-01 02:07:30"),
        (["2024-01-01 00:00:00", "2024-01-01 00:00:01", "2030-01-01"], None),
    ],
)
def test_irregular_rows_are_equally_spaced_and_said(stamps, following, caplog):
    table = frame(stamps, y=[1.0, 2.0, 3.0])
    (series,) = read_series(table)
    assert series.values.tolist() == [1, 2, 3] and list(series.stamps) == [pd.Timestamp(s) for s in stamps]
    assert "equally spaced; freq=" in caplog.text
    assert following is None or series.future(1)[0] == pd.Timestamp(following)
    with pytest.raises(DataError, match=r"off the regular grid|too small"):
        read_series(table, freq="h" if following else "s")


def test_irregular_integers():
    (series,) = read_series(pd.DataFrame({"t": [0, 2, 4, 9], "y": 1.0}), timestamp_column="t")
    assert series.future(2).tolist() == [11, 13]


def test_other_columns_lie_on_the_grid_of_their_series():
    table = frame(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-02"], item_id=[1, 2, 1, 2], y=[1, 10, 3, 20])
    table.loc[3, "timestamp"] = "2024-01-04"
    first, second = read_series(table, freq="D")
    np.testing.assert_array_equal(first.values, [1, np.nan, 3])
    np.testing.assert_array_equal(first.on_grid(pd.DatetimeIndex(table["timestamp"]), np.arange(4.0)), [0, np.nan, 2])
    np.testing.assert_array_equal(second.on_grid(pd.DatetimeIndex(table["timestamp"]), np.arange(4.0)), [1, np.nan, 3])


def test_series_that_share_their_time_stamps_are_read_alike():
    table = frame(list(days(5).delete(2)) * 3, item_id=[0] * 4 + [1] * 4 + [2] * 4, y=range(12))
    series = read_series(table)
    assert all(one.values[2] != one.values[2] for one in series)
    assert [one.values[4] for one in series] == [3, 7, 11]
    assert series[0].stamps is series[2].stamps


@pytest.mark.parametrize("freq", ["h", None])
def test_clocks_that_change(freq):
    local = pd.date_range("2024-03-30 20:00", periods=12, freq="h", tz="Europe/Berlin")
    (series,) = read_series(frame(local, y=1.0), freq=freq)
    assert len(series.values) == 12 and series.future(1)[0] - local[-1] == pd.Timedelta("1h")
    midnights = pd.date_range("2024-03-29", periods=4, freq="D", tz="Europe/Berlin")
    (series,) = read_series(frame(midnights, y=1.0))
    assert series.future(1)[0] == pd.Timestamp("2024-04-02", tz="Europe/Berlin") and len(series.values) == 4


def test_text_with_changing_offsets_is_read_in_utc(tmp_path):
    local = pd.date_range("2024-03-31 00:00", periods=6, freq="h", tz="Europe/Berlin")
    path = tmp_path / "table.csv"
    frame([stamp.isoformat() for stamp in local], y=range(6)).to_csv(path, index=False)
    (series,) = read_series(path)
    assert series.values.tolist() == list(range(6)) and series.future(1)[0] == pd.Timestamp(
        "2024-03-31 05:00", tz="UTC"
    )


def test_quarter_hours_from_text_day_first():
    table = frame(["13/01/2024 00:00", "13/01/2024 00:15", "13/01/2024 00:30"], y=[1, 2, 3])
    assert read_series(table)[0].future(1)[0] == pd.Timestamp("2024-01-13 00:45")


@pytest.mark.parametrize(
    ("columns", "options", "match"),
    [
        ({"y": [1, 2, 2]}, {"target": "z"}, "no column 'z'"),
        ({"y": [1, 2, 2]}, {"timestamp_column": "when"}, "no column 'when'"),
        ({"y": [1, 2, 2]}, {"id_column": "shop"}, "no column 'shop'"),
        ({"y": [1, 2, 2]}, {"target": "timestamp"}, "cannot be a target"),
        ({"y": [1, "two", 3]}, {}, "'y' is not numeric: it holds 'two' in row 2"),
        ({"y": [1.0, 2.0, np.inf]}, {}, "'y' is infinite in row 3"),
        ({"y": days(3)}, {}, "'y' is not numeric: it holds dates"),
        ({"item_id": ["a", None, "a"], "y": 1}, {}, "empty cell in row 2"),
        ({}, {}, "no column to forecast"),
        ({"y": 1}, {"freq": "fortnight"}, "no frequency"),
        ({"y": 1}, {"freq": "-1D"}, "positive"),
        ({"y": 1}, {"freq": 3}, "positive"),
        ({"y": 1}, {"freq": "2D"}, "off the regular grid"),
        ({"y": 1}, {"freq": "MS"}, "off the regular grid"),
        ({"y": 1}, {"freq": "1s"}, "too small"),
    ],
    ids=str,
)
def test_bad_tables(columns, options, match):
    with pytest.raises(DataError, match=match):
        read_series(frame(days(3), **columns), **options)


@pytest.mark.parametrize(
    ("stamps", "match"),
    [
        (["2024-01-02", "2024-01-01", "2024-01-03"], "unsorted time stamps in 'timestamp': 2024-01-01"),
        (["2024-01-01", "2024-01-02", "2024-01-02"], "duplicate time stamp 2024-01-02"),
        (["2024-01-01", None, "2024-01-02"], "empty cell in row 2"),
        (["2024-01-01", "2024-01-02", "soon"], "unreadable"),
        ([1.0, 1.5, 2.0], "1.5 in row 2, neither a date nor an integer"),
    ],
    ids=str,
)
def test_bad_time(stamps, match):
    with pytest.raises(DataError, match=match):
        read_series(frame(stamps, y=[1, 2, 3]))


def test_bad_frequencies_of_integer_time():
    table = pd.DataFrame({"year": [1950, 1951], "y": [1, 2]})
    for freq in ("YS", 0, True):
        with pytest.raises(DataError, match="whole number"):
            read_series(table, freq=freq)


def test_no_time_stamp_column():
    with pytest.raises(DataError, match="no time stamp column"):
        read_series(pd.DataFrame({"a": [0.5, 2.5], "b": ["x", "y"]}))
    found = read_series(pd.DataFrame({"a": [0.5, 2.5], "b": ["2024-01-01", "2024-01-02"]}))
    assert found[0].target_name == "a"


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.csv", "", "the file is empty"),
        ("header.csv", "timestamp,y\n", "no rows"),
        ("ragged.csv", "a,b\n1,2\n1,2,3,4\n", "no readable CSV"),
        ("binary.csv", b"\x89PNG\r\n\x1a\n\x00\xff\xfe" * 40, "the file is|no readable CSV|no time stamp"),
        ("broken.parquet", b"PAR1 and nothing", "no readable CSV or Parquet"),
        ("empty.parquet", b"", "no readable CSV or Parquet"),
    ],
)
def test_bad_files(tmp_path, name, content, match):
    with pytest.raises(DataError, match=match):
        read_series(write(tmp_path, content, name))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_series(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="this is no file"):
        read_series(tmp_path)
    with pytest.raises(DataError, match="two columns are named 'y'"):
        read_series(pd.DataFrame([[1, 2]], columns=["y", "y"]))
