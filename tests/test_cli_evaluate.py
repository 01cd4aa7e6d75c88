"""``madzoo evaluate`` on the command line: one model, several benchmarks, the whole zoo, and what it refuses."""

import json
from functools import partial
from pathlib import Path

import pytest

from madzoo.evaluation.result_files import read_results
from madzoo.workflows.card_rows import card_rows
from tests.workflows.tiny_data import make_classifier, make_data, make_forecaster
from tests.workflows.tiny_series import add_collections

NANO = "patch_s4d_nano_512_96.etth1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("all")
    return add_collections(make_data(tmp_path_factory.mktemp("data")), root)


@pytest.fixture
def run(run):
    """Runs ``madzoo evaluate ...``; returns (exit code, stdout, stderr)."""
    return partial(run, "evaluate")


def test_a_model_on_several_benchmarks(run, data: Path, tmp_path: Path) -> None:
    folder = make_forecaster(tmp_path / "toy")
    words = ("--benchmark", "monash-m3-other,monash-m3-yearly", "--data-dir", data, "--out", tmp_path / "out")
    code, out, _ = run(f"local-dir:{folder}", *words)
    assert code == 0 and out.count("linear: mase") == 2
    assert [row.benchmark for row in read_results(tmp_path / "out")] == ["monash-m3-other", "monash-m3-yearly"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.json", "results.csv", "results.parquet", "results.md", "gift_eval"),
    }


def test_images_are_a_benchmark_too(run, data: Path, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "toy")
    name = f"local-dir:{folder}"
    assert run(name, "--benchmark", "fashion_mnist", "--data-dir", data, "--out", tmp_path / "a")[0] == 0
    assert run(name, "fashion_mnist", "--data-dir", data, "--out", tmp_path / "b")[0] == 0
    (registered,), (plain,) = (read_results(tmp_path / part) for part in "ab")
    assert registered.metrics == plain.metrics and registered.benchmark == plain.benchmark == "fashion_mnist"
    for row in (registered, plain):
        assert row.trained_on_this_dataset is True and row.testdata_leakage is False and row.n == 70
    _, _, err = run(name, "--benchmark", "fashion_mnist,cifar10", "--data-dir", data)
    assert "not for cifar10" in err and err.count("\n") == 1


def test_rows_a_model_was_trained_or_chosen_on_are_marked(run, data: Path, tmp_path: Path) -> None:
    name = f"local-dir:{make_classifier(tmp_path / 'toy')}"
    run(name, "fashion_mnist", "--split", "validation", "--data-dir", data, "--out", tmp_path / "out")
    (row,) = read_results(tmp_path / "out")
    assert row.split == "validation" and row.testdata_leakage is True


def test_the_zoo(run, data: Path, tmp_path: Path) -> None:
    words = ("--all", "--benchmark", "monash-m3-other,cifar10", "--pattern", NANO, "--data-dir", data)
    code, out, err = run(*words, "--out", tmp_path)
    assert code == 0 and f"[1/1] {NANO} on monash-m3-other: measured, mase" in err
    assert f"skipped {NANO} on cifar10: the model does not classify images." in out
    assert "1 measured, 0 kept, 0 failed, 1 skipped; 1 rows in" in out and "**Competition sets**" in out
    assert "kept, mase" in run(*words, "--out", tmp_path)[2]
    code, out, _ = run(*words[:2], "monash-nn5-daily", *words[3:], "--out", tmp_path)
    assert code == 1 and "lacks nn5_daily" in out


def test_the_zoo_against_its_cards(run, data: Path, tmp_path: Path) -> None:
    words = ("--all", "--benchmark", "fashion_mnist", "--pattern", "*28.fashion*", "--data-dir", data, "--check")
    code, out, _ = run(*words, "--out", tmp_path)  # 70 made-up pictures are not what the card is about
    assert code == 1 and "4 numbers of the cards: 0 differ, 4 were not measured." in out
    (file,) = (tmp_path / "pairs").iterdir()
    values = json.loads(file.read_text())
    card = card_rows(values["rows"][0]["model"])["fashion_mnist"]
    values["rows"][0] |= {"metrics": card.metrics, "n": card.n}
    file.write_text(json.dumps(values))
    code, out, _ = run(*words, "--out", tmp_path)
    assert code == 0 and "4 numbers of the cards: 0 differ, 0 were not measured." in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no model to measure"),
        (("a", "b", "--pattern", "x*"), "--pattern"),
        (("a", "--check"), "--check"),
        (("a", "--ray"), "--ray"),
        (("--all", "--benchmark", "cifar10"), "--benchmark and --out"),
        (("--all", "--out", "x"), "--benchmark and --out"),
        (("a", "--all", "--benchmark", "cifar10", "--out", "x"), "NAME"),
        (("--all", "--benchmark", "cifar10", "--out", "x", "--seed", "0", "--split", "train"), "--seed, --split"),
        (("--all", "--benchmark", "cifar10", "--out", "x", "--workers", "2"), "--ray"),
        (("--all", "--benchmark", "cifar11", "--out", "x"), "cifar10"),
        (("--all", "--benchmark", "cifar10", "--out", "x", "--pattern", "none*"), "no bundled model"),
    ],
)
def test_refusals(run, words, said: str) -> None:
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err
