"""Rows in the formats of fev and GIFT-Eval: their columns, their values, and the flags."""

import csv
import dataclasses
import json

import pytest

from madzoo.errors import ConfigError
from madzoo.evaluation import ResultRow
from madzoo.evaluation.leaderboards import (
    FEV_COLUMNS,
    GIFT_COLUMNS,
    fev_row,
    gift_config,
    gift_row,
    results_table,
    write_leaderboards,
)

# The first lines of results/seasonal_naive.csv (fev @ 1bc95fd) and of all_results.csv (gift-eval @ 4fd98a9).
FEV_HEADER = (
    "model_name,model_class,dataset_path,dataset_config,horizon,num_windows,initial_cutoff,window_step_size,"
    "min_context_length,max_context_length,seasonality,eval_metric,extra_metrics,quantile_levels,id_column,"
    "timestamp_column,target,generate_univariate_targets_from,known_dynamic_columns,past_dynamic_columns,"
    "static_columns,task_name,test_error,training_time_s,inference_time_s,num_forecasts,dataset_fingerprint,"
    "trained_on_this_dataset,fev_version,SQL,MASE,WAPE,WQL,framework_version,model_kwargs,fev_commit"
)
FEV_TASK = (
    "autogluon/fev_datasets,ETT_1D,28,20,-560,28,1,,7,SQL,"
    "\"['MASE', {'name': 'WAPE', 'epsilon': 1.0}, {'name': 'WQL', 'epsilon': 1.0}]\","
    '"[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]",id,timestamp,'
    "\"['HUFL', 'HULL', 'LUFL', 'LULL', 'MUFL', 'MULL', 'OT']\",,[],[],[],ETT_1D,"
)
GIFT_HEADER = (
    "dataset,model,eval_metrics/MSE[mean],eval_metrics/MSE[0.5],eval_metrics/MAE[0.5],eval_metrics/MASE[0.5],"
    "eval_metrics/MAPE[0.5],eval_metrics/sMAPE[0.5],eval_metrics/MSIS,eval_metrics/RMSE[mean],"
    "eval_metrics/NRMSE[mean],eval_metrics/ND[0.5],eval_metrics/mean_weighted_sum_quantile_loss,domain,num_variates"
)


def row(**changes):
    settings = {
        "benchmark": "fev-ett-1d",
        "horizon": 28,
        "num_windows": 20,
        "seasonality": 7,
        "freq": "D",
        "domain": "Energy",
        "targets": ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"],
        "quantile_levels": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        "trained_on_this_dataset": False,
        "testdata_leakage": False,
    }
    made = ResultRow(
        model="a/model.tag",
        dataset="fev-ett-1d",
        split="test",
        n=280,
        metrics={"sql": 1.25, "mase": 1.5, "wape": 0.25, "wql": 0.125, "coverage_80": 0.75},
        baselines={"linear": {"sql": 2.0, "mase": 2.0}},
        settings=settings,
        details={"MSE[mean]": 4.0, "MASE[0.5]": 1.5, "mean_weighted_sum_quantile_loss": 0.5},
        seconds=3.5,
    )
    return dataclasses.replace(made, **changes)


def test_fev_columns_and_task_are_those_of_its_files(tmp_path):
    write_leaderboards([row()], tmp_path)
    header, line = (tmp_path / "fev" / "a_model.tag.csv").read_text().splitlines()
    assert header == FEV_HEADER and FEV_TASK in line
    (values,) = csv.DictReader([header, line])
    expected = {"model_name": "a/model.tag", "test_error": "1.25", "SQL": "1.25", "MASE": "1.5", "WAPE": "0.25"}
    expected |= {"WQL": "0.125", "num_forecasts": "280", "inference_time_s": "3.5", "trained_on_this_dataset": "False"}
    assert {name: values[name] for name in expected} == expected
    assert tuple(fev_row(row())) == FEV_COLUMNS


def test_gift_eval_columns_are_those_of_its_files(tmp_path):
    rows = [row(), row(dataset="monash-nn5-daily", metrics={"mase": 1.0, "smape": 0.5, "sql": 1.0})]
    written = write_leaderboards(rows, tmp_path)
    folder = tmp_path / "gift_eval" / "a_model.tag"
    header, first, second = (folder / "all_results.csv").read_text().splitlines()
    assert header == GIFT_HEADER and ",".join(GIFT_COLUMNS) == GIFT_HEADER
    assert first == "fev-ett-1d/D/short,a/model.tag,4.0,,,1.5,,,,,,,0.5,Energy,7"
    assert second.startswith("monash-nn5-daily/D/short,")
    config = json.loads((folder / "config.json").read_text())
    assert config["testdata_leakage"] == "No" and config["model_type"] == "zero-shot"
    assert set(config) == {
        *("model", "model_type", "model_dtype", "model_link", "code_link", "org"),
        *("testdata_leakage", "replication_code_available"),
    }
    assert len((tmp_path / "fev" / "a_model.tag.csv").read_text().splitlines()) == 2  # fev has no NN5
    assert [ResultRow.from_dict(one) for one in json.loads((tmp_path / "results.json").read_text())] == rows
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize(
    ("flag", "asked", "said"),
    [
        (True, None, "deep-learning"),
        (None, None, "deep-learning"),
        (False, None, "zero-shot"),
        (True, "fine-tuned", "fine-tuned"),
    ],
)
def test_the_type_follows_from_what_was_trained_on(tmp_path, flag, asked, said):
    trained = row(settings=row().settings | {"trained_on_this_dataset": flag})
    write_leaderboards([trained], tmp_path, model_type=asked)
    assert json.loads((tmp_path / "gift_eval" / "a_model.tag" / "config.json").read_text())["model_type"] == said


@pytest.mark.parametrize(("flag", "said"), [(True, "Yes"), (None, "Yes"), (False, "No")])
def test_what_is_unknown_counts_as_seen(flag, said):
    flags = {"trained_on_this_dataset": flag, "testdata_leakage": flag}
    seen = row(settings=row().settings | flags)
    assert gift_config([row(), seen], model_type="pretrained")["testdata_leakage"] == said
    assert fev_row(seen)["trained_on_this_dataset"] is (said == "Yes")


def test_the_table_has_a_line_for_the_model_and_for_each_baseline():
    header, _, model, linear = results_table([row()]).splitlines()
    assert "coverage_80 | trained on it | saw test rows |" in header
    assert model == "| fev-ett-1d | 280 | a/model.tag | 1.2500 | 1.5000 | 0.2500 | 0.1250 | 0.7500 | no | no |"
    assert linear == "| fev-ett-1d | 280 | linear | 2.0000 | 2.0000 |  |  |  |  |  |"


def test_rows_of_other_benchmarks(tmp_path):
    ltsf = row(dataset="etth1", metrics={"mse": 0.4}, details={})
    written = [path.name for path in write_leaderboards([ltsf], tmp_path)]
    assert written == ["results.json", "results.csv", "results.parquet", "results.md"]
    for reader in (fev_row, gift_row):
        with pytest.raises(ConfigError, match=r"the row (is of|holds) no"):
            reader(ltsf)
    with pytest.raises(ConfigError, match="model type of GIFT-Eval"):
        gift_config([row()], model_type="zeroshot")
    with pytest.raises(ConfigError, match="about one model"):
        gift_config([row(), row(model="other")], model_type="zero-shot")
    with pytest.raises(ConfigError, match="link of GIFT-Eval"):
        gift_config([row()], model_type="zero-shot", links={"home": "x"})
