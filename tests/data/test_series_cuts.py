"""Resampling and rolling windows by hand, and collections of series as they are published."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from madzoo.data.catalog import find_dataset
from madzoo.data.load import load_collection, load_table
from madzoo.data.series_cuts import mean_per, rolling_cuts
from madzoo.errors import ConfigError, DataError


def hours(count, start="2016-07-01 05:00"):  # a Friday
    return pd.DataFrame({"date": pd.date_range(start, periods=count, freq="h"), "OT": np.arange(float(count))})


def test_days_are_means_and_both_edges_go():
    days = mean_per(hours(19 + 24 + 24 + 3), "D")
    assert days["date"].tolist() == [pd.Timestamp("2016-07-02"), pd.Timestamp("2016-07-03")]
    assert days["OT"].tolist() == [19 + 11.5, 43 + 11.5]


def test_weeks_run_from_monday_to_sunday():
    weeks = mean_per(hours(19 + 2 * 24 + 168 + 10), "W")
    assert weeks["date"].tolist() == [pd.Timestamp("2016-07-10")]
    assert weeks["OT"].tolist() == [19 + 48 + 83.5]


def test_cuts_are_the_last_and_do_not_overlap():
    items = [torch.arange(10.0)[:, None], torch.arange(8.0)[:, None] * 10]
    cuts = rolling_cuts(items, horizon=3, num_windows=2)
    assert [[len(past) for past, _ in window] for window in cuts] == [[4, 2], [7, 5]]
    assert torch.cat([window[1][1] for window in cuts]).flatten().tolist() == [20, 30, 40, 50, 60, 70]
    assert cuts[1][0][0].flatten().tolist() == list(range(7))


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="too short"):
        rolling_cuts([torch.zeros(6, 1)], horizon=3, num_windows=2)
    with pytest.raises(ConfigError, match="no mean per"):
        mean_per(hours(5), "ME")
    with pytest.raises(DataError, match="holds times"):
        mean_per(hours(5).astype({"date": str}), "D")
    with pytest.raises(ConfigError, match="monash-m4-hourly"):
        load_table(find_dataset("m4_hourly"), folder=tmp_path)
    with pytest.raises(DataError, match="no public address"):
        load_collection(find_dataset("nn5_daily"))


def test_collections_are_read_from_one_file_or_two(tmp_path):
    (tmp_path / "m3").mkdir()
    (tmp_path / "m4").mkdir()
    pq.write_table(
        pa.table({"train": [[1.0, None], [3.0]], "test": [[2.0], [4.0]]}), tmp_path / "m3" / "yearly.parquet"
    )
    (first, second) = load_collection(find_dataset("m3_yearly"), folder=tmp_path)
    np.testing.assert_array_equal(first[0], [1.0, np.nan])
    assert first[1].tolist() == [2.0] and second[0].tolist() == [3.0] and second[0].dtype == np.float64
    names = {"train": ["H1", "H2"], "test": ["H1", "H2"]}
    for part, ids in names.items():
        pq.write_table(pa.table({"item_id": ids, "target": [[1.0], [2.0]]}), tmp_path / "m4" / f"hourly-{part}.parquet")
    assert [test.tolist() for _, test in load_collection(find_dataset("m4_hourly"), folder=tmp_path)] == [[1.0], [2.0]]
    pq.write_table(
        pa.table({"item_id": ["H2", "H1"], "target": [[1.0], [2.0]]}), tmp_path / "m4" / "hourly-test.parquet"
    )
    with pytest.raises(DataError, match="different series"):
        load_collection(find_dataset("m4_hourly"), folder=tmp_path)
