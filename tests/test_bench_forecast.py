"""The benchmark of forecasts: who takes part answers in full, what does not is never timed, and the tables say it."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import bench_forecast
from bench_forecast import HORIZON, LEVELS, SERIES, Contestant, bulk, bulk_apart, bulk_table, latency, ours


def test_one_model_is_timed_with_its_own_levels_and_with_nine():
    name = bench_forecast.TINY[0]
    found = {"one": ours(name), "nine": ours(name, LEVELS)}
    assert (found["one"].levels, found["nine"].levels) == (1, 9)
    shown = latency(found, rounds=2)
    assert "n = 2" in shown and "| one | 1 | 237,360 | " in shown and "| nine | 9 | 1,380,912 | " in shown


def test_the_floor_repeats_the_last_season():
    answer = ours(bench_forecast.NAIVE, LEVELS).call()
    past = bench_forecast.drawn(SERIES)[..., 0].numpy()
    np.testing.assert_allclose(answer[:, :24, 4], past[:, -24:], rtol=1e-5)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (np.zeros((SERIES, HORIZON - 1, 9)), "gives"),
        (np.full((SERIES, HORIZON, 9), np.nan), "no numbers"),
        (np.zeros((SERIES, HORIZON, 9)) - np.arange(9), "cross"),
    ],
    ids=["short", "missing", "crossing"],
)
def test_what_is_no_forecast_is_not_timed(answer, word):
    with pytest.raises(SystemExit, match=f"wrong gives.*{word}|wrong {word}"):
        latency({"wrong": Contestant(9, None, lambda: answer)}, rounds=1)


def test_many_series_report_their_progress_and_their_memory():
    found = bulk(1030)
    assert found["reports"] == 3 and found["answers"] == pytest.approx(1030 * HORIZON * 10 * 4 / 2**20)
    assert found["peak"] is None or found["peak"] > found["answers"]
    shown = bulk_table(1030, {**found, "seconds": 2.0, "peak": 50.4})
    assert "| 1,030 | 2.00 | 515 | 3 | 50 | 4 |" in shown


def test_a_large_call_has_a_process_of_its_own():
    assert bulk_apart(2, threads=1)["reports"] == 1


def test_the_page_has_the_markers():
    page = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
    assert page.index("<!-- bench_forecast:begin -->") < page.index("<!-- bench_forecast:end -->")
