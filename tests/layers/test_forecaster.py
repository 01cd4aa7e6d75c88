"""The predict protocol, on a forecaster whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError, DataError, NotCausalError, ShapeError
from madzoo.layers.forecaster import Forecaster

NAN = float("nan")


class Climber(Forecaster):
    """Last value + step, at three levels one apart; remembers what it saw."""

    context_length, prediction_length, quantile_levels = 5, 2, (0.1, 0.5, 0.9)

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, past_values):
        self.seen.append((past_values, self.training, torch.is_grad_enabled()))
        steps = torch.arange(1, 3)[None, :, None, None]
        return past_values[:, -1:, :, None] + self.unit * (steps + torch.tensor([-1.0, 0.0, 1.0]))


def test_ragged_series_are_cropped_and_padded():
    model = Climber()
    quantiles, mean = model.predict([np.arange(8), [1.0, 2.0], torch.tensor([[7.0]])])
    past = model.seen[0][0][..., 0]
    assert quantiles.shape == (3, 2, 1, 3) and mean.shape == (3, 2, 1)
    assert past[0].tolist() == [3, 4, 5, 6, 7]
    assert past[1].isnan().tolist() == [True, True, True, False, False]
    assert quantiles[:, 0, 0, 1].tolist() == [8, 3, 8] and torch.equal(mean, quantiles[..., 1])


def test_runs_in_evaluation_mode_without_gradients_and_restores_the_mode():
    model = Climber().train()
    quantiles, _ = model.predict(torch.zeros(1, 5, 1))
    assert model.seen[0][1:] == (False, False) and model.training and not quantiles.requires_grad


def test_horizons():
    model, past = Climber(), torch.zeros(2, 5, 3)
    assert model.predict(past, prediction_length=1)[0].shape == (2, 1, 3, 3)
    longer, mean = model.predict(past, prediction_length=5)
    assert longer.shape == (2, 5, 3, 3) and mean.shape == (2, 5, 3)
    assert longer[0, :, 0, 1].tolist() == [1, 2, 3, 4, 5]
    assert longer[0, :, 0, 2].tolist() == [2, 3, 4, 5, 6]


def test_levels_are_interpolated():
    past = torch.zeros(1, 5, 1)
    quantiles, mean = Climber().predict(past, quantile_levels=[0.9, 0.3, 0.1])
    torch.testing.assert_close(quantiles[0, 0, 0], torch.tensor([2.0, 0.5, 0.0]))
    assert mean[0, 0, 0] == 1
    model = Climber()
    model.quantile_levels = (0.5,)
    model.forward = lambda past_values: past_values[:, -1:, :, None].repeat(1, 2, 1, 1)
    assert model.predict(past + 4, quantile_levels=(0.5,))[0].tolist() == [[[[4.0]], [[4.0]]]]


@pytest.mark.parametrize("levels", [(0.05,), (0.5, 0.95), ()])
def test_levels_outside_are_refused(levels):
    with pytest.raises(ConfigError, match="outside the model's range"):
        Climber().predict(torch.zeros(1, 5, 1), quantile_levels=levels)


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True])
def test_bad_horizon(horizon):
    with pytest.raises(ConfigError, match="at least 1"):
        Climber().predict(torch.zeros(1, 5, 1), prediction_length=horizon)


@pytest.mark.parametrize(
    ("past", "error", "match"),
    [
        (torch.zeros(5), ShapeError, r"\[B, L, C\]"),
        (torch.zeros(0, 5, 1), ShapeError, "empty"),
        (torch.zeros(1, 0, 1), ShapeError, "empty"),
        ([], ShapeError, "empty"),
        ([[]], ShapeError, "empty"),
        ([1.0, 2.0], ShapeError, r"\[L\] or \[L, C\]"),
        ([torch.zeros(3, 1), torch.zeros(3, 2)], ShapeError, "channels"),
        ([["a", "b"]], DataError, "numbers"),
        ([torch.tensor([1.0, float("inf")])], DataError, "infinite"),
        (torch.full((1, 5, 1), -float("inf")), DataError, "infinite"),
    ],
)
def test_bad_input(past, error, match):
    with pytest.raises(error, match=match):
        Climber().predict(past)


def test_wrong_number_of_channels():
    model = Climber()
    model.num_channels = 2
    with pytest.raises(ShapeError, match="fit the model"):
        model.predict(torch.zeros(1, 5, 3))


def test_cannot_be_stepped():
    with pytest.raises(NotCausalError, match="whole context"):
        Climber().init_state(1)
    with pytest.raises(NotCausalError, match="whole context"):
        Climber().step(torch.zeros(1), None)
