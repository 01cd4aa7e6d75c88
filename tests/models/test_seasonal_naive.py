"""The seasonal naive forecaster: its formula step by step, and what it does where there is little to go by."""

import math
from statistics import NormalDist

import pytest
import torch

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.series.seasonal_naive import SeasonalNaive, SeasonalNaiveConfig
from madzoo.registry import list_specs

NAN = float("nan")
LEVELS = (0.1, 0.5, 0.9)


def naive(seasonality=3, context=12, horizon=8, levels=LEVELS):
    return SeasonalNaive(
        SeasonalNaiveConfig(
            context_length=context, prediction_length=horizon, seasonality=seasonality, quantile_levels=levels
        )
    )


def column(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).reshape(1, -1, 1)


def test_formula():
    x = torch.randn(11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = naive()(x.reshape(1, -1, 1))[0, :, 0]
    changes = [x[t] - x[t - 3] for t in range(3, 11)]
    mean = sum(changes) / 8
    sigma = math.sqrt(sum((change - mean) ** 2 for change in changes) / 8)
    for h in range(8):
        for i, level in enumerate(LEVELS):
            spread = NormalDist().inv_cdf(level) * sigma * math.sqrt(1 + h // 3)
            assert y[h, i].item() == pytest.approx(x[8 + h % 3].item() + spread, abs=1e-12)


def test_the_median_repeats_the_last_season_exactly():
    x = torch.randn(4, 40, 2) * 1e5
    assert torch.equal(naive(context=40)(x)[:, :6, :, 1], torch.cat([x[:, -3:]] * 2, dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_dtype_of_the_series(dtype):
    x = torch.randn(2, 12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = naive()(x.to(dtype))
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(y.double(), naive()(x.to(dtype).double()), rtol=1e-5, atol=1e-5)


def test_looks_at_its_context_alone():
    x = torch.randn(2, 30, 1)
    assert torch.equal(naive()(x), naive()(x[:, -12:]))


def test_missing_steps_come_from_the_season_before():
    y = naive()(column(1, 2, 3, 4, NAN, 6))[0, :, 0, 1]
    assert y.tolist() == [4, 2, 6, 4, 2, 6, 4, 2]


def test_a_step_never_observed_is_the_last_observation():
    assert naive()(column(1, NAN, NAN, 4, NAN, NAN))[0, :3, 0, 1].tolist() == [4, 4, 4]
    assert naive()(column(NAN, 5))[0, :3, 0, 1].tolist() == [5, 5, 5]
    assert naive()(column(7, NAN))[0, :3, 0, 1].tolist() == [7, 7, 7]


def test_short_context_spreads_by_neighbouring_differences():
    y = naive(seasonality=24)(column(1, 2, 4, 3))[0, :, 0]
    sigma = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64).std(correction=0)
    torch.testing.assert_close(y[0, 2] - y[0, 1], NormalDist().inv_cdf(0.9) * sigma)


@pytest.mark.parametrize("values", [(3.5,), (3.5, 3.5), (3.5,) * 20, (NAN, 3.5, NAN)])
def test_constants_are_certain(values):
    assert naive()(column(*values)).eq(3.5).all()


def test_without_observation():
    assert naive()(column(NAN, NAN, NAN)).eq(0).all()


@pytest.mark.parametrize("size", [1e-40, 1e-12, 1e12, 3.4e38])
def test_any_size_of_numbers_is_finite_and_sorted(size):
    x = (torch.rand(2, 20, 1, generator=torch.Generator().manual_seed(0)) - 0.5) * 2 * size
    y = naive(context=20)(x)
    assert y.isfinite().all() and y.diff(dim=-1).ge(0).all() and y.diff(dim=-1).amax() > 0


def test_equivariance():
    x = torch.randn(3, 12, 2, dtype=torch.float64)
    torch.testing.assert_close(naive()(1e9 * x - 5e12), 1e9 * naive()(x) - 5e12, rtol=1e-9, atol=1e-1)


def test_covers_what_it_promises():
    walk = torch.randn(2000, 400, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)
    y = naive(seasonality=1, context=380, horizon=20)(walk[:, :380])
    inside = (walk[:, 380:] >= y[..., 0]) & (walk[:, 380:] <= y[..., 2])
    assert inside.float().mean().item() == pytest.approx(0.8, abs=0.02)


def test_registered_variants():
    assert set(list_specs("seasonal_naive_*")) == {
        "seasonal_naive_24_512_96",
        "seasonal_naive_24_672_168",
        "seasonal_naive_7_364_28",
        "seasonal_naive_1_104_13",
    }
    model = create_model("seasonal_naive_24_672_168", seasonality=12)
    assert not model.state_dict() and not list(model.parameters()) and model.seasonality == 12
    quantiles, mean = model.predict([torch.arange(30.0)], prediction_length=200)
    assert quantiles.shape == (1, 200, 1, 9) and mean.isfinite().all()


def test_bad_configuration_and_input():
    for bad in ({"seasonality": 0}, {"horizon": 0}, {"levels": (0.9, 0.1)}):
        with pytest.raises(ConfigError):
            naive(**bad)
    with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
        naive()(torch.zeros(3, 5))
