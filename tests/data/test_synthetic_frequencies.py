"""Synthetic series of every frequency: determined by the seed, in their shares, on the grid."""

import pytest
import torch

from madzoo.data.synthetic_frequencies import KINDS, frequency_windows
from madzoo.errors import ConfigError

LENGTHS = {"context_length": 672, "prediction_length": 192}


def test_determined_by_its_seed():
    first, again, other = (frequency_windows(40, **LENGTHS, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.nan_to_num(99), again.nan_to_num(99))
    assert not torch.equal(first.nan_to_num(99), other.nan_to_num(99))


def test_shapes_and_finite_values():
    past, future = frequency_windows(256, **LENGTHS, seed=0)
    assert past.shape == (256, 672, 1) and future.shape == (256, 192, 1) and past.dtype == torch.float32
    assert not past.isinf().any() and not future.isinf().any()
    assert future.isfinite().any(1).all() and past.isfinite().any(1).all()


def test_kinds_come_in_their_shares():
    _, future = frequency_windows(1000, **LENGTHS, seed=0)
    steps = future.squeeze(-1).isfinite()
    monthly = steps[:, 1::2].any(1) & ~steps[:, 0::2].any(1) & steps[:, 1]
    share = sum(kind.share for kind in KINDS)
    expected = sum(kind.share for kind in KINDS if kind.seasonality == 12) / share
    assert abs(float(monthly.float().mean()) - expected) < 0.02


def test_the_unit_is_the_change_between_seasons():
    past, _ = frequency_windows(1000, **LENGTHS, seed=0)
    hourly = past[: int(1000 * KINDS[0].share)].squeeze(-1)
    whole = hourly[hourly.isfinite().all(1)]
    change = (whole[:, 24:] - whole[:, :-24]).abs().mean(1)
    assert len(whole) > 100 and change.max() < 1.001 and change.median() > 0.999


def test_bad_count():
    with pytest.raises(ConfigError, match="at least one"):
        frequency_windows(-1, **LENGTHS, seed=0)
