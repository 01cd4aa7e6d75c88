"""The series scaler: exact equivariance, and finite answers where a naive one divides by zero."""

import pytest
import torch

from madzoo.layers.series_scaler import SeriesScaler

NAN = float("nan")


def series(seed=0, length=50):
    return torch.randn(3, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_standardises_observed_steps():
    x = series()
    x[0, 5:20] = NAN
    scaled = SeriesScaler()(x)
    seen = scaled.values[0][scaled.observed[0]]
    assert scaled.values[0, 5:20].eq(0).all() and not scaled.observed[0, 5:20].any()
    torch.testing.assert_close(seen.mean(), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(seen.square().mean(), torch.ones((), dtype=torch.float64))
    assert torch.equal(scaled.last, scaled.values[:, -1:])
    restored = SeriesScaler().restore(scaled.values, scaled)
    torch.testing.assert_close(restored[scaled.observed], x[scaled.observed])


@pytest.mark.parametrize("factor", [2.0**40, 2.0**-40, -(2.0**-130)])
def test_size_does_not_matter(factor):
    x = series()
    scaled, resized = SeriesScaler()(x), SeriesScaler()(x * factor)
    sign = 1 if factor > 0 else -1
    torch.testing.assert_close(resized.values, sign * scaled.values, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(resized.scale, scaled.scale * abs(factor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_series(dtype):
    limit = torch.finfo(dtype).max
    x = torch.tensor(
        [[7.5, 7.5, 7.5], [NAN, NAN, NAN], [NAN, 3.0, NAN], [limit, -limit, limit], [0.0, 1e-30, 0.0]], dtype=dtype
    )
    scaled = SeriesScaler()(x)
    forecast = SeriesScaler().restore(torch.full((5, 2), 4.0, dtype=dtype), scaled)
    assert (
        all(part.isfinite().all() for part in (scaled.values, scaled.last, scaled.location, scaled.scale))
        and forecast.isfinite().all()
    )
    assert forecast[0].eq(7.5).all() and forecast[1].eq(0).all() and forecast[2].eq(3).all()
    assert scaled.values[4].abs().max() > 1


def test_near_the_largest_numbers_the_units_are_as_elsewhere():
    scaler, x = SeriesScaler(), 1.5 * series().tanh()
    large, unit = 2.0**1023, scaler(x)
    scaled = scaler(large * x)
    torch.testing.assert_close(scaled.values, unit.values)
    torch.testing.assert_close(scaled.scale / large, unit.scale)
    torch.testing.assert_close(scaled.location / large, unit.location)
    y = torch.tensor([[-1.2, 0.4, 1.2]]).double().expand(3, -1)
    torch.testing.assert_close(scaler.restore(y, scaled) / large, scaler.restore(y, unit))
    # A location at one end and a step to the other: either half alone would overflow.
    ends = scaled._replace(
        location=torch.full_like(scaled.location, -large), scale=torch.full_like(scaled.scale, large)
    )
    assert (scaler.restore(torch.full((3, 1), 2.5).double(), ends) == 1.5 * large).all()


def test_restores_quantiles_per_series():
    scaled = SeriesScaler()(torch.tensor([[0.0, 2.0], [10.0, 30.0]]))
    restored = SeriesScaler().restore(torch.ones(2, 4, 3), scaled)
    assert restored[0].eq(2).all() and restored[1].eq(30).all()
