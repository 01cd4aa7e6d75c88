"""Series of different steps in one table: each is forecast with its own season."""

import logging

import numpy as np
import pandas as pd
import pytest

from madzoo.data.series import read_series
from madzoo.factory import create_model
from madzoo.workflows.forecast import forecast
from madzoo.workflows.season import by_season, with_season

STEPS = {"days": "D", "hours": "h", "weeks": "W-SUN", "more days": "D"}  # seasons of 7, 24, 1 and 7


@pytest.fixture(scope="module")
def model():
    return create_model("season_s4d_small_672_192", d_model=4, depth=1, bottleneck=4, context_length=168).eval()


def table():
    random, frames = np.random.default_rng(0), []
    for name, step in STEPS.items():
        stamps = pd.date_range("2023-01-01", periods=120, freq=step)
        values = np.sin(2 * np.pi * np.arange(120) / 7) + 0.1 * random.standard_normal(120)
        frames.append(pd.DataFrame({"item_id": name, "timestamp": stamps, "target": values}))
    return pd.concat(frames, ignore_index=True)


def test_each_series_is_forecast_as_if_alone(model):
    whole = forecast(model, table(), prediction_length=9)
    assert whole["item_id"].tolist() == [name for name in STEPS for _ in range(9)]  # the order of the table
    for name, frame in table().groupby("item_id"):
        alone, rows = forecast(model, frame, prediction_length=9), whole[whole["item_id"] == name]
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), alone, rtol=1e-5, atol=1e-6)
    told = forecast(model, table(), prediction_length=9, seasonality=5)
    assert not np.allclose(told["predictions"], whole["predictions"])


def test_places_and_seasons(model):
    series = read_series(table(), target="target")
    assert [(told.seasonality, places) for told, places in by_season(model, None, series)] == [
        (7, [0, 3]), (24, [1]), (1, [2]),
    ]  # fmt: skip
    assert [(told.seasonality, places) for told, places in by_season(model, 5, series)] == [(5, [0, 1, 2, 3])]
    other = create_model("patch_s4d_nano_512_96")
    assert by_season(other, None, series) == [(other, [0, 1, 2, 3])]


def test_a_training_has_one_season_and_says_which(model, caplog):
    series = read_series(table(), target="target")
    with caplog.at_level(logging.WARNING):
        assert with_season(model, None, series).seasonality == 7
    assert "{7: 2, 24: 1, 1: 1}" in caplog.text
    caplog.clear()
    assert with_season(model, None, series[:1]).seasonality == 7 and with_season(model, None, []) is model
    assert not caplog.records
