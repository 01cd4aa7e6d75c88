"""Levels asked for, quantiles at other levels, and of mixtures, against what a normal distribution says."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.layers.quantile_levels import (
    NINE_LEVELS,
    central_level,
    check_levels,
    interpolate_quantiles,
    mixture_quantiles,
    usual_levels,
)

NINE = tuple(i / 10 for i in range(1, 10))
NORMAL = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1)


def normal_quantiles(levels):
    return NORMAL.icdf(torch.tensor(levels, dtype=torch.float64))


def test_known_levels_come_back_exactly_and_in_order():
    quantiles = normal_quantiles(NINE)
    assert torch.equal(interpolate_quantiles(quantiles, NINE, (0.9, 0.1, 0.5)), quantiles[[8, 0, 4]])
    assert torch.equal(interpolate_quantiles(quantiles, NINE, NINE), quantiles)


def test_equal_quantiles_do_not_cross_by_rounding():
    constant = torch.full((50, 9), 0.1) * torch.arange(1, 51)[:, None]
    levels = torch.linspace(0.1, 0.9, 77).tolist()
    assert torch.equal(interpolate_quantiles(constant, NINE, levels), constant[:, :1].expand(50, 77))


@pytest.mark.parametrize("levels", [NINE, (0.1, 0.5, 0.9), (0.01, 0.5), (0.25, 0.75), (0.05, 0.1, 0.5, 0.95)])
@pytest.mark.parametrize(("size", "offset"), [(1.0, 0.0), (1e-12, 1e-6), (1e12, -1e18)])
def test_a_mixture_of_one_forecast_is_that_forecast(levels, size, offset):
    quantiles = offset + size * normal_quantiles(levels)
    found = mixture_quantiles(quantiles.expand(2, len(levels), -1), levels)
    torch.testing.assert_close(found, quantiles.expand(2, -1), rtol=1e-15, atol=1e-9 * size)


def test_a_mixture_against_its_own_samples():
    forecasts = normal_quantiles(NINE).mul(0.7) + normal_quantiles(NINE)[:, None]
    counts = [0.15, *[0.1] * 7, 0.15]  # what the levels stand for
    samples = torch.cat(
        [
            q.repeat(round(20_000 * a * b))
            for row, a in zip(forecasts, counts, strict=True)
            for q, b in zip(row, counts, strict=True)
        ]
    )
    found, exact = mixture_quantiles(forecasts, NINE), torch.quantile(samples, torch.tensor(NINE).double())
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1)
    torch.testing.assert_close(found, -found.flip(-1), rtol=0, atol=1e-12)


def test_ties_and_the_order_of_forecasts_do_not_matter():
    forecasts = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 2.0]], dtype=torch.float64)
    shaken = forecasts + 1e-13 * torch.randn(100, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mixture_quantiles(shaken, (0.1, 0.5, 0.9))
    torch.testing.assert_close(found, mixture_quantiles(forecasts, (0.1, 0.5, 0.9)).expand(100, 3), rtol=0, atol=1e-11)


@pytest.mark.parametrize("asked", [0.5, None, ["a"], [None], "0.5", (), [float("nan")], [1.5]], ids=str)
def test_what_is_no_sequence_of_known_levels(asked):
    with pytest.raises(ConfigError, match=r"sequence of numbers|outside the model's range"):
        check_levels((0.1, 0.9), asked)


def test_levels_of_a_forecast_that_asks_for_none():
    assert usual_levels((0.1, 0.5, 0.9)) == usual_levels((0.05, 0.95)) == NINE_LEVELS
    assert usual_levels((0.5,)) == (0.5,) and usual_levels((0.1, 0.85)) == (0.1, 0.85)
    assert [central_level(known) for known in ((0.1, 0.9), (0.7, 0.9), (0.1, 0.3), (0.5,))] == [0.5, 0.7, 0.3, 0.5]
