"""The smoothed pinball loss against the average over blurred targets, and against the pinball loss far from kinks."""

import math

import pytest
import torch

from madzoo.training.losses import pinball
from madzoo.training.smooth_pinball import smooth_pinball

LEVELS = (0.1, 0.5, 0.9)


def test_it_is_the_mean_pinball_loss_of_blurred_targets() -> None:
    torch.manual_seed(0)
    quantiles = torch.randn(1, 7, 2, 3, dtype=torch.float64).sort(-1).values
    target = torch.randn(1, 7, 2, dtype=torch.float64)
    width = float((target - quantiles[..., 1]).abs().mean())
    points = (torch.arange(20001, dtype=torch.float64) / 20000 * 2 - 1) * width
    blurred = torch.stack([pinball(quantiles, target + shift, LEVELS) for shift in points[::50]])
    found = smooth_pinball(quantiles, target, LEVELS)
    assert float(found) == pytest.approx(float(torch.trapezoid(blurred, points[::50]) / (2 * width)), rel=1e-4)


def test_it_is_the_pinball_loss_where_every_error_is_as_large_as_the_mean() -> None:
    quantiles = torch.zeros(2, 3, 1, 1, dtype=torch.float64)
    target = torch.tensor([[1.0, -1.0, 1.0], [5.0, -5.0, math.nan]], dtype=torch.float64)[..., None]
    for level in (0.2, 0.5):
        assert smooth_pinball(quantiles, target, (level,)) == pytest.approx(float(pinball(quantiles, target, (level,))))


def test_it_has_curvature_where_the_pinball_loss_has_none() -> None:
    q = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.5, 1.5]], dtype=torch.float64)[..., None]  # width 1: the first error lies inside
    (slope,) = torch.autograd.grad(smooth_pinball(q, target, (0.5,)), q, create_graph=True)
    (bent,) = torch.autograd.grad(slope.sum(), q)
    assert bent.flatten().tolist() == pytest.approx([1 / 4, 0.0])  # half of 1 / (2 w), by two targets
    assert torch.isfinite(smooth_pinball(q, torch.zeros(1, 2, 1), (0.5,)))


def test_a_sample_without_targets_counts_nothing() -> None:
    torch.manual_seed(0)
    quantiles, target = torch.randn(2, 4, 1, 3), torch.randn(2, 4, 1)
    target[1] = math.nan
    assert torch.equal(smooth_pinball(quantiles, target, LEVELS), smooth_pinball(quantiles[:1], target[:1], LEVELS))
