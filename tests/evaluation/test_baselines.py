"""Baselines: known answers."""

import numpy as np
import pytest
import torch

from madzoo.data.windows import SPLITS, Borders, Windows, split_windows
from madzoo.errors import ConfigError
from madzoo.evaluation.baselines import SeasonalNaive, fit_linear, ltsf_baselines
from madzoo.evaluation.forecasting import evaluate_ltsf

NAN = float("nan")


def naive(values, *, seasonality, horizon=5):
    model = SeasonalNaive(seasonality=seasonality, context_length=len(values), prediction_length=horizon)
    return model.predict([values])[0].flatten().tolist()


@pytest.mark.parametrize(
    ("values", "seasonality", "expected"),
    [
        ([1.0, 2, 3, 4, 5], 1, [5, 5, 5, 5, 5]),
        ([1.0, 2, 3, 4, 5], 2, [4, 5, 4, 5, 4]),
        ([1.0, 2, 3, 4, 5], 5, [1, 2, 3, 4, 5]),
        ([1.0, 2, 3, 4, NAN], 2, [4, 3, 4, 3, 4]),
        ([NAN, 2.0], 4, [2, 2, 2, 2, 2]),
        ([7.0, NAN, NAN], 3, [7, 7, 7, 7, 7]),
        ([NAN, NAN], 1, [0, 0, 0, 0, 0]),
    ],
)
def test_seasonal_naive(values, seasonality, expected):
    assert naive(values, seasonality=seasonality) == expected


def test_seasonality_is_positive():
    with pytest.raises(ConfigError, match="at least 1"):
        SeasonalNaive(seasonality=0, context_length=1, prediction_length=1)


def whole(values, start=0):
    return Windows(values=values, context_length=12, prediction_length=6, start=start, stop=len(values))


def test_linear_finds_an_exact_rule():
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(1, 3, generator=generator, dtype=torch.float64)
    values = 7 + torch.sin(torch.arange(300)[:, None] * 6.283185307179586 / 12 + 6 * phase)
    fit = fit_linear(whole(values[:200]), whole(values, start=200))
    assert fit.weight.shape == (6, 12) and fit.weight.dtype == torch.float64
    assert evaluate_ltsf(fit, whole(values, start=200), batch_size=64).metrics["mse"] < 1e-9


def test_linear_is_least_squares_with_the_ridge_that_validates_best():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(260, 2, generator=generator, dtype=torch.float64).cumsum(0)
    train, validation = whole(values[:160]), whole(values, start=160)
    past, future = train[torch.arange(len(train))]
    mean = past.mean(1, keepdim=True)
    x, y = (part.mT.reshape(-1, part.shape[1]).numpy() for part in (past - mean, future - mean))
    expected = np.linalg.lstsq(
        np.vstack([x, np.sqrt(1e-3 * np.mean(np.sum(x**2, 0))) * np.eye(12)]),
        np.vstack([y, np.zeros((12, 6))]),
        rcond=None,
    )[0].T
    np.testing.assert_allclose(fit_linear(train, validation, ridges=[1e-3]).weight.numpy(), expected, atol=1e-9)
    losses = [
        evaluate_ltsf(fit_linear(train, validation, ridges=[r]), validation, batch_size=99).metrics["mse"]
        for r in (1e-4, 1e-1)
    ]
    chosen = fit_linear(train, validation, ridges=(1e-4, 1e-1))
    assert evaluate_ltsf(chosen, validation, batch_size=99).metrics["mse"] == pytest.approx(min(losses))


def test_linear_takes_gaps_and_short_input():
    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(2))
    fit = fit_linear(whole(values[:120]), whole(values, start=120))
    values[5] = torch.nan
    assert fit.predict([values[:9, 0], torch.full((20,), NAN)])[0].isfinite().all()
    assert fit_linear(whole(values[:120]), whole(values, start=120)).weight.isfinite().all()


def test_the_three_baselines():
    steps = torch.arange(600).double()[:, None]
    generator = torch.Generator().manual_seed(3)
    values = torch.sin(steps * 6.2832 / 8) + 0.3 * torch.randn(600, 2, generator=generator, dtype=torch.float64)
    parts = [
        split_windows(values, Borders.from_ratio(600), part, context_length=32, prediction_length=8) for part in SPLITS
    ]
    found = ltsf_baselines(*parts, seasonality=8)
    assert found["linear"]["mse"] < found["seasonal_naive"]["mse"] < found["last_value"]["mse"]
