"""Forecasters under fev's and GluonTS's interfaces: with the libraries where they are installed, else skipped."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.evaluation import SeriesBenchmark
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.evaluation.series import LEVELS, evaluate_series
from madzoo.workflows.foreign_predictors import GluonTSPredictor, fev_model

HORIZON, WINDOWS = 4, 3


def series():
    rng = np.random.default_rng(0)
    steps = np.arange(60)
    return {
        f"item_{k}": {name: 10 + np.sin(steps * np.pi / 3 + k) + rng.normal(size=60) for name in ("a", "b")}
        for k in range(2)
    }


def naive(levels=LEVELS, horizon=HORIZON):
    return SeasonalNaive(seasonality=6, context_length=60, prediction_length=horizon, quantile_levels=levels)


def benchmark():
    items = [torch.from_numpy(np.stack([one["a"], one["b"]], axis=1)) for one in series().values()]
    cuts = [[(x[: 60 - k * HORIZON], x[60 - k * HORIZON :][:HORIZON]) for x in items] for k in (3, 2, 1)]
    return SeriesBenchmark(name="b", dataset="d", windows=cuts, seasonality=6)


@pytest.mark.filterwarnings("ignore")  # fev's own, of the versions of its libraries
@pytest.mark.parametrize("levels", [LEVELS, (0.5,)])
def test_fev_computes_the_numbers_that_madzoo_does(tmp_path, levels):
    fev = pytest.importorskip("fev", reason="fev is not installed")
    stamps = pd.date_range("2020-01-01", periods=60, freq="D")
    rows = [{"id": name, "timestamp": stamps.to_list(), **columns} for name, columns in series().items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    task = fev.Task(
        dataset_path=str(tmp_path / "data.parquet"),
        horizon=HORIZON,
        num_windows=WINDOWS,
        seasonality=6,
        target=["a", "b"],
        eval_metric="SQL",
        extra_metrics=["MASE", {"name": "WAPE", "epsilon": 1.0}, {"name": "WQL", "epsilon": 1.0}],
        quantile_levels=list(LEVELS),
    )
    model = fev_model(naive(levels), fev.ForecastingModel, name=f"naive-{len(levels)}", trained_on_datasets=["ETT_1H"])
    assert model.trained_on_datasets == ["ETT_1H"] and isinstance(model, fev.ForecastingModel)
    summary = task.evaluation_summary(model.fit_predict(task), model_name=model.model_name)
    ours = evaluate_series(naive(levels), benchmark())
    assert summary["num_forecasts"] == ours.n == 12 and model.inference_time > 0
    for name in ("sql", "mase", "wape", "wql"):
        assert summary[name.upper()] == pytest.approx(ours.metrics[name], rel=1e-6), name


@pytest.mark.filterwarnings("ignore")  # GluonTS's own, of the versions of pandas
def test_gluonts_evaluates_what_madzoo_does():
    gluonts = pytest.importorskip("gluonts.model", reason="gluonts is not installed")
    forecast = pytest.importorskip("gluonts.model.forecast")
    metrics = pytest.importorskip("gluonts.ev.metrics")
    split = pytest.importorskip("gluonts.dataset.split").split
    entries = [
        {"item_id": f"{name}/{column}", "start": pd.Period("2020-01-01", freq="D"), "target": values}
        for name, columns in series().items()
        for column, values in columns.items()
    ]
    _, template = split(entries, offset=-WINDOWS * HORIZON)
    table = gluonts.evaluate_model(
        GluonTSPredictor(naive(), forecast.QuantileForecast),
        test_data=template.generate_instances(prediction_length=HORIZON, windows=WINDOWS),
        metrics=[
            metrics.MSE(forecast_type="mean"),
            *(metric(forecast_type=0.5) for metric in (metrics.MAE, metrics.MASE, metrics.ND)),
            metrics.MeanWeightedSumQuantileLoss(quantile_levels=list(LEVELS)),
        ],
        seasonality=6,
    )
    ours = evaluate_series(naive(), benchmark()).details
    for name in ("MSE[mean]", "MAE[0.5]", "MASE[0.5]", "ND[0.5]", "mean_weighted_sum_quantile_loss"):
        assert float(table[name].iloc[0]) == pytest.approx(ours[name], rel=1e-5), name


class Answer:
    """What a forecast class is called with."""

    def __init__(self, **given):
        self.given = given


def test_a_predictor_answers_every_entry_in_order():
    entries = [
        {"item_id": "x", "start": pd.Period("2020-01-01", freq="h"), "target": [1.0, 2.0, 3.0]},
        {"start": pd.Period("2020-01-05", freq="h"), "target": np.arange(9.0)},
    ]
    predictor = GluonTSPredictor(naive((0.1, 0.5, 0.9)), Answer, prediction_length=2)
    first, second = (answer.given for answer in predictor.predict(entries))
    assert first["item_id"] == "x" and second["item_id"] is None
    assert first["start_date"] == pd.Period("2020-01-01 03:00", freq="h")
    assert first["forecast_keys"] == ["0.1", "0.5", "0.9", "mean"] and second["forecast_arrays"].shape == (4, 2)
    assert second["forecast_arrays"][1].tolist() == [3.0, 4.0]
    assert list(predictor.predict([])) == []
    with pytest.raises(ConfigError, match="single series"):
        list(predictor.predict([{"target": np.zeros((2, 5)), "start": entries[0]["start"]}]))


def test_fev_needs_its_own_class():
    with pytest.raises(ConfigError, match="no ForecastingModel"):
        fev_model(naive(), dict, name="x")
