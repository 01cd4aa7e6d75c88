"""Losses against hand-computed values; the weight average against its recursion."""

import math

import torch

from madzoo.training.ema import WeightAverage
from madzoo.training.losses import cross_entropy, mean_squared_error, pinball
from madzoo.training.validation import score_classifier, score_forecaster


def test_pinball_weighs_the_two_sides_and_skips_missing_targets():
    quantiles = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    target = torch.tensor([[[1.0], [-1.0], [math.nan]]])
    # level 0.1: 0.1 and 0.9; level 0.9: 0.9 and 0.1
    torch.testing.assert_close(pinball(quantiles, target, (0.1, 0.9)), torch.tensor(0.5))


def test_pinball_is_least_at_the_quantile():
    torch.manual_seed(0)
    target = torch.randn(1, 4001, 1)
    guesses = torch.linspace(-2, 2, 81)
    losses = [pinball(torch.full((1, 4001, 1, 1), g), target, (0.9,)) for g in guesses.tolist()]
    best = guesses[int(torch.stack(losses).argmin())]
    assert abs(best - target.quantile(0.9)) <= 0.05


def test_mean_squared_error_uses_the_mean_quantile():
    quantiles = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])
    target = torch.tensor([[[0.0], [math.nan]]])
    assert mean_squared_error(quantiles, target) == 4


def test_gradients_ignore_missing_targets():
    quantiles = torch.zeros(1, 2, 1, 1, requires_grad=True)
    pinball(quantiles, torch.tensor([[[1.0], [math.nan]]]), (0.5,)).backward()
    assert quantiles.grad.flatten().tolist() == [-0.5, 0.0]


def test_cross_entropy_takes_indices_and_probabilities():
    logits = torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 1, 0])
    onehot = torch.nn.functional.one_hot(labels).float()
    torch.testing.assert_close(cross_entropy(logits, labels), cross_entropy(logits, onehot))


def test_average_follows_its_recursion():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.9)
    expected = model[0].weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            model[0].weight.add_(0.1)
            model[1].running_mean.add_(1)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight, expected)
    assert average.module[1].running_mean[0] == 200
    assert not average.module.training


def test_scores_do_not_depend_on_the_batch_size():
    model = torch.nn.Linear(4, 3).eval()
    x, labels = torch.randn(23, 4), torch.arange(23) % 3
    scores = [score_classifier(model, zip(x.split(size), labels.split(size), strict=True)) for size in (1, 23)]
    for key in scores[0]:
        assert math.isclose(scores[0][key], scores[1][key], rel_tol=1e-6)


class LastValue(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, past):
        return past[:, -1:, :, None].expand(-1, 3, -1, 1)


def test_forecast_score_is_half_the_absolute_error_at_the_median():
    past, future = torch.zeros(6, 5, 2), torch.full((6, 3, 2), 2.0)
    scores = score_forecaster(LastValue(), [(past, future)], (0.5,))
    assert scores == {"score": 1.0, "mae": 2.0, "mse": 4.0, "n": 6}
