"""The synthetic generator: deterministic, finite where observed, as varied and as fast as it says."""

import time

import pytest
import torch

from madzoo.data.synthetic import MIN_HISTORY, synthetic_series, synthetic_windows
from madzoo.errors import ConfigError


def test_determined_by_its_seed():
    first, again, other = (synthetic_series(16, 200, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.nan_to_num(99), again.nan_to_num(99))
    assert not torch.equal(first.nan_to_num(99), other.nan_to_num(99))
    state = torch.get_rng_state()
    synthetic_series(2, 50, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_standardised_with_gaps_in_some():
    x = synthetic_series(512, 400, seed=0)
    assert x.dtype == torch.float32 and not x.isinf().any()
    gaps = x.isnan().any(1).float().mean().item()
    assert 0.15 < gaps < 0.55
    whole = x[~x.isnan().any(1)]
    torch.testing.assert_close(whole.mean(1), torch.zeros(len(whole)), atol=1e-3, rtol=0)
    assert (whole.square().mean(1) - 1).abs().lt(0.05).float().mean() > 0.98
    assert (~x.isnan()).sum(1).min() >= 0 and (~x.isnan()).sum(1).float().quantile(0.01) >= MIN_HISTORY // 2


def test_windows():
    past, future = synthetic_windows(256, context_length=336, prediction_length=48, seed=1)
    assert past.shape == (256, 336, 1) and future.shape == (256, 48, 1)
    assert future.isfinite().all() and past.isnan().any() and not past.isinf().any()
    whole = past[~past.isnan().any(1, keepdim=True).expand_as(past)].reshape(-1, 336)
    torch.testing.assert_close(whole.mean(1), torch.zeros(len(whole)), atol=1e-3, rtol=0)


def test_hourly_seasons_are_the_most_common():
    x = synthetic_series(512, 960, seed=2).nan_to_num(0)
    power = torch.fft.rfft(x).abs().square()[:, 20:]
    strongest = 960 / (power.argmax(1) + 20)
    near_day = ((strongest - 24).abs() < 0.5).float().mean()
    assert 0.1 < near_day < 0.7
    assert strongest.round().unique().numel() > 15


def test_longer_series_take_seconds():
    start = time.process_time()
    assert synthetic_series(1024, 1680, seed=0).shape == (1024, 1680)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(("count", "length"), [(0, 10), (3, 1), (3, 0)])
def test_bad_sizes(count, length):
    with pytest.raises(ConfigError):
        synthetic_series(count, length, seed=0)


def test_smallest():
    assert synthetic_series(1, 2, seed=0).shape == (1, 2)
