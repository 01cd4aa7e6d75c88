"""The leaderboard's files: which lines stand where, with which numbers, from which inputs; and what is refused."""

import csv
import importlib
import io
import json
import shutil
import sys

import pytest

from madzoo.checkpoint.folder import find_bundled
from madzoo.errors import BackendError, ConfigError, DataError
from madzoo.workflows.bench import Bench, BenchResult, BenchSetup
from madzoo.workflows.leaderboard import leaderboard
from madzoo.workflows.leaderboard_board import build_board
from madzoo.workflows.leaderboard_facts import facts_of, parameters_of
from madzoo.workflows.leaderboard_files import board_csv
from madzoo.workflows.leaderboard_rows import read_card, read_results
from tests.workflows.board_rows import HOSTILE, image_row, series_row, write_results

PACKED = "weft_micro_patch8_32.cifar10-int4"
FLOAT = "weft_micro_patch8_32.cifar10"


def parse(text, **wanted):
    lines = csv.DictReader(io.StringIO(text))
    return [line for line in lines if all(line[key] == value for key, value in wanted.items())]


def lines_of(site, **wanted):
    return parse((site / "leaderboard.csv").read_text(), **wanted)


def names_of(lines):
    return [(line["rank"], line["kind"], line["name"]) for line in lines]


@pytest.fixture
def board(tmp_path):
    """Makes the CSV of rows alone, as a function of what is wanted of it."""

    def board(*rows):
        sources = read_results(write_results(tmp_path / "results", list(rows)))
        text = board_csv(build_board(sources, latencies={}))
        return lambda **wanted: parse(text, **wanted)

    return board


def test_the_best_stands_first_and_baselines_among_the_models(board):
    found = board(series_row("worse", 1.5), series_row("better", 0.5))(benchmark="toys-24")
    assert names_of(found) == [
        ("1", "model", "better"),
        ("", "baseline", "linear"),
        ("2", "model", "worse"),
        ("", "baseline", "seasonal naive"),
    ]
    assert [line["relative_to_seasonal_naive"] for line in found] == ["0.25", "0.5", "0.75", "1.0"]
    assert [line["value"] for line in found] == ["0.5", "1.0", "1.5", "2.0"]


def test_images_are_ranked_from_the_top(board):
    found = board(image_row("worse", 0.5), image_row("better", 0.75))(task="image-classification")
    assert names_of(found) == [("1", "model", "better"), ("2", "model", "worse")]
    assert (found[0]["low"], found[0]["high"]) == ("0.65", "0.85")
    assert found[0]["relative_to_seasonal_naive"] == ""


def test_a_baseline_fitted_on_two_contexts_is_two_lines(board):
    other = series_row("b", 0.7, settings={"horizon": 24, "context_length": 48}, baselines={"linear": {"mse": 1.25}})
    found = board(series_row("a", 0.5), other)(kind="baseline")
    names = {line["name"]: line["value"] for line in found}
    assert names == {"linear, context 96": "1.0", "linear, context 48": "1.25", "seasonal naive": "2.0"}


def test_other_samples_are_another_benchmark(board):
    found = board(series_row("a", 0.5), series_row("a", 0.4, n=11), series_row("a", 0.3, data_fingerprint="f" * 64))
    assert {(line["benchmark"], line["n"]) for line in found(kind="model")} == {
        ("toys-24", "10"),
        ("toys-24, n=11", "11"),
        ("toys-24, n=10", "10"),
    }


def test_a_later_row_takes_the_place_of_an_earlier_one_and_keeps_what_it_does_not_know(board):
    old = image_row("m", 0.5, weights_sha256="a" * 64, seed=3, configurations_tested=2)
    (found,) = board(old, image_row("m", 0.625, weights_sha256="a" * 64))()
    assert (found["value"], found["seed"], found["configurations_tested"]) == ("0.625", "3", "2")


def test_a_leak_is_flagged_and_an_unknown_one_is_not_denied(board):
    known = {"horizon": 24, "trained_on_this_dataset": True, "testdata_leakage": True}
    found = board(series_row("leaky", 0.1, settings=known), series_row("unknown", 0.2, settings={"horizon": 24}))
    flags = {line["name"]: line["testdata_leakage"] for line in found(kind="model")}
    assert flags == {"leaky": "true", "unknown": ""}
    assert names_of(found(kind="model")) == [("", "model", "leaky"), ("1", "model", "unknown")]


def test_bundled_cards_have_their_seeds_ablations_and_costs(tmp_path):
    found = leaderboard(out=tmp_path)
    assert found.lines == len(lines_of(tmp_path))
    (line,) = lines_of(tmp_path, name="patch_s4d_nano_512_96.etth1")
    assert (line["benchmark"], line["seeds"], line["trained_on_this_dataset"]) == ("ltsf-etth1-96", "3", "true")
    assert 0 < float(line["sd_of_seeds"]) < 1e-3
    (line,) = lines_of(tmp_path, name=FLOAT)
    assert (line["num_params"], line["local_dimension"], line["local_dimension_is"]) == (
        "1056170",
        "120",
        "a lower bound",
    )
    assert float(line["int4_cost"]) == pytest.approx(5.3) and line["cost_unit"] == "points"
    (packed,) = lines_of(tmp_path, name=PACKED)
    assert packed["packed_bits"] == "4" and int(packed["size_bytes"]) < int(line["size_bytes"]) / 6
    ablations = lines_of(tmp_path, kind="ablation")
    assert "same recipe, scan removed" in {line["name"] for line in ablations}
    assert not [line for line in ablations if line["name"].startswith("float weights")]  # a model's own line
    values = json.loads((tmp_path / "leaderboard.json").read_text())
    assert sum(len(one["lines"]) for one in values["benchmarks"]) == found.lines
    assert (tmp_path / "models" / FLOAT / "geometry.png").is_file()


