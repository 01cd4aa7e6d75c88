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


def test_ragged_series_are_cropped_and_meet_the_model_alone():
    model = Climber()
    ragged = [np.arange(8), [1.0, 2.0], torch.tensor([[7.0]]), [5.0, 6.0]]
    quantiles, mean = model.predict(ragged)
    assert [seen[0].shape[:2] for seen in model.seen] == [(1, 5), (2, 2), (1, 1)]
    assert model.seen[0][0].flatten().tolist() == [3, 4, 5, 6, 7]
    assert quantiles.shape == (4, 2, 1, 3) and mean.shape == (4, 2, 1)
    assert quantiles[:, 0, 0, 1].tolist() == [8, 3, 8, 7] and torch.equal(mean, quantiles[..., 1])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_and_company_change_nothing(size):
    generator, done = torch.Generator().manual_seed(0), []
    ragged = [torch.randn(length, generator=generator) for length in (3, 9, 1, 3, 5, 2, 3)]
    model = Climber()
    quantiles, mean = model.predict(
        ragged, prediction_length=7, batch_size=size, on_batch=lambda *counts: done.append(counts)
    )
    for place, one in enumerate(ragged):
        alone, alone_mean = model.predict([one], prediction_length=7)
        torch.testing.assert_close(quantiles[place : place + 1], alone)
        torch.testing.assert_close(mean[place : place + 1], alone_mean)
    assert max(len(seen[0]) for seen in model.seen) <= size
    assert done[-1] == (7, 7) and sorted(done) == done


def test_batches_of_a_tensor_change_nothing():
    model, past = Climber(), torch.randn(11, 5, 2)
    expected = model.predict(past, prediction_length=5)
    found = model.predict(past, prediction_length=5, batch_size=4)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    wide = Climber()
    wide.predict(torch.zeros(5, 5, 300))
    assert [len(seen[0]) for seen in wide.seen] == [1] * 5


def read_only(values):
    array = np.array(values)
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, read_only], ids=["list", "array", "tensor", "read-only"]
)
def test_whole_numbers_keep_their_digits(kind):
    quantiles, _ = Climber().predict([kind([10**9, 10**9 + 7])])
    assert quantiles[0, 0, 0, 1] == 10**9 + 8


def test_runs_in_evaluation_mode_without_gradients_and_restores_the_mode():
    model = Climber().train()
    quantiles, _ = model.predict(torch.zeros(1, 5, 1))
    assert model.seen[0][1:] == (False, False) and model.training and not quantiles.requires_grad


def test_horizons():
    model, past = Climber(), torch.zeros(2, 5, 3)
    assert model.predict(past, prediction_length=1)[0].shape == (2, 1, 3, 3)
    longer, mean = model.predict(past, prediction_length=5)
    assert longer.shape == (2, 5, 3, 3) and mean.shape == (2, 5, 3)
    torch.testing.assert_close(longer[0, :, 0, 1], torch.arange(1.0, 6.0))
    assert longer[0, :2, 0, 2].tolist() == [2, 3]
    spread = longer[0, :, 0, 2] - longer[0, :, 0, 0]
    assert (spread.diff() >= 0).all() and spread[4] > spread[2] > spread[0] == 2


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


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
@pytest.mark.parametrize("name", ["prediction_length", "batch_size"])
def test_bad_counts(name, count):
    with pytest.raises(ConfigError, match=f"{name} is a whole number, at least 1"):
        Climber().predict(torch.zeros(1, 5, 1), **{name: count})


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
