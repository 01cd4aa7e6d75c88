"""The zoo on many benchmarks: what fits is measured once, a killed run goes on, and the cards are compared with."""

import json
import os
from pathlib import Path

import pytest

from madzoo.errors import ConfigError
from madzoo.evaluation.result_files import read_results
from madzoo.workflows import evaluate_all, evaluate_pair
from madzoo.workflows.card_rows import card_rows
from madzoo.workflows.compare_cards import card_report, compare_with_cards
from madzoo.workflows.evaluate_plan import Pair, plan_pairs
from tests.forks import FORKS
from tests.workflows.tiny_series import add_collections

NANO, FASHION = "patch_s4d_nano_512_96.etth1", "weft_micro_patch4_28.fashion_mnist"


@pytest.fixture(scope="module")
def folder(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up data with two small collections of series beside them."""
    return add_collections(data_folder, tmp_path_factory.mktemp("more"))


def sweep(benchmark: str, out: Path, folder: Path, pattern: str = NANO, **options):
    return evaluate_all.evaluate_all(benchmark, out=out, pattern=pattern, data_dir=folder, **options)


def without_time(path: Path) -> list[dict]:
    kept = json.loads((path / "results.json").read_text())
    return [{key: value for key, value in row.items() if key not in ("seconds", "threads")} for row in kept]


def test_the_plan_says_why_a_pair_is_left_out() -> None:
    pairs, skipped = plan_pairs("cifar10,monash-m3-other", pattern="*cifar10")
    names = ["weft_micro_patch4_32.cifar10", "weft_micro_patch8_32.cifar10"]
    assert pairs == [Pair(model=name, benchmark="cifar10") for name in names]
    assert [one.pair.benchmark for one in skipped] == ["monash-m3-other"] * 2
    assert all("does not forecast" in one.why for one in skipped)
    _, skipped = plan_pairs("fashion_mnist,imagenette_128", pattern="weft_micro_patch4_32*")
    assert [one.why for one in skipped] == [
        f"the model is not for {name}: its images do not fit." for name in ("fashion_mnist", "imagenette_128")
    ]
    assert plan_pairs("fev-ett", pattern=NANO)[0] == [
        Pair(model=NANO, benchmark=f"fev-ett-{task}") for task in ("1h", "1d", "1w")
    ]
    for benchmark, pattern in (("cifar11", "*"), ("cifar10", "nothing*"), ("", "*")):
        with pytest.raises(ConfigError):
            plan_pairs(benchmark, pattern=pattern)


def test_card_stands_for_what_the_cards_report_the_quickest_first() -> None:
    pairs, skipped = plan_pairs("card", pattern="season_s4d*")
    mine = [pair.benchmark for pair in pairs if pair.model.endswith("zeroshot")]
    assert len(mine) == 15 and mine[-1] == "ltsf-etth1-720" and not skipped
    both, _ = plan_pairs("card,fev-ett-1h", pattern="season_s4d*")
    assert both == pairs  # reported already


def test_pairs_are_measured_once_and_merged(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep("monash-m3-other,fashion_mnist", tmp_path, folder)
    assert (first.count("measured"), len(first.skipped), first.failed) == (1, 1, ())
    (row,) = first.rows
    assert (row.model, row.benchmark, row.n, row.seed) == (NANO, "monash-m3-other", 7, 0)
    assert row.trained_on_this_dataset is False and row.testdata_leakage is False
    assert row.threads == 1 and row.weights_commit is None and row.weights_sha256 and row.data_fingerprint
    assert set(row.baselines) == {"last_value", "seasonal_naive", "linear"} and row.configurations_tested is None
    assert read_results(tmp_path) == list(first.rows)
    assert f"| monash-m3-other | 7 | `{NANO}` |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "gift_eval" / NANO / "all_results.csv").is_file()
    # A second sweep into the same folder keeps the pair, fits no baseline, and adds to the tables.
    images = sweep("fashion_mnist", tmp_path, folder, FASHION)
    assert [one.benchmark for one in images.rows] == ["fashion_mnist", "monash-m3-other"]
    (picture, _) = images.rows
    assert picture.n == 70 and picture.trained_on_this_dataset is True and picture.testdata_leakage is False
    assert picture.configurations_tested == 1  # which the card says of these weights and this split
    monkeypatch.setattr(evaluate_pair, "measure", None)
    again = sweep("monash-m3-other,fashion_mnist", tmp_path, folder)
    assert again.count("kept") == 1 and again.rows == images.rows
    monkeypatch.undo()
    monkeypatch.setattr(evaluate_pair, "baselines_of", None)  # of the same benchmark they are kept
    other = sweep("monash-m3-other", tmp_path, folder, "patch_s4d_nano_512_96.etth2")
    assert other.count("measured") == 1 and other.rows[1].baselines == row.baselines


@pytest.mark.parametrize("changed", ["weights_sha256", "data_fingerprint", "settings", "damaged"])
def test_what_has_changed_is_measured_again(tmp_path: Path, folder: Path, changed: str) -> None:
    sweep("monash-m3-yearly", tmp_path, folder)
    (file,) = (tmp_path / "pairs").iterdir()
    values, before = json.loads(file.read_text()), without_time(tmp_path)
    if changed == "damaged":
        file.write_text(file.read_text()[:99])
    else:
        values["key"][changed] = {"seasonality": 7} if changed == "settings" else "0" * 64
        values["rows"][0]["n"] = 5
        file.write_text(json.dumps(values))
    assert sweep("monash-m3-yearly", tmp_path, folder).count("measured") == 1
    assert without_time(tmp_path) == before
    assert sweep("monash-m3-yearly", tmp_path, folder).count("kept") == 1


def test_data_that_are_not_there_stop_nothing_else(tmp_path: Path, folder: Path) -> None:
    found = sweep("monash-nn5-daily,monash-m3-other", tmp_path, folder)
    (failed,) = found.failed
    assert failed.pair.benchmark == "monash-nn5-daily" and "lacks nn5_daily" in str(failed.why)
    assert found.count("measured") == 1 and len(found.rows) == 1


def killed(out: Path, folder: Path) -> None:
    write, done = evaluate_all.write_pair, []

    def write_and_die(*args):
        write(*args)
        done.append(args)
        if len(done) == 2:
            os.kill(os.getpid(), 9)

    evaluate_all.write_pair = write_and_die
    sweep("monash-m3", out, folder, pattern="patch_s4d_nano_512_96.etth?")


def test_a_killed_sweep_goes_on(tmp_path: Path, folder: Path) -> None:
    process = FORKS.Process(target=killed, args=(tmp_path / "out", folder))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -9 and len(list((tmp_path / "out" / "pairs").glob("*.json"))) == 2
    found = sweep("monash-m3-yearly,monash-m3-other", tmp_path / "out", folder, "patch_s4d_nano_512_96.etth?")
    assert (found.count("kept"), found.count("measured")) == (2, 2)
    sweep("monash-m3-yearly,monash-m3-other", tmp_path / "whole", folder, "patch_s4d_nano_512_96.etth?")
    assert without_time(tmp_path / "out") == without_time(tmp_path / "whole")


def test_the_cards_are_compared_with_to_a_tolerance(tmp_path: Path, folder: Path) -> None:
    rows = {name: card_rows(name) for name in (NANO, FASHION)}
    measured = [row.__class__.from_dict(row.to_dict()) for of_model in rows.values() for row in of_model.values()]
    same = [one for name in rows for one in compare_with_cards(measured, pattern=name)]
    assert len(same) == 2 + 3 * 2 + 4 and all(one.agrees and one.difference == 0 for one in same)
    top1, mse = measured[1].metrics["top1"], measured[0].metrics["mse"]
    measured[1].metrics["top1"], measured[0].metrics["mse"] = top1 + 0.9e-4, mse * (1 - 0.9e-4)
    assert all(one.agrees for name in rows for one in compare_with_cards(measured, pattern=name))
    measured[1].metrics["top1"], measured[0].metrics["mse"] = top1 + 1.1e-4, mse * (1 - 1.1e-4)
    numbers = [one for name in rows for one in compare_with_cards(measured, pattern=name)]
    wrong = [(one.model, one.scored, one.metric) for one in numbers if not one.agrees]
    assert wrong == [(NANO, "model", "mse"), (FASHION, "model", "top1")]
    assert "12 numbers of the cards: 2 differ, 0 were not measured." in card_report(numbers)
    # Other data of the same name, or nothing at all, is no agreement.
    found = sweep("card", tmp_path, folder, FASHION)
    assert {one.measured for one in compare_with_cards(found.rows, pattern=FASHION)} == {None}
    assert "4 were not measured" in card_report(compare_with_cards([], pattern=FASHION))