def test_costs_are_read_of_the_folders_own_weights_only(tmp_path):
    folder = shutil.copytree(find_bundled(FLOAT), tmp_path / FLOAT)
    report = json.loads((folder / "quantization.json").read_text())
    assert facts_of(read_card(folder, label="here")).drops[4].points == pytest.approx(5.3)
    (folder / "quantization.json").write_text(json.dumps(report | {"weights_sha256": "0" * 64}))
    assert facts_of(read_card(folder, label="here")).drops == {}


def test_parameters_are_counted_for_registered_names_only():
    assert parameters_of(FLOAT) == 1056170
    assert [parameters_of(name) for name in ("nothing_of_ours", "hf-hub:a/b", "local-dir:/", HOSTILE)] == [None] * 4


def test_the_same_inputs_give_the_same_bytes(tmp_path, monkeypatch):
    results = write_results(tmp_path / "results", [series_row("a", 0.5), image_row("b", 0.5)])
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        leaderboard([results], out="site", bundled=False)
        files = sorted(path for path in (tmp_path / name / "site").rglob("*") if path.is_file())
        contents.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert {"site/index.html", "site/leaderboard.csv", "site/leaderboard.json", "site/models/a.html"} <= set(
        contents[0]
    )


def test_pages_hold_flags_and_escaped_names_and_those_of_models_that_are_gone_are_removed(tmp_path):
    site, results = tmp_path / "site", tmp_path / "results"
    (site / "models" / "gone").mkdir(parents=True)
    for name in ("notes.txt", "models/gone.html", "models/gone/plot.png", "models/notes.txt"):
        (site / name).write_text("x")
    leaky = {"horizon": 24, "testdata_leakage": True}
    rows = [series_row(HOSTILE, 0.5, settings=leaky), series_row('=HYPERLINK("http://x")', 0.6)]
    leaderboard([write_results(results, rows)], out=site, bundled=False)
    assert sorted(path.name for path in site.rglob("*.txt")) == ["notes.txt", "notes.txt"]
    assert not (site / "models" / "gone").exists() and not (site / "models" / "gone.html").exists()
    page = (site / "index.html").read_text()
    assert "⚠ saw the tested data" in page and "training data unknown" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and HOSTILE not in page
    assert {line["name"] for line in lines_of(site, kind="model")} == {HOSTILE, '\'=HYPERLINK("http://x")'}
    pages = list((site / "models").glob("*.html"))
    assert len(pages) == 2 and not [path for path in pages if HOSTILE in path.read_text()]
    assert not [path for path in pages if set(path.name) & set("<>=()/ ")]


def test_latency_is_measured_once_and_then_read(tmp_path, monkeypatch):
    asked = []

    def timed(name, **options):
        asked.append((name, options))
        setup = BenchSetup(model=name)
        shown = {"unit": "images", "milliseconds": 2.5, "fastest": 2.0, "slowest": 3.0, "per_second": 400.0}
        result = BenchResult(setup=setup, input_shape=(1, 3, 32, 32), threads=1, rounds=7, **shown)
        return Bench(results=(result,))

    monkeypatch.setattr("madzoo.workflows.leaderboard_latency.bench", timed)
    folder = find_bundled(FLOAT)
    leaderboard([folder], out=tmp_path, bundled=False, latency=True, rounds=7)
    assert asked == [(f"local-dir:{folder}", {"threads": 1, "rounds": 7, "memory": False})]
    page = (tmp_path / "index.html").read_bytes()
    leaderboard([folder], out=tmp_path, bundled=False)
    assert len(asked) == 1 and (tmp_path / "index.html").read_bytes() == page
    assert lines_of(tmp_path, name=FLOAT)[0]["latency_ms"] == "2.5"
    machine = json.loads((tmp_path / "latency.json").read_text())["models"][0]["machine"]
    assert machine in page.decode() and "median of 7 calls" in page.decode()
    (tmp_path / "latency.json").write_text('{"models": [{"model": "x"}]}')
    with pytest.raises(DataError, match="no record of latencies"):
        leaderboard([folder], out=tmp_path, bundled=False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no readable JSON"),
        ('{"a": 1}', "no list of result rows"),
        ('[{"model": "a"}]', r"row 0, \w+: Field required"),
        ('["a"]', "row 0"),
        (json.dumps([image_row("a", 0.5), image_row("b", 0.5, n="many")]), "row 1, n: "),
        (json.dumps([image_row("a", 0.5, metrics={"top1": float("nan")})]), "row 0, metrics.top1: "),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_file_and_number(tmp_path, text, why):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=why) as refused:
        leaderboard([tmp_path], out=tmp_path / "site", bundled=False)
    assert str(tmp_path / "results.json") in str(refused.value)
    assert not (tmp_path / "site").exists()


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="nothing to show"):
        leaderboard(out=tmp_path, bundled=False)
    with pytest.raises(DataError, match="no results are there"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="rounds"):
        leaderboard(out=tmp_path, rounds=0)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    name = "madzoo.workflows.leaderboard_libraries"
    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendError, match=r'altair(.|\n)*pip install "madzoo\[leaderboard\]"'):
        importlib.import_module(name)
