"""Registered benchmarks on the real data: published numbers of the naive methods, to four decimals.

Sources: benchmarks/fev_bench/results/{seasonal_naive,naive}.csv of github.com/autogluon/fev @ 1bc95fd; the sNaive and
naive rows of the M4 competition (Makridakis et al. 2020, The M4 competition, hourly). Values of the long horizons were
computed by a plain loop outside this package.
"""

import pytest

from madzoo.data.catalog import find_dataset
from madzoo.data.windows import Borders, split_windows
from madzoo.errors import ConfigError, UnknownTagError
from madzoo.evaluation import find_benchmarks
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.evaluation.forecasting import evaluate_ltsf
from madzoo.evaluation.series import LEVELS, evaluate_series
from madzoo.factory import create_model
from madzoo.workflows.evaluate import evaluate
from madzoo.workflows.series_benchmarks import load_benchmarks
from madzoo.workflows.training_task import table_values
from tests.workflows.tiny_data import make_classifier, make_forecaster


def loaded(name, folder):
    (found,) = load_benchmarks(create_model("seasonal_naive_24_512_96"), name, folder=folder)
    return found


def naive(benchmark, seasonality):
    lengths = {"context_length": 20000, "prediction_length": benchmark.horizon}
    return evaluate_series(SeasonalNaive(seasonality=seasonality, quantile_levels=LEVELS, **lengths), benchmark)


@pytest.mark.parametrize(
    ("name", "n", "seasonal", "last", "sql"),
    [
        ("fev-ett-1h", 280, (1.3227, 0.2864), (1.7184, 0.3389), None),
        ("fev-ett-1d", 280, (1.4915, 0.3567), (1.4615, 0.3361), 1.3728),
        ("fev-ett-1w", 70, (2.6201, 0.3963), (2.6201, 0.3963), 2.5093),
    ],
)
def test_naive_methods_have_their_published_rows_of_fev_bench(data_folder, name, n, seasonal, last, sql):
    benchmark = loaded(name, data_folder)
    for seasonality, published in ((benchmark.seasonality, seasonal), (1, last)):
        found = naive(benchmark, seasonality)
        assert found.n == n
        assert (round(found.metrics["mase"], 4), round(found.metrics["wape"], 4)) == published
    if sql is not None:  # the published intervals are StatsForecast's, whose sigma has another divisor
        assert naive(benchmark, benchmark.seasonality).metrics["sql"] == pytest.approx(sql, rel=2e-4)


def test_naive_methods_have_their_published_rows_of_m4(data_folder):
    benchmark = loaded("monash-m4-hourly", data_folder)
    for seasonality, mase, smape in ((24, 1.193, 13.912), (1, 11.608, 43.003)):
        found = naive(benchmark, seasonality).metrics
        assert round(found["mase"], 3) == mase and round(100 * found["smape"], 3) == smape


LTSF = [
    ("etth1", 24, {96: (0.5122, 0.4333), 192: (0.5808, 0.4692), 336: (0.6499, 0.5008), 720: (0.6554, 0.5141)}),
    ("etth2", 24, {96: (0.3905, 0.3802), 192: (0.4819, 0.4285), 336: (0.5324, 0.4656), 720: (0.5255, 0.4739)}),
    ("exchange_rate", 1, {96: (0.0811, 0.1964), 192: (0.1671, 0.2887), 336: (0.3057, 0.3978), 720: (0.8101, 0.6764)}),
]


@pytest.mark.parametrize(("dataset", "seasonality", "expected"), LTSF)
def test_naive_methods_on_every_window_of_the_long_horizons(data_folder, dataset, seasonality, expected):
    spec = find_dataset(dataset)
    values = table_values(spec, data_folder)
    borders = spec.borders or Borders.from_ratio(len(values))
    for horizon, (mse, mae) in expected.items():
        lengths = {"context_length": 24, "prediction_length": horizon}
        found = evaluate_ltsf(
            SeasonalNaive(seasonality=seasonality, **lengths),
            split_windows(values, borders, "test", **lengths),
            batch_size=512,
        )
        assert (round(found.metrics["mse"], 4), round(found.metrics["mae"], 4)) == (mse, mae)
        assert found.n == borders.test - horizon + 1


@pytest.mark.parametrize("name", [spec.name for spec in find_benchmarks("monash")])
def test_every_collection_has_one_window_of_its_horizon(data_folder, name):
    (spec,) = find_benchmarks(name)
    benchmark = loaded(name, data_folder)
    counts = {"monash-m3-yearly": 645, "monash-m3-quarterly": 756, "monash-m3-monthly": 1428, "monash-m3-other": 174}
    counts |= {"monash-m4-hourly": 414, "monash-tourism-yearly": 518, "monash-tourism-monthly": 366}
    assert len(benchmark.windows) == 1 and len(benchmark.windows[0]) == (counts | {"monash-nn5-daily": 111})[name]
    assert {len(future) for _, future in benchmark.windows[0]} == {spec.horizon}
    assert sum(len(past) >= spec.linear_context + 2 * spec.horizon for past, _ in benchmark.windows[0]) > 100


def test_a_checkpoint_by_name_beside_its_baselines_and_files(tmp_path, data_folder):
    folder = make_forecaster(tmp_path / "toy")
    (row,) = evaluate(folder, benchmark="fev-ett-1w", data_dir=data_folder, seed=0, out=tmp_path / "out")
    assert (
        row.dataset == "fev-ett-1w"
        and row.n == 70
        and list(row.baselines) == ["last_value", "seasonal_naive", "linear"]
    )
    assert row.settings["trained_on_this_dataset"] is True and row.settings["testdata_leakage"] is True
    assert round(row.baselines["seasonal_naive"]["mase"], 4) == 2.6201
    assert (tmp_path / "out" / "fev" / f"{row.model}.csv").is_file()
    (long,) = evaluate(folder, benchmark="ltsf-etth1-96", data_dir=data_folder)
    (same,) = evaluate(folder, "etth1", data_dir=data_folder, horizon=96)
    assert long.metrics == same.metrics and long.dataset == "etth1" and long.n == 2785
    assert long.settings["testdata_leakage"] is False and long.settings["benchmark"] == "ltsf-etth1-96"


def test_a_model_without_parameters_has_seen_nothing_and_needs_no_weights(data_folder):
    (row,) = evaluate("seasonal_naive_1_104_13", benchmark="fev-ett-1w", data_dir=data_folder)
    assert row.settings["trained_on_this_dataset"] is False
    assert {name: round(row.metrics[name], 4) for name in ("mase", "wape")} == {"mase": 2.6201, "wape": 0.3963}


def test_refusals(tmp_path):
    folder = make_forecaster(tmp_path / "toy")
    for wrong in (
        {},
        {"dataset": "etth1", "benchmark": "fev-ett"},
        {"benchmark": "fev-ett", "split": "validation"},
        {"benchmark": "fev-ett", "horizon": 24},
        {"benchmark": "fev-ett", "batch_size": 0},
        {"benchmark": "nothing"},
    ):
        with pytest.raises(ConfigError):
            evaluate(folder, **wrong)
    with pytest.raises(ConfigError, match="does not forecast"):
        evaluate(make_classifier(tmp_path / "images"), benchmark="fev-ett")
    with pytest.raises(UnknownTagError, match="no weights"):
        evaluate("patch_s4d_nano_512_96.nothing", benchmark="fev-ett")
