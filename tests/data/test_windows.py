"""Windowing: the literature's counts and borders, exact content, no leak from later rows."""

import pytest
import torch

from madzoo.data.windows import ETT_HOURLY, ETT_QUARTER_HOURLY, Borders, Standardizer, Windows, split_windows
from madzoo.errors import ConfigError, DataError


def table(rows=300, channels=2, seed=0):
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("horizon", "split", "count"),
    [(96, "test", 2785), (336, "test", 2545), (720, "test", 2161), (96, "validation", 2785), (96, "train", 8033)],
)
def test_counts_of_the_literature(horizon, split, count):
    values = torch.zeros(17420, 1)
    assert len(split_windows(values, ETT_HOURLY, split, context_length=512, prediction_length=horizon)) == count


def test_borders():
    assert ETT_HOURLY.rows("test") == (11520, 14400) and ETT_QUARTER_HOURLY.rows("validation") == (34560, 46080)
    assert Borders.from_ratio(52696) == Borders(train=36887, val=5270, test=10539)
    assert Borders.from_ratio(7588).rows("test") == (6071, 7588)
    with pytest.raises(ConfigError, match="no split 'val'"):
        ETT_HOURLY.rows("val")


def test_every_window_is_a_slice_and_none_is_missing():
    values = table(40)
    windows = Windows(values=values, context_length=7, prediction_length=3, start=20, stop=40)
    assert len(windows) == 18
    past, future = windows[torch.arange(len(windows))]
    assert past.shape == (18, 7, 2) and future.shape == (18, 3, 2)
    for i in range(18):
        assert torch.equal(past[i], values[13 + i : 20 + i]) and torch.equal(future[i], values[20 + i : 23 + i])
        one_past, one_future = windows[i]
        assert torch.equal(one_past, past[i]) and torch.equal(one_future, future[i])
    assert torch.equal(windows[-1][1], values[37:40]) and torch.equal(windows[[3, 1]][0], past[[3, 1]])
    with pytest.raises(IndexError):
        windows[18]
    with pytest.raises(IndexError):
        windows[[-19]]


def test_train_windows_stay_in_train():
    windows = Windows(values=table(40), context_length=7, prediction_length=3, start=0, stop=20)
    assert len(windows) == 20 - 7 - 3 + 1 and torch.equal(windows[0][0], windows.values[:7])


def test_statistics_come_from_train_rows_alone():
    values, borders = table(), Borders(train=200, val=50, test=50)
    later = values.clone()
    later[200:] += 1e3
    first = split_windows(values, borders, "train", context_length=20, prediction_length=5)
    second = split_windows(later, borders, "train", context_length=20, prediction_length=5)
    assert torch.equal(first[3][0], second[3][0]) and first[0][0].dtype == torch.float32
    train = first.values[:200].double()
    torch.testing.assert_close(train.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_standardizer():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0], [float("nan"), 5.0]])
    standardizer = Standardizer.fit(values)
    assert standardizer.mean.tolist() == [2, 5] and standardizer.scale.tolist() == [1, 1]
    torch.testing.assert_close(standardizer.restore(standardizer.apply(values)), values, equal_nan=True)


@pytest.mark.parametrize(
    ("start", "stop", "match"), [(20, 41, "ends before"), (5, 40, "before the first row"), (38, 40, "too short")]
)
def test_impossible_windows(start, stop, match):
    with pytest.raises(DataError, match=match):
        Windows(values=table(40), context_length=7, prediction_length=3, start=start, stop=stop)
