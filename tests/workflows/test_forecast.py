"""Forecasts of users' tables: columns, values, time stamps, files, and refusals."""

import dataclasses
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError, DataError, UnknownModelError
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.layers.forecaster import Forecaster
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.registry import find_spec
from madzoo.workflows.forecast import forecast, forecast_file


class Spread(Forecaster):
    """Forecasts the last value, with the level minus one half added."""

    context_length, prediction_length, quantile_levels = 8, 4, (0.1, 0.5, 0.9)

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, past_values):
        steps = torch.zeros(4)[None, :, None, None]
        return past_values[:, -1:, :, None] + self.unit * (steps + torch.tensor([-0.4, 0.0, 0.4]))


def long_table():
    stamps = pd.date_range("2024-01-01", periods=12, freq="h")
    frames = [pd.DataFrame({"item_id": i, "timestamp": stamps, "target": 10.0 * i + np.arange(12)}) for i in (1, 2)]
    return pd.concat(frames, ignore_index=True)


def model():
    torch.manual_seed(0)
    config = PatchS4DConfig(
        context_length=24, prediction_length=6, patch_size=6, patch_stride=6, d_model=4, quantile_levels=(0.1, 0.5, 0.9)
    )
    return PatchS4D(config)


def test_columns_and_rows_of_chronos():
    found = forecast(Spread(), long_table(), prediction_length=3, quantile_levels=(0.1, 0.5, 0.7))
    assert list(found) == ["item_id", "timestamp", "target_name", "predictions", "0.1", "0.5", "0.7"]
    assert found["item_id"].tolist() == [1, 1, 1, 2, 2, 2] and set(found["target_name"]) == {"target"}
    assert found["timestamp"].tolist()[3:] == list(pd.date_range("2024-01-01 12:00", periods=3, freq="h"))
    np.testing.assert_allclose(found["predictions"], [21] * 3 + [31] * 3)
    np.testing.assert_allclose(found["0.7"], found["predictions"] + 0.2, rtol=1e-6)


def test_default_levels():
    found = forecast(Spread(), long_table(), prediction_length=1)
    levels = [f"0.{i}" for i in range(1, 10)]
    assert list(found)[4:] == levels and (np.diff(found[levels].to_numpy(), axis=1) > 0).all()


def test_batches_change_nothing():
    together, alone = (forecast(model(), long_table(), prediction_length=9, batch_size=size) for size in (99, 1))
    pd.testing.assert_frame_equal(together, alone, rtol=1e-5)


def test_own_column_names_and_several_targets():
    table = long_table().rename(columns={"item_id": "shop", "timestamp": "when", "target": "sales"})
    table["visits"] = -table["sales"]
    targets = ["sales", "visits"]
    found = forecast(Spread(), table, prediction_length=2, target=targets, id_column="shop", timestamp_column="when")
    assert list(found)[:3] == ["shop", "when", "target_name"]
    assert found["target_name"].tolist() == ["sales", "sales", "visits", "visits"] * 2
    assert found["predictions"].tolist() == [21, 21, -21, -21, 31, 31, -31, -31]


def test_wide_table_without_target():
    table = pd.DataFrame({"date": pd.date_range("2024-01-31", periods=4, freq="ME"), "a": 1.0, "b": [1, 2, 3, 4]})
    found = forecast(Spread(), table, prediction_length=2)
    assert found["item_id"].tolist() == ["0"] * 4 and found["target_name"].tolist() == ["a", "a", "b", "b"]
    assert found["timestamp"].tolist()[:2] == [pd.Timestamp("2024-05-31"), pd.Timestamp("2024-06-30")]


def test_large_numbers_keep_their_precision():
    table = pd.DataFrame({"year": range(2000, 2012), "y": 1e12 + np.arange(12)})
    found = forecast(model(), table, prediction_length=2)
    assert found["timestamp"].tolist() == [2012, 2013]
    values = found["predictions"].to_numpy()
    assert np.ptp(values - 1e12) < 100 and (values % 1 != 0).any()


def test_gaps_and_empty_series_give_finite_forecasts():
    table = long_table()
    table.loc[table.item_id == 2, "target"] = np.nan
    table = table.drop(index=[3, 4])
    found = forecast(model(), table, prediction_length=4)
    assert np.isfinite(found.select_dtypes("number").to_numpy()).all()
    assert found.loc[found.item_id == 2, "predictions"].tolist() == [0] * 4


def test_unused_columns_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        forecast(Spread(), long_table(), prediction_length=1)
        assert not caplog.records
        forecast(Spread(), long_table().assign(price=1.0), prediction_length=1)
    assert "columns price are not used" in caplog.text


