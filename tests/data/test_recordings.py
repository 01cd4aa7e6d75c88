"""Pairs from recordings: windows that are really in them, mixed, mirrored, in units, on the grid."""

import numpy as np
import pytest
import torch

from madzoo.data.recordings import HOURS, Recordings
from madzoo.data.series_steps import RECORDED, SyntheticSteps, generator_and_recordings
from madzoo.errors import DataError

LENGTHS = {"context_length": 336, "prediction_length": 96}


def recordings(count=3, length=4000):
    draw = np.random.default_rng(0)
    hours = np.arange(length)
    return Recordings([np.sin(2 * np.pi * hours / 24) + 0.3 * draw.standard_normal(length) for _ in range(count)])


def test_determined_by_the_seed():
    first, again, other = (recordings().windows(20, **LENGTHS, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1].nan_to_num(9), other[1].nan_to_num(9))


def test_a_single_recording_is_met_as_it_is_but_for_scale_sign_and_gaps():
    line = np.cumsum(np.random.default_rng(1).standard_normal(4000))
    past, future = Recordings([line]).windows(40, **LENGTHS, seed=0)
    hourly = round(HOURS.share * 40)
    windows = torch.from_numpy(line).unfold(0, 432, 1)
    windows = (windows - windows.mean(1, keepdim=True)) / windows.std(1, keepdim=True)
    pairs = torch.cat([past, future], dim=1)[:hourly, :, 0].double()
    alone = 0
    for pair in pairs[pairs.isfinite().all(1)]:
        pair = (pair - pair.mean()) / pair.std()
        alone += bool(((windows @ pair).abs() / 431).max() > 1 - 1e-4)
    assert 4 <= alone < hourly  # a third of them are one window; the others are sums


def test_units_layout_and_shares():
    past, future = recordings().windows(100, **LENGTHS, seed=3)
    assert past.shape == (100, 336, 1) and future.shape == (100, 96, 1) and past.dtype == torch.float32
    hourly = round(HOURS.share * 100)
    assert future[:hourly].isfinite().all() and not future[hourly:].isfinite().all(1).any()
    assert future[hourly:, 2::24].isfinite().any()  # the first of seven days on 24 slots is the third slot
    whole = past[:hourly, :, 0][past[:hourly, :, 0].isfinite().all(1)]
    change = (whole[:, 24:] - whole[:, :-24]).abs().mean(1)
    assert len(whole) > 20
    torch.testing.assert_close(change, torch.ones_like(change), rtol=1e-3, atol=1e-3)


def test_batches_hold_a_quarter_of_recordings():
    options = {**LENGTHS, "batch_size": 40, "steps_per_epoch": 1, "seed": 0}
    plain = SyntheticSteps("synthetic-frequencies-long", **options)
    mixed = SyntheticSteps("synthetic-frequencies-long", **options, recordings=recordings())
    assert plain[3][0].shape == mixed[3][0].shape == (40, 336, 1)
    last = mixed[3][0][-round(RECORDED * 40) :, :, 0]
    assert torch.equal(mixed[3][0].nan_to_num(9), mixed[3][0].nan_to_num(9))
    assert not any(
        torch.equal(one.nan_to_num(9), other.nan_to_num(9)) for one in last for other in plain[3][0][:, :, 0]
    )
    with pytest.raises(KeyError):
        SyntheticSteps("etth1", **options)


def test_names():
    assert generator_and_recordings("synthetic") == ("synthetic", None)
    assert generator_and_recordings("synthetic+citylearn") == ("synthetic", "citylearn")
    assert generator_and_recordings("citylearn") == (None, None)


def test_refuses_gaps_and_short_recordings():
    with pytest.raises(DataError, match="missing value"):
        Recordings([np.array([1.0, np.nan])])
    with pytest.raises(DataError, match="long enough"):
        recordings(length=400).windows(10, **LENGTHS, seed=0)
