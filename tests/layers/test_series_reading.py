"""What predict reads: arrays of every layout, masks, objects; and what it says of the rest."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from madzoo.errors import ConfigError, DataError, ShapeError
from madzoo.layers.series_reading import each_of, read_array, read_past, read_series, whole_number

NAN = float("nan")
PLAIN = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "given",
    [
        PLAIN[::-1][::-1],
        np.array([3.0, 2.0, 1.0])[::-1],
        np.arange(6.0).reshape(3, 2).T[1] / 2 + 0.5,
        PLAIN.astype(">f8"),
        PLAIN.astype(">i4"),
        PLAIN.astype(np.uint64),
        PLAIN.astype(object),
        np.array([1, 2.0, Decimal(3)], dtype=object),
        PLAIN.astype(np.longdouble),
        pd.Series([1, 2, 3]),
        pd.Series([1, 2, 3], dtype="Int64"),
        [1, 2, 3],
        torch.tensor([1, 2, 3]),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
def test_every_layout_reads_alike(given):
    assert torch.equal(read_array(given), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def test_matrices_of_every_order():
    grid = np.arange(12.0).reshape(3, 4)
    for given in (
        grid,
        np.asfortranarray(grid),
        grid[::-1][::-1],
        grid.astype(">f4").astype(object),
        pd.DataFrame(grid),
    ):
        assert torch.equal(read_series(given), torch.arange(12.0, dtype=torch.float64).view(3, 4))
    assert read_array(grid.astype(">f4")).dtype == read_array(grid.astype(np.float16)).dtype == torch.float32


@pytest.mark.parametrize(
    "given",
    [
        np.ma.array([1.0, 2.0, 1e6], mask=[False, False, True]),
        np.ma.array([1, 2, 10**6], mask=[False, False, True]),
        np.ma.array([1, 2, 10**6], mask=[False, False, True]).astype(object),
        pd.Series([1, 2, None], dtype="Int64"),
        pd.Series([1.0, 2.0, None], dtype="Float64"),
        np.array([1.0, 2.0, None], dtype=object),
        np.array([1.0, 2.0, NAN], dtype=">f8"),
    ],
    ids=str,
)
def test_what_is_masked_or_empty_is_missing(given):
    assert torch.equal(read_array(given).isnan(), torch.tensor([False, False, True]))
    assert read_array(given)[:2].tolist() == [1, 2] and read_array(given).dtype == torch.float64


def test_a_mask_that_hides_nothing():
    assert read_array(np.ma.array([1.0, 2.0])).tolist() == [1, 2]


def test_reading_leaves_the_array_alone():
    given = np.ma.array([1.0, 2.0], mask=[False, True])
    read_array(given)[0] = 7.0
    assert given.data.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (np.array([1j, 2.0]), "number"),
        (torch.tensor([1j, 2.0]), "real numbers"),
        (np.array([1j, 2.0], dtype=object), "number"),
        ([1j], "number"),
        (np.array(["1.5", "2"]), "number"),
        (np.array(["1.5", 2.0], dtype=object), "number"),
        (np.array(["2024-01-01"], dtype="datetime64[D]"), "number"),
        (pd.Series(["a", "b"]), "number"),
        (np.array([[1.0], [2.0, 3.0]], dtype=object), "number"),
        ({"a": 1.0}, "number"),
        (None, "number"),
        ("abc", "number"),
        (np.array([1.0, np.inf]), "infinite"),
        ([10**400], "number"),
    ],
    ids=str,
)
def test_what_is_no_array_of_numbers(given, match):
    with pytest.raises(DataError, match=match):
        read_array(given)


@pytest.mark.parametrize("given", [None, 5, 2.5, object()], ids=["none", "whole", "number", "object"])
def test_what_holds_no_series(given):
    with pytest.raises(DataError, match=r"past_values holds nothing for each series(.|\n)*\[B, L, C\]"):
        read_past(given, num_channels=None, context_length=3)
    with pytest.raises(DataError, match="rows holds nothing for each series"):
        each_of("rows", given)


@pytest.mark.parametrize("given", [torch.zeros(()), np.float64(3.0), torch.zeros(1, 2, 3)], ids=str)
def test_other_axes(given):
    with pytest.raises(ShapeError, match=r"\[L\] or \[L, C\]"):
        read_series(given)


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3), torch.tensor(3)], ids=lambda x: type(x).__name__)
def test_whole_numbers_of_any_library(given):
    assert whole_number("steps", given) == 3 and type(whole_number("steps", given)) is int


@pytest.mark.parametrize("given", [0, True, np.True_, 3.0, np.float64(3), "3", None, torch.tensor([1, 2])], ids=repr)
def test_what_is_no_whole_number(given):
    with pytest.raises(ConfigError, match="steps is a whole number, at least 1"):
        whole_number("steps", given)