class Listener(Forecaster):
    """Forecasts the sum of what it is told; remembers it."""

    context_length, prediction_length, quantile_levels = 8, 4, (0.5,)
    supports_covariates = frozenset({"past", "known_future", "static"})

    def forward(self, past_values, past_covariates=None, future_covariates=None, static_covariates=None):
        self.told = past_covariates, future_covariates, static_covariates
        found = torch.zeros(len(past_values), 4, 1, 1, dtype=torch.float64)
        for one in (future_covariates, None if static_covariates is None else static_covariates[:, None]):
            found = found if one is None else found + one.sum(-1)[:, :, None, None]
        return found


def covariate_tables() -> Any:
    past = long_table().assign(price=np.arange(24.0), size=np.repeat([5.0, 7.0], 12), weather=-1.0)
    stamps = pd.date_range("2024-01-01 12:00", periods=4, freq="h")
    future = pd.concat([pd.DataFrame({"item_id": i, "timestamp": stamps, "price": 100.0 * i}) for i in (2, 1)])
    return past, future.assign(target=np.nan)


def test_covariates_reach_the_models_that_take_them(caplog):
    past, future = covariate_tables()
    listener = Listener()
    options: Any = {"past_covariates": ["weather"], "static_covariates": ["size"], "future_df": future}
    found = forecast(listener, past, prediction_length=4, quantile_levels=(0.5,), **options)
    told: Any = listener.told
    told_past, told_future, _ = told
    assert told_past.shape == (2, 8, 2) and told_future.shape == (2, 4, 1)
    assert told_past[1, :, 1].tolist() == list(range(16, 24)) and (told_past[..., 0] == -1).all()
    assert found["predictions"].tolist() == [105.0] * 4 + [207.0] * 4
    assert not caplog.records
    with pytest.raises(ConfigError, match="beyond the model's horizon"):
        forecast(listener, past, prediction_length=5, quantile_levels=(0.5,), past_covariates=["weather"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda past, future: (past, future.iloc[:-1]), "no row for series 1 at 2024-01-01 15:00"),
        (lambda past, future: (past, future.assign(price=[np.nan, *future["price"][1:]])), "is empty at a step"),
        (lambda past, future: (past, pd.concat([future, future])), "twice"),
        (lambda past, future: (past, pd.concat([future, future.assign(item_id=3)])), "the past lacks: 3"),
        (lambda past, future: (past.drop(columns="price"), future), "no column 'price'"),
        (lambda past, future: (past, future.drop(columns="timestamp")), "no time stamp column"),
        (lambda past, future: (past.assign(size=np.arange(24)), future), "'size' changes within series 1"),
    ],
)
def test_covariates_that_do_not_fit(change: Any, match):
    past, future = change(*covariate_tables())
    with pytest.raises(DataError, match=match):
        forecast(
            Listener(), past, prediction_length=4, quantile_levels=(0.5,), future_df=future, static_covariates=["size"]
        )


def test_regression_on_known_future_covariates():
    rng = np.random.default_rng(0)
    stamps = pd.date_range("2024-01-01", periods=204, freq="D")
    price = rng.normal(size=204)
    sales = 50 + 10 * price + rng.normal(scale=0.5, size=204)
    table: Any = pd.DataFrame({"timestamp": stamps, "target": sales, "price": price})
    past, future = table[:200], table[200:].drop(columns="target")
    plain = forecast(Spread(), past[["timestamp", "target"]], prediction_length=4)["predictions"]
    helped = forecast(Spread(), past, prediction_length=4, future_df=future, covariate_regression=True)
    error, helped_error = (np.abs(x.to_numpy() - sales[200:]).mean() for x in (plain, helped["predictions"]))
    assert helped_error < 2 < error
    np.testing.assert_allclose(helped["0.9"] - helped["0.1"], 0.8)
    noise = past.assign(price=rng.normal(size=200))
    same = forecast(Spread(), noise, prediction_length=4, future_df=future, covariate_regression=True)["predictions"]
    assert np.abs(same - plain).max() < 0.25 * sales.std()
    dead = forecast(Spread(), past.assign(price=1.0), prediction_length=4, future_df=future, covariate_regression=True)[
        "predictions"
    ]
    np.testing.assert_allclose(dead, plain)


def test_a_season_is_told_to_models_that_ask(caplog):
    spec = find_spec("seasonal_naive_24_512_96")
    naive = spec.build(dataclasses.replace(spec.config, seasonality=1))
    found = forecast(naive, long_table(), prediction_length=4, seasonality=4)
    assert found["predictions"].tolist()[:4] == [18, 19, 20, 21] and naive.seasonality == 1 and not caplog.records
    forecast(Spread(), long_table(), prediction_length=1, seasonality=4)
    assert "seasonality=4 is not used" in caplog.text


class Pair(Spread):
    """Sees two channels together."""

    num_channels = 2

    def forward(self, past_values):
        assert past_values.shape[2] == 2
        return super().forward(past_values).flip(2)


