"""Batches of ragged series: which stand together, in which order, and how much is padded."""

import pytest
import torch

from madzoo.errors import DataError
from madzoo.layers.series_batches import batch_series
from tests.layers.test_forecaster import Climber

NAN = float("nan")
LENGTHS = (5, 1, 3, 4, 2, 3, 5)


def ragged():
    return [torch.full((length, 2), float(place)) for place, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("pad", [False, True])
def test_every_series_is_in_one_batch(size, pad):
    batches = list(batch_series(ragged(), size, pad=pad))
    assert sorted(place for places, _ in batches for place in places) == list(range(7))
    assert all(len(places) == len(x) <= size for places, x in batches)
    for places, x in batches:
        for place, one in zip(places, x, strict=True):
            shorter = len(one) - LENGTHS[place]
            assert one[:shorter].isnan().all() and one[shorter:].eq(place).all()
            assert pad or not shorter


def test_little_is_padded():
    assert len(list(batch_series(ragged(), 100, pad=True))) == 1
    lengths = torch.randint(1, 200, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = list(batch_series([torch.zeros(length, 1) for length in lengths], 20, pad=True))
    assert len(batches) == 20
    assert sum(x.numel() for _, x in batches) < 1.1 * sum(lengths)


def test_a_tensor_keeps_its_order():
    x = torch.randn(5, 3, 2)
    for pad in (False, True):
        parts = list(batch_series(x, 2, pad=pad))
        assert [places for places, _ in parts] == [[0, 1], [2, 3], [4]]
        assert torch.equal(torch.cat([part for _, part in parts]), x)


def test_a_model_that_says_so_meets_padded_series():
    model, done = Climber(), []
    model.short_is_padded = True
    quantiles, _ = model.predict(
        [torch.arange(float(n)) for n in (3, 9, 1, 4)], batch_size=2, on_batch=lambda *counts: done.append(counts)
    )
    assert [seen[0].shape[:2] for seen in model.seen] == [(2, 3), (2, 5)]
    assert model.seen[0][0][0].flatten().isnan().tolist() == [True, True, False]
    assert quantiles[:, 0, 0, 1].tolist() == [3, 9, 1, 4] and done == [(2, 4), (4, 4)]


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_forecast_that_is_not_finite_is_told(value):
    model = Climber()
    with torch.no_grad():
        model.unit.fill_(value)
    with pytest.raises(DataError, match=r"not finite(.|\n)*1 of the 1 series(.|\n)*\[0\]"):
        model.predict(torch.zeros(1, 5, 1))
