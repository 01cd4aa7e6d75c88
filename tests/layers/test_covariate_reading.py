"""Covariates of predict: which forms stand beside the series, and what is said of the rest."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from madzoo.errors import DataError, ShapeError
from madzoo.layers.covariate_reading import COVARIATES
from madzoo.layers.forecaster import Forecaster

NAN = float("nan")


class Listener(Forecaster):
    """Repeats the last value and remembers what it was told."""

    context_length, prediction_length, quantile_levels = 4, 2, (0.5,)
    supports_covariates = frozenset(COVARIATES)

    def __init__(self):
        super().__init__()
        self.unit, self.told = nn.Parameter(torch.ones(())), []

    def forward(self, past_values, past_covariates=None, future_covariates=None, static_covariates=None):
        self.told.append((past_values, past_covariates, future_covariates, static_covariates))
        return past_values[:, -1:, :, None].repeat(1, 2, 1, 1)


SERIES = [np.arange(6.0), np.arange(3.0)]


def test_they_are_cropped_and_padded_with_their_series():
    model = Listener()
    model.short_is_padded = True
    past = [np.arange(12.0).reshape(6, 2)[::-1], torch.ones(3, 2)]
    future, static = torch.zeros(2, 2, 1), [[1, 2, 3], [4, 5, 6]]
    model.predict(SERIES, past_covariates=past, future_covariates=future, static_covariates=static)
    ((values, beside, ahead, still),) = model.told
    assert values.shape == (2, 4, 1) and values[0, 0].isnan() and beside.shape == (2, 4, 2)
    assert beside[0, 0].isnan().all() and beside[0, 1:].eq(1).all()  # the shorter one first
    assert beside[1, :, 0].tolist() == [6, 4, 2, 0]
    assert ahead.shape == (2, 2, 1) and still.tolist() == [[4, 5, 6], [1, 2, 3]]


def test_they_keep_their_own_digits():
    model = Listener()
    model.predict(torch.zeros(1, 4, 1), past_covariates=[[[1e9 + 0.25]] * 4])
    assert model.told[0][0].dtype == torch.float32 and model.told[0][1][0, 0, 0] == 1e9 + 0.25


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"past_covariates": ["a", "b"]}, DataError, "past_covariates is not an array of numbers"),
        ({"past_covariates": 5}, DataError, "past_covariates holds nothing for each series"),
        ({"past_covariates": [torch.zeros(6), torch.zeros(3)]}, ShapeError, "past covariates do not stand beside"),
        ({"past_covariates": [torch.zeros(6, 1), torch.zeros(3, 2)]}, ShapeError, "do not stand beside"),
        ({"past_covariates": [torch.zeros(6, 1), torch.zeros(2, 1)]}, ShapeError, "do not stand beside"),
        ({"past_covariates": [torch.zeros(6, 1)]}, ShapeError, "do not stand beside"),
        ({"past_covariates": [1.0, 2.0]}, ShapeError, "do not stand beside"),
        ({"past_covariates": []}, ShapeError, "do not stand beside"),
        ({"past_covariates": [[[1j]] * 6, [[1j]] * 3]}, DataError, "numbers"),
        ({"past_covariates": [[[np.inf]] * 6, [[0.0]] * 3]}, DataError, "past_covariates holds an infinite"),
        ({"future_covariates": torch.full((2, 2, 1), -np.inf)}, DataError, "future_covariates holds an infinite"),
        ({"future_covariates": torch.zeros(2, 3, 1)}, ShapeError, "known_future covariates"),
        ({"static_covariates": torch.full((2, 1), np.inf)}, DataError, "static_covariates holds an infinite"),
        ({"static_covariates": torch.zeros(2, 1, 1)}, ShapeError, "static covariates"),
        ({"static_covariates": torch.zeros(2)}, ShapeError, "static covariates"),
        (
            {"static_covariates": None, "past_covariates": True},
            DataError,
            "past_covariates holds nothing for each series",
        ),
    ],
)
def test_what_does_not_fit(given: Any, error, match):
    with pytest.raises(error, match=match):
        Listener().predict(SERIES, **given)


def test_missing_ones_are_told_as_missing():
    model = Listener()
    model.predict(
        torch.zeros(1, 4, 1), past_covariates=np.ma.masked_greater(np.array([[[0.0], [9.0], [1.0], [2.0]]]), 5)
    )
    assert model.told[0][1].isnan().flatten().tolist() == [False, True, False, False]
