"""Benchmarks of series: a case by hand, quantiles of the seasonal naive, baselines, batches."""

import math
from statistics import NormalDist

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.evaluation import SeriesBenchmark, evaluate
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.evaluation.series import LEVELS, PooledWindows, evaluate_series, fit_pooled_linear

NAN = float("nan")


def column(*values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def made(items=3, length=120, horizon=4, windows=2, **options):
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(length).double()[:, None]
    noise = torch.randn(items, length, 2, generator=generator, dtype=torch.float64)
    series = [10 ** (2 * k) * (5 + torch.sin(steps * math.tau / 8) + 0.1 * noise[k]) for k in range(items)]
    cuts = [
        [(one[: length - back * horizon], one[length - back * horizon :][:horizon]) for one in series]
        for back in range(windows, 0, -1)
    ]
    lengths = {"linear_context": 16, "linear_holdout": 8}
    return SeriesBenchmark(name="made", dataset="made", windows=cuts, seasonality=8, **(lengths | options))


def naive(benchmark, levels=LEVELS, seasonality=None):
    return SeasonalNaive(
        seasonality=seasonality or benchmark.seasonality,
        context_length=1000,
        prediction_length=benchmark.horizon,
        quantile_levels=levels,
    )


def test_seasonal_naive_by_hand():
    # Seasons of 2: the past 1 5 3 5 2 9 is followed by 2 9 2; differences a season apart are 2 0 -1 4.
    window = [(column(1, 5, 3, 5, 2, 9), column(4, 9, NAN))]
    benchmark = SeriesBenchmark(name="b", dataset="d", windows=[window], seasonality=2)
    found = evaluate_series(naive(benchmark), benchmark)
    assert found.n == 1
    assert found.metrics["mase"] == pytest.approx((2 + 0) / 2 / (7 / 4))
    assert found.metrics["wape"] == pytest.approx(2 / 13)
    sigma = math.sqrt(sum((x - 1.25) ** 2 for x in (2, 0, -1, 4)) / 4)
    losses = []
    for level in LEVELS:
        for y, point in ((4, 2), (9, 9)):
            error = y - (point + NormalDist().inv_cdf(level) * sigma)
            losses.append(2 * max(level * error, (level - 1) * error) / (7 / 4))
    assert found.metrics["sql"] == pytest.approx(sum(losses) / len(losses))
    assert found.metrics["coverage_80"] == 1.0


def test_seasonal_naive_widens_from_season_to_season():
    model = SeasonalNaive(seasonality=2, context_length=9, prediction_length=5, quantile_levels=(0.1, 0.5, 0.9))
    quantiles, _ = model.predict([column(1, 5, 3, 5, 2, 9)])
    width = (quantiles[0, :, 0, 2] - quantiles[0, :, 0, 0]) / 2
    sigma = math.sqrt(sum((x - 1.25) ** 2 for x in (2, 0, -1, 4)) / 4)
    expected = [1.2815515655446004 * sigma * math.sqrt(1 + h // 2) for h in range(5)]
    assert width.tolist() == pytest.approx(expected)
    short, _ = model.predict([column(3.0)])
    assert short[0, :, 0].eq(3).all()


def test_batches_change_nothing_and_units_are_the_series_own():
    one, many = (evaluate_series(naive(made()), made(batch_size=size)) for size in (1, 64))
    assert one.metrics == pytest.approx(many.metrics, rel=1e-12) and one.n == 2 * 3 * 2
    assert set(one.metrics) == {"sql", "mase", "wape", "wql", "coverage_80"}


def test_a_row_has_its_baselines_details_and_settings():
    benchmark = made(settings={"horizon": 4}, metrics=("mase", "smape", "sql"))
    (row,) = evaluate(naive(benchmark), benchmark, name="mine", seed=3)
    assert (row.model, row.dataset, row.n, row.settings, row.seed) == ("mine", "made", 12, {"horizon": 4}, 3)
    assert list(row.metrics) == ["mase", "smape", "sql", "coverage_80"]
    assert row.baselines["seasonal_naive"] == pytest.approx(row.metrics, rel=1e-9)
    assert (
        row.baselines["linear"]["mase"] < row.baselines["seasonal_naive"]["mase"] < row.baselines["last_value"]["mase"]
    )
    assert "coverage_80" not in row.baselines["linear"]
    assert row.details["MASE[0.5]"] == pytest.approx(row.metrics["mase"])


def test_a_point_model_stands_at_every_level():
    found = evaluate_series(naive(made(), levels=(0.5,)), made()).metrics
    assert found["sql"] == pytest.approx(found["mase"]) and "coverage_80" not in found


def test_the_linear_map_sees_nothing_after_the_first_cut():
    benchmark = made()
    fit = fit_pooled_linear(benchmark)
    for _, future in (pair for window in benchmark.windows for pair in window):
        future.fill_(NAN)
    for past, _ in benchmark.windows[1]:
        past[-4:] = NAN
    assert torch.equal(fit_pooled_linear(benchmark).weight, fit.weight)


def test_pooled_windows_stay_inside_their_series():
    series = [torch.arange(6.0), torch.arange(100.0, 103), torch.arange(200.0, 205)]
    pooled = PooledWindows(series, context_length=3, prediction_length=2, skip=[0, 0, 0])
    past, future = pooled[torch.arange(len(pooled))]
    assert past[..., 0].tolist() == [[0, 1, 2], [1, 2, 3], [200, 201, 202]]
    assert future[..., 0].tolist() == [[3, 4], [4, 5], [203, 204]]
    late = PooledWindows(series[:1], context_length=3, prediction_length=2, skip=[4])
    assert late[torch.tensor([0])][1].flatten().tolist() == [4, 5] and len(late) == 1


def test_refusals():
    with pytest.raises(ConfigError, match="long enough"):
        fit_pooled_linear(made(linear_context=200))
    with pytest.raises(ConfigError, match="long enough"):
        fit_pooled_linear(made(linear_holdout=3))
    with pytest.raises(ConfigError, match="does not forecast"):
        evaluate(torch.nn.Identity(), made())
    with pytest.raises(ConfigError, match="outside the model's range"):
        evaluate_series(naive(made(), levels=(0.2, 0.5, 0.8)), made())