def test_models_of_many_channels_take_the_targets_of_an_item_together():
    table = long_table().assign(other=lambda t: -t["target"])
    found = forecast(Pair(), table, prediction_length=2, target=["target", "other"])
    assert found["target_name"].tolist() == ["target", "target", "other", "other"] * 2
    assert found["predictions"].tolist() == [-21, -21, 21, 21, -31, -31, 31, 31]


def test_tables_of_any_time():
    for stamps in (["2024-05-01"], [7], [1, 2], ["2024-01-01 00:00", "2024-01-01 00:07", "2024-01-01 03:00"]):
        table = pd.DataFrame({"timestamp": stamps, "target": np.arange(len(stamps)) + 5.0})
        found = forecast(model(), table, prediction_length=8, quantile_levels=(0.1, 0.5, 0.9))
        assert len(found) == 8 and np.isfinite(found.select_dtypes("number").to_numpy()).all()
        assert (np.diff(found["timestamp"].to_numpy()).astype("int64") > 0).all()
    zone = "America/New_York"
    table = pd.DataFrame({"timestamp": pd.date_range("2024-03-09", periods=30, freq="h", tz=zone), "target": 1.0})
    found = forecast(Spread(), table, prediction_length=2)
    assert str(found["timestamp"].dt.tz) == zone and found["predictions"].tolist() == [1, 1]


def test_progress_is_shown(capsys):
    forecast(Spread(), long_table(), prediction_length=1, batch_size=1, progress=True)
    assert "forecast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"future_df": pd.DataFrame({"price": [1.0]})},
            r"Spread does not support.* known-future: price(.|\n)*covariate_reg",
        ),
        ({"past_covariates": ["price"]}, r"past: price(.|\n)*drop past_covariates"),
        ({"static_covariates": ["size"], "past_covariates": ["price"]}, r"past: price; static: size"),
        ({"past_covariates": "price"}, "a list of columns"),
        ({"covariate_regression": True}, "needs their future"),
        ({"seasonality": 0}, "seasonality is a whole number"),
        ({"prediction_length": 0}, "at least 1"),
        ({"quantile_levels": (0.01, 0.5)}, "outside the model's range"),
        ({"quantile_levels": (0.5, 0.5)}, "twice"),
        ({"batch_size": 0}, "batch_size"),
        ({"device": "abacus"}, "no such device"),
    ],
    ids=str,
)
def test_refusals(options: Any, match):
    options.setdefault("prediction_length", 1)
    with pytest.raises(ConfigError, match=match):
        forecast(Spread(), long_table(), **options)


def test_models_that_do_not_forecast():
    with pytest.raises(ConfigError, match="no forecaster"):
        forecast(nn.Linear(1, 1), long_table(), prediction_length=1)
    with pytest.raises(UnknownModelError):
        forecast("patch_s4x", long_table(), prediction_length=1)
    with pytest.raises(DataError, match="data frame"):
        forecast(Spread(), [1, 2, 3], prediction_length=1)  # pyright: ignore[reportArgumentType]


def test_files(tmp_path):
    source, csv, png = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "out.png"
    long_table().to_csv(source, index=False)
    found = forecast_file(source, model=Spread(), csv=csv, png=png)
    assert len(found) == 2 * 4
    written = pd.read_csv(csv, parse_dates=["timestamp"])
    pd.testing.assert_frame_equal(written, found, check_dtype=False)
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("count", "stamps"),
    [(1, pd.RangeIndex(1990, 2010)), (10, pd.date_range("2024-01-01", periods=20, freq="h", tz="Asia/Tokyo"))],
)
def test_pictures_of_many_kinds_of_time(tmp_path, count, stamps):
    table = pd.DataFrame({"timestamp": stamps, **{f"s{i}": np.arange(20.0) * i for i in range(count)}})
    source = tmp_path / "in.parquet"
    table.to_parquet(source)
    forecast_file(source, model=Spread(), png=tmp_path / "out.png", quantile_levels=(0.1, 0.3, 0.7, 0.9))
    assert (tmp_path / "out.png").stat().st_size > 5_000


def test_unwritable_output(tmp_path):
    source = tmp_path / "in.csv"
    long_table().to_csv(source, index=False)
    with pytest.raises(DataError, match="could not be written"):
        forecast_file(source, model=Spread(), csv=tmp_path / "no" / "such")
    with pytest.raises(DataError, match="could not be written"):
        forecast_file(source, model=Spread(), png=tmp_path / "no" / "such")
    with pytest.raises(DataError, match="no such file"):
        forecast_file(tmp_path / "missing.csv", model=Spread())


def test_baselines_forecast_tables_too():
    naive = SeasonalNaive(seasonality=3, context_length=12, prediction_length=4)
    found = forecast(naive, long_table(), prediction_length=4, quantile_levels=(0.5,))
    assert found["predictions"].tolist()[:4] == [19, 20, 21, 19]
