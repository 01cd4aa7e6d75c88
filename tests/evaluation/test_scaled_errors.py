"""Scaled errors: a case by hand, missing values, and GIFT-Eval's averages."""

import pytest
import torch

from madzoo.errors import DataError
from madzoo.evaluation.scaled_errors import coverage, gift_eval_errors, scaled_errors, seasonal_error

NAN = float("nan")
LEVELS = (0.1, 0.5, 0.9)


def test_seasonal_error_by_hand():
    past = torch.tensor([[1.0, 5.0], [2.0, NAN], [4.0, 5.0], [8.0, 7.0], [NAN, 9.0]])
    assert seasonal_error(past, 1).tolist() == [(1 + 2 + 4) / 3, 2.0]
    assert seasonal_error(past, 2).tolist() == [(3 + 6) / 2, (0 + 4) / 2]
    assert seasonal_error(past, 5).isnan().all()


def by_hand():
    # One window, two items, two steps, one target: y = [[2, 4], [10, NaN]], scales 2 and 5.
    y = torch.tensor([[2.0, 4.0], [10.0, NAN]], dtype=torch.float64)[None, :, :, None]
    q = torch.tensor([[[1.0, 3, 4], [2, 3, 5]], [[6, 8, 9], [0, 0, 0]]], dtype=torch.float64)[None, :, :, None]
    return y, q, torch.tensor([[[2.0], [5.0]]])


def test_every_metric_by_hand():
    y, q, scale = by_hand()
    found = scaled_errors(y, q, scale, levels=LEVELS)
    # |y - median| is 1, 1 and 2.
    assert found["mase"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 5) / 3)
    assert found["wape"] == pytest.approx((4 / 3) / (16 / 3))
    assert found["smape"] == pytest.approx(2 * (1 / 5 + 1 / 7 + 2 / 18) / 3)
    # Twice the pinball losses by step, level 0.1, 0.5, 0.9: (0.2, 1, 0.4), (0.4, 1, 0.2), (0.8, 2, 1.8).
    losses = torch.tensor([[0.2, 1, 0.4], [0.4, 1, 0.2], [0.8, 2, 1.8]], dtype=torch.float64)
    assert found["wql"] == pytest.approx(float((losses.sum(0) / 16).mean()))
    assert found["sql"] == pytest.approx(float((losses / torch.tensor([[2.0], [2], [5]])).mean()))
    assert coverage(y, q[..., 0], q[..., -1]) == pytest.approx(2 / 3)


def test_targets_and_windows_weigh_alike():
    generator = torch.Generator().manual_seed(0)
    y, noise = (torch.randn(3, 2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    q = (y + noise).unsqueeze(-1) + torch.tensor([-1.0, 0, 1])
    scale = 1 + torch.rand(3, 2, 4, generator=generator)
    whole = scaled_errors(y, q, scale, levels=LEVELS)
    parts = [
        scaled_errors(y[w : w + 1, ..., [c]], q[w : w + 1, ..., [c], :], scale[w : w + 1, :, [c]], levels=LEVELS)
        for w in range(3)
        for c in range(4)
    ]
    for name, value in whole.items():
        assert value == pytest.approx(sum(part[name] for part in parts) / len(parts)), name


def test_a_point_at_every_level_has_the_loss_of_its_median():
    y, q, scale = by_hand()
    found = scaled_errors(y, q[..., 1:2].expand_as(q), scale, levels=LEVELS)
    assert found["sql"] == pytest.approx(found["mase"]) and found["wql"] == pytest.approx(found["wape"])


def test_items_without_a_seasonal_error_do_not_count():
    y, q, _ = by_hand()
    for nothing in (0.0, NAN):
        found = scaled_errors(y, q, torch.tensor([[[2.0], [nothing]]]), levels=LEVELS)
        assert found["mase"] == pytest.approx(0.5)
        assert found["wape"] == pytest.approx(0.25)


def test_small_targets_are_divided_by_one():
    y, q, scale = by_hand()
    assert scaled_errors(y / 100, q / 100, scale, levels=LEVELS)["wape"] == pytest.approx((4 / 3) / 100)


def test_gift_eval_errors_by_hand():
    y, q, scale = by_hand()
    found = gift_eval_errors(y, q, q[..., 1] + 1, scale, levels=LEVELS)
    # Errors of the mean, median + 1, are -2, 0 and 1.
    assert found["MSE[mean]"] == pytest.approx(5 / 3) and found["RMSE[mean]"] == pytest.approx((5 / 3) ** 0.5)
    assert found["NRMSE[mean]"] == pytest.approx((5 / 3) ** 0.5 / (16 / 3))
    assert found["MSE[0.5]"] == pytest.approx(2) and found["MAE[0.5]"] == pytest.approx(4 / 3)
    assert found["MAPE[0.5]"] == pytest.approx((1 / 2 + 1 / 4 + 2 / 10) / 3)
    assert found["ND[0.5]"] == pytest.approx(4 / 16)
    assert found["MASE[0.5]"] == pytest.approx(1.4 / 3)
    assert found["mean_weighted_sum_quantile_loss"] == pytest.approx((1.4 + 4 + 2.4) / 16 / 3)


def test_refusals():
    y, q, scale = by_hand()
    with pytest.raises(DataError, match="no observed target"):
        scaled_errors(y * NAN, q, scale, levels=LEVELS)
    q[0, 0, 0, 0, 0] = NAN
    with pytest.raises(DataError, match="NaN or inf"):
        scaled_errors(y, q, scale, levels=LEVELS)
