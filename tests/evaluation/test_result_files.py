"""The long table and its three files: every number once, with all its digits and what it is about."""

import csv
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from madzoo.errors import ConfigError
from madzoo.evaluation import ResultRow
from madzoo.evaluation.result_files import COLUMNS, long_table, read_results, write_results
from madzoo.evaluation.summary_table import summary_table

FORECAST = ResultRow(
    model="a.b",
    weights_sha256="ab" * 32,
    weights_commit="c" * 40,
    dataset="etth1",
    split="test",
    n=2785,
    metrics={"mse": 1 / 3, "mae": 0.1 + 0.2},
    intervals={"mse": [0.25, 0.5]},
    baselines={"last_value": {"mse": 1.5, "mae": 0.75}, "linear": {"mse": 0.4, "mae": 0.4}},
    seed=0,
    settings={"benchmark": "ltsf-etth1-96", "trained_on_this_dataset": True, "testdata_leakage": False},
    data_fingerprint="f1",
    versions={"madzoo": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7"},
    configurations_tested=1,
    seconds=7.5,
    threads=2,
)
IMAGES = ResultRow(
    model='odd, "name"',
    dataset="cifar10",
    split="test",
    n=10000,
    metrics={"top1": 0.891, "nll": 0.5},
    intervals={"top1": [0.88, 0.9]},
    seconds=1.0,
)


def test_one_line_per_number() -> None:
    table = long_table([FORECAST, IMAGES])
    assert list(table.columns) == list(COLUMNS)
    named = [tuple(line) for line in table[["model", "benchmark", "scored", "metric", "value"]].values]
    assert named == [
        ("a.b", "ltsf-etth1-96", "model", "mse", 1 / 3),
        ("a.b", "ltsf-etth1-96", "model", "mae", 0.1 + 0.2),
        ("a.b", "ltsf-etth1-96", "last_value", "mse", 1.5),
        ("a.b", "ltsf-etth1-96", "last_value", "mae", 0.75),
        ("a.b", "ltsf-etth1-96", "linear", "mse", 0.4),
        ("a.b", "ltsf-etth1-96", "linear", "mae", 0.4),
        ('odd, "name"', "cifar10", "model", "top1", 0.891),
        ('odd, "name"', "cifar10", "model", "nll", 0.5),
    ]
    first, baseline = table.iloc[0], table.iloc[2]
    assert (first.low, first.high, first.seed, first.threads, first.seconds) == (0.25, 0.5, 0, 2, 7.5)
    assert first.trained_on_this_dataset is True or bool(first.trained_on_this_dataset)
    assert first.weights_commit == "c" * 40 and first.task == "time-series-forecasting"
    of_model = ["seed", "weights_sha256", "weights_commit", "seconds", "threads", "trained_on_this_dataset"]
    assert baseline[of_model].isna().all() and baseline.data_fingerprint == "f1"
    assert table.iloc[6].task == "image-classification" and pd.isna(table.iloc[6].testdata_leakage)


def test_files_give_back_every_digit(tmp_path) -> None:
    rows = [FORECAST, IMAGES]
    assert [path.name for path in write_results(rows, tmp_path)] == ["results.json", "results.csv", "results.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json", "results.parquet"]
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == rows
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(COLUMNS) and len(lines) == 8
    assert [float(line["value"]) for line in lines[:2]] == [1 / 3, 0.1 + 0.2]
    assert lines[6]["model"] == 'odd, "name"' and lines[6]["trained_on_this_dataset"] == ""
    assert json.loads(lines[0]["settings"]) == FORECAST.settings
    read = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(read, long_table(rows))
    assert read["seed"].dtype == "Int64" and read["testdata_leakage"].dtype == "boolean"


def test_no_row_is_a_table_too(tmp_path) -> None:
    write_results([], tmp_path)
    assert read_results(tmp_path) == [] and len(pd.read_parquet(tmp_path / "results.parquet")) == 0


def test_a_number_that_json_cannot_say_leaves_the_old_files(tmp_path) -> None:
    write_results([FORECAST], tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        write_results([dataclasses.replace(IMAGES, metrics={"top1": float(np.nan)})], tmp_path)
    assert read_results(tmp_path) == [FORECAST]


def test_what_is_no_list_of_rows_is_refused(tmp_path) -> None:
    for text in ("{", '{"rows": []}', "[1]"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ConfigError):
            read_results(tmp_path)
    with pytest.raises(ConfigError):
        read_results(tmp_path / "nothing")


def test_old_rows_are_read_without_the_new_fields() -> None:
    new = ("threads", "weights_commit")
    old = {name: value for name, value in FORECAST.to_dict().items() if name not in new}
    for settings, split, name in (
        ({"horizon": 96}, "test", "ltsf-etth1-96"),
        ({"horizon": 24}, "test", "etth1"),
        ({"horizon": 96}, "validation", "etth1"),
    ):
        row = ResultRow.from_dict(old | {"settings": settings, "split": split})
        assert (row.threads, row.weights_commit, row.trained_on_this_dataset, row.testdata_leakage) == (None,) * 4
        assert row.benchmark == name
    assert (FORECAST.benchmark, IMAGES.benchmark) == ("ltsf-etth1-96", "cifar10")


def test_the_summary_sets_the_best_first_and_baselines_beside() -> None:
    worse = dataclasses.replace(FORECAST, model="worse", metrics={"mse": 0.5, "mae": 0.5})
    leaked = dataclasses.replace(FORECAST, model="leaked", settings=FORECAST.settings | {"testdata_leakage": True})
    text = summary_table([worse, IMAGES, FORECAST, dataclasses.replace(leaked, metrics={"mse": 0.4, "mae": 0.4})])
    lines = [line for line in text.splitlines() if line.startswith("| ltsf")]
    assert lines == [
        "| ltsf-etth1-96 | 2,785 | `a.b` | 0.3333 / 0.3000 | 1.5000 / 0.7500 |  | 0.4000 / 0.4000 | train |",
        "| ltsf-etth1-96 | 2,785 | `worse` | 0.5000 / 0.5000 | 1.5000 / 0.7500 |  | 0.4000 / 0.4000 | train |",
        "| ltsf-etth1-96 | 2,785 | `leaked` | 0.4000 / 0.4000 | 1.5000 / 0.7500 |  | 0.4000 / 0.4000 | test |",
    ]
    assert '| cifar10 | 10,000 | `odd, "name"` | 89.10 % | 0.5000 |  | 88.00 % to 90.00 % | ? |' in text
    assert text.index("**Images**") < text.index("**Long horizons") and "fev" not in text
    assert summary_table([]) == ""
