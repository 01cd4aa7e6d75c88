"""Forecasts of users' tables: levels and columns asked for in every form, and what would be lost without a word."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from madzoo.errors import ConfigError, DataError
from madzoo.layers.forecaster import Forecaster
from madzoo.workflows.forecast import forecast, forecast_file


class Levels(Forecaster):
    """Forecasts the level itself at every level it has; takes every covariate."""

    context_length, prediction_length = 8, 4
    supports_covariates = frozenset({"past", "known_future", "static"})
    answer: torch.Tensor

    def __init__(self, *levels: float) -> None:
        super().__init__()
        self.quantile_levels = levels
        self.register_buffer("answer", torch.tensor(levels, dtype=torch.float64))

    def forward(self, past_values, **_covariates):
        return self.answer.expand(len(past_values), 4, past_values.shape[2], -1)


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=12, freq="h"), "target": 1.0, **columns})


NINE = [f"0.{i}" for i in range(1, 10)]


@pytest.mark.parametrize(
    ("known", "names"),
    [((0.5,), ["0.5"]), ((0.1, 0.9), NINE), ((0.02, 0.5, 0.98), NINE), ((0.2, 0.8), ["0.2", "0.8"])],
    ids=str,
)
def test_without_levels_there_are_nine_or_the_models_own(known, names, tmp_path):
    found = forecast(Levels(*known), table(), prediction_length=2)
    assert found.columns.tolist()[4:] == names
    np.testing.assert_allclose(found.loc[0, ["predictions", *names]].astype(float), [0.5, *map(float, names)])
    table().to_csv(tmp_path / "in.csv", index=False)
    pd.testing.assert_frame_equal(forecast_file(tmp_path / "in.csv", model=Levels(*known), prediction_length=2), found)


def test_a_plain_call_serves_checkpoints_of_one_level():
    found = forecast("patch_s4d_nano_512_96.etth1", table(), prediction_length=24)
    assert found.columns.tolist()[4:] == ["0.5"] and found["predictions"].equals(found["0.5"])


def test_predictions_of_a_model_without_a_median_are_the_nearest_quantile(caplog):
    found = forecast(Levels(0.7, 0.9), table(), prediction_length=1, quantile_levels=(0.8,))
    assert found.loc[0, ["predictions", "0.8"]].tolist() == pytest.approx([0.7, 0.8])
    assert "Levels has no median: predictions are its quantile of 0.7" in caplog.text
    with pytest.raises(ConfigError, match=r"asked: \[0.5\]\n"):
        forecast(Levels(0.7, 0.9), table(), prediction_length=1, quantile_levels=(0.5,))


@pytest.mark.parametrize("levels", [0.5, ["a"], [None], "0.5", [[0.5]], [float("nan")]], ids=str)
def test_what_is_no_sequence_of_levels(levels: Any):
    with pytest.raises(ConfigError, match=r"sequence of numbers|outside the model's range"):
        forecast(Levels(0.1, 0.9), table(), prediction_length=1, quantile_levels=levels)


def test_no_levels_leave_the_predictions():
    assert forecast(Levels(0.1, 0.9), table(), prediction_length=1, quantile_levels=[]).columns[-1] == "predictions"


def test_numbers_and_offsets_of_other_libraries():
    options: Any = {"prediction_length": np.int64(3), "batch_size": np.int32(1), "freq": pd.offsets.Hour()}
    assert len(forecast(Levels(0.5), table(), **options)) == 3
    step: Any = np.int64(1)
    numbered = table(timestamp=range(12))
    assert forecast(Levels(0.5), numbered, prediction_length=1, freq=step)["timestamp"].tolist() == [12]


@pytest.mark.parametrize(
    ("rename", "options"),
    [
        ({"shop": "target_name"}, {"id_column": "target_name"}),
        ({"shop": "0.1"}, {"id_column": "0.1"}),
        ({"shop": "predictions"}, {"id_column": "predictions"}),
        ({"timestamp": "predictions"}, {"timestamp_column": "predictions"}),
        ({"timestamp": "target_name"}, {"id_column": "shop", "timestamp_column": "target_name"}),
        ({"timestamp": "date", "shop": "timestamp"}, {"id_column": "timestamp"}),
        ({}, {"id_column": "shop", "timestamp_column": "shop"}),
    ],
    ids=str,
)
def test_no_column_is_lost_under_another(rename, options):
    given = table(shop=7).rename(columns=rename)
    with pytest.raises(ConfigError, match=r"of its own(.|\n)*rename|as the id and as the time"):
        forecast(Levels(0.1, 0.9), given, prediction_length=1, target="target", **options)


def test_columns_labelled_by_numbers():
    given = pd.DataFrame({0: [1.0] * 12, 1: pd.date_range("2024-01-01", periods=12, freq="h"), 2: 3.0, 3: 4.0})
    found = forecast(Levels(0.5), given, prediction_length=1, target=0)
    assert found["target_name"].tolist() == ["0"]
    found = forecast(Levels(0.5), given, prediction_length=1, past_covariates=[2], static_covariates=[3])
    assert found["target_name"].tolist() == ["0"]
    future = pd.DataFrame({1: [found["timestamp"][0]], 2: 5.0})
    found = forecast(Levels(0.5), given, prediction_length=1, target=[0, 3], timestamp_column=1, future_df=future)
    assert found["target_name"].tolist() == ["0", "3"] and found.columns[1] == "1"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"id_column": None}, ConfigError), ({"timestamp_column": None}, ConfigError),
        ({"target": [["a"]]}, ConfigError), ({"past_covariates": None}, ConfigError),
        ({"static_covariates": 3}, ConfigError), ({"past_covariates": [None]}, ConfigError),
        ({"prediction_length": 2.5}, ConfigError), ({"prediction_length": None}, ConfigError),
        ({"future_df": {"price": [1.0]}}, DataError),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_of_other_types(options: Any, error):
    with pytest.raises(error):
        forecast(Levels(0.5), table(), **{"prediction_length": 1, **options})


def test_time_found_by_its_usual_name_is_used(caplog):
    forecast(Levels(0.5), table(timestamp=range(12)).rename(columns={"timestamp": "date"}), prediction_length=1)
    assert not caplog.records


AFTER = pd.DataFrame({"timestamp": pd.date_range("2024-01-01 12:00", periods=2, freq="h")})
FUTURES = {
    "empty columns": AFTER.assign(price=np.nan),
    "no columns": AFTER,
    "nothing": pd.DataFrame({"timestamp": [None, None], "price": np.nan}),
    "no rows": pd.DataFrame({"timestamp": [], "price": []}),
}


@pytest.mark.parametrize("future", FUTURES)
def test_a_regression_without_covariates_is_refused(future, tmp_path):
    given = table(price=np.arange(12.0))
    with pytest.raises(DataError, match=r"holds no covariate|has no rows"):
        forecast(Levels(0.5), given, prediction_length=2, future_df=FUTURES[future], covariate_regression=True)
    given.to_csv(tmp_path / "past.csv", index=False)
    FUTURES[future].to_csv(tmp_path / "future.csv", index=False)
    options: Any = {"model": Levels(0.5), "future": tmp_path / "future.csv", "target": "target"}
    with pytest.raises(DataError, match=r"holds no covariate|has no rows"):
        forecast_file(tmp_path / "past.csv", prediction_length=2, covariate_regression=True, **options)


def test_names_that_cannot_name_a_series():
    with pytest.raises(DataError, match="names nothing"):
        forecast(Levels(0.5), table(item_id=[["a"]] * 12), prediction_length=1)
    future = pd.DataFrame({"item_id": [["a"]], "timestamp": pd.Timestamp("2024-01-01 12:00"), "price": 1.0})
    with pytest.raises(DataError, match="names nothing"):
        forecast(Levels(0.5), table(item_id=1, price=2.0), prediction_length=1, future_df=future)
