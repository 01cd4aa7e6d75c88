"""Forecast errors: the same for any batch size, equal to a plain loop, every window counted."""

import pytest
import torch

from madzoo.data.windows import Borders, Windows, split_windows
from madzoo.errors import ConfigError, DataError
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.evaluation.forecasting import block_bootstrap_interval, evaluate_ltsf
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig


def table(rows=420, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    return 5 + noise + 3 * torch.sin(torch.arange(rows).double() * 6.2832 / 24)[:, None]


def windows(values=None, horizon=13):
    values = table() if values is None else values
    borders = Borders(train=200, val=100, test=120)
    return split_windows(values, borders, "test", context_length=48, prediction_length=horizon)


def model(levels=(0.1, 0.5, 0.9)):
    torch.manual_seed(0)
    config = PatchS4DConfig(
        context_length=48,
        prediction_length=13,
        patch_size=8,
        patch_stride=4,
        d_model=4,
        d_state=4,
        quantile_levels=levels,
    )
    return PatchS4D(config)


def test_batch_size_changes_nothing():
    data = windows()
    one, many = (evaluate_ltsf(model(), data, batch_size=size) for size in (1, 512))
    assert one.n == many.n == 120 - 13 + 1
    for name, value in one.metrics.items():
        assert abs(value / many.metrics[name] - 1) < 1e-6
    assert set(one.metrics) == {"mse", "mae", "wql", "coverage_80"}


def test_equals_a_plain_loop():
    data, forecaster = windows(), model()
    squared, absolute, pinball, size = [], [], 0.0, 0.0
    for i in range(len(data)):
        past, future = data[i]
        with torch.no_grad():
            q = forecaster.eval()(past[None])[0].double()
        squared.append((q.mean(-1) - future).square())
        absolute.append((q[..., 1] - future).abs())
        for k, level in enumerate((0.1, 0.5, 0.9)):
            error = future - q[..., k]
            pinball += float(torch.where(error > 0, level * error, (level - 1) * error).sum()) * 2 / 3
        size += float(future.double().abs().sum())
    scores = evaluate_ltsf(forecaster, data, batch_size=32).metrics
    assert scores["mse"] == pytest.approx(float(torch.stack(squared).mean()), rel=1e-5)
    assert scores["mae"] == pytest.approx(float(torch.stack(absolute).mean()), rel=1e-5)
    assert scores["wql"] == pytest.approx(pinball / size, rel=1e-5)


def test_another_horizon_than_the_models():
    for horizon in (5, 30):
        assert evaluate_ltsf(model(), windows(horizon=horizon), batch_size=64).n == 120 - horizon + 1


def test_missing_targets_do_not_count():
    values = table()
    naive = SeasonalNaive(seasonality=24, context_length=24, prediction_length=13)
    whole = evaluate_ltsf(naive, windows(values), batch_size=50)
    values[350] = torch.nan
    gapped = evaluate_ltsf(naive, windows(values), batch_size=50)
    assert gapped.n == whole.n and gapped.metrics["mse"] != whole.metrics["mse"]
    assert gapped.metrics["mse"] == pytest.approx(whole.metrics["mse"], rel=0.1)
    values[:] = torch.nan
    nothing = Windows(values=values, context_length=48, prediction_length=13, start=300, stop=420)
    with pytest.raises(DataError, match="no observed target"):
        evaluate_ltsf(naive, nothing, batch_size=50)


def test_the_model_is_left_in_its_mode():
    forecaster = model().train()
    evaluate_ltsf(forecaster, windows(), batch_size=64)
    assert forecaster.training


def test_refusals():
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate_ltsf(model(), windows(), batch_size=0)
    with pytest.raises(ConfigError, match="outside the model's range"):
        evaluate_ltsf(model((0.1, 0.2)), windows(), batch_size=8)
    broken = model((0.5,))
    broken.forward = lambda past_values: past_values[:, :13, :, None] * torch.nan
    with pytest.raises(DataError, match="not finite"):
        evaluate_ltsf(broken, windows(), batch_size=8)


def test_interval_covers_the_mean_and_widens_with_dependence():
    generator = torch.Generator().manual_seed(1)
    errors = torch.rand(2000, generator=generator, dtype=torch.float64)
    count = torch.ones_like(errors)
    low, high = block_bootstrap_interval(errors, count, block=1)
    assert low < errors.mean() < high and high - low < 0.04
    repeated = errors[:200].repeat_interleave(10)
    narrow, wide = (block_bootstrap_interval(repeated, count, block=b) for b in (1, 50))
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert block_bootstrap_interval(errors[:3], count[:3], block=10) == pytest.approx([float(errors[:3].mean())] * 2)
