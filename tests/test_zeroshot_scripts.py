"""What the zero-shot forecaster is trained and validated on: recordings out of a wheel, parts before what is tested."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from fetch_citylearn import hourly_series
from validate_zeroshot import cut_before, validate

from madzoo.evaluation.series import SeriesBenchmark
from madzoo.factory import create_model


def test_recordings_are_taken_once_whole_and_alive(tmp_path):
    hours = np.arange(2500)
    load = 1 + np.sin(hours / 4)
    columns = {
        "Load [kWh]": load,
        "Hour": hours % 24 + 0.5 * np.sin(hours),
        "Load 6h Prediction": load,
        "Broken": np.where(hours == 7, np.nan, load),
        "Idle": (hours > 2400) * load,
    }
    text = (
        ",".join(columns)
        + "\n"
        + "\n".join(",".join(map(repr, row)) for row in np.stack(list(columns.values()), axis=1).tolist())
    )
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("citylearn/data/one/Building_1.csv", text)
        wheel.writestr("citylearn/data/two/Building_1.csv", text)
        wheel.writestr("citylearn/data/two/short.csv", "x\n" + "\n".join(map(str, range(1999))))
        wheel.writestr("citylearn/readme.txt", "no table")
    found = list(hourly_series(tmp_path / "a.whl"))
    assert [name for name, _ in found] == ["one/Building_1/Load [kWh]"]
    np.testing.assert_array_equal(found[0][1], load)


def benchmark(name, items, horizon=4):
    windows = [[(item[:-horizon], item[-horizon:]) for item in items]]
    return SeriesBenchmark(name=name, dataset="x", windows=windows, seasonality=2)


def test_what_is_tested_is_cut_off():
    table = torch.arange(20000.0, dtype=torch.float64)[:, None].repeat(1, 2)
    hourly = cut_before(benchmark("fev-ett-1h", [table, table], horizon=168))
    assert len(hourly.windows) == 20 and hourly.windows[-1][0][1].max() == 11519
    short, long = torch.arange(9.0)[:, None], torch.arange(30.0)[:, None]
    competition = cut_before(benchmark("monash-m3-other", [short, long]))
    (window,) = competition.windows
    assert len(window) == 1  # five steps are too few to hold out four
    assert window[0][1][:, 0].tolist() == [22, 23, 24, 25] and window[0][0].max() == 21
    assert cut_before(benchmark("fev-ett-1w", [table])) is None


def test_scores_beside_the_last_season():
    torch.manual_seed(0)
    items = [torch.randn(60, 1, dtype=torch.float64).cumsum(0) for _ in range(3)]
    part = cut_before(benchmark("monash-m3-other", items))
    naive = validate(create_model("seasonal_naive_24_512_96", seasonality=2), part)
    assert naive["ratio"] == pytest.approx(1) and naive["sql"] == pytest.approx(naive["naive_sql"])
    assert naive["n"] == 3
