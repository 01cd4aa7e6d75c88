"""Evaluation by name: the same number for any batch size, every window counted, rows recorded for the card."""

import dataclasses
import json
from pathlib import Path

import pytest

from madzoo.checkpoint.card import check_card, render_card, write_card
from madzoo.checkpoint.folder import read_folder
from madzoo.checkpoint.report_files import read_report
from madzoo.errors import CheckpointError, ConfigError, DataError, UnknownModelError
from madzoo.evaluation import ResultRow
from madzoo.workflows.evaluate import evaluate, record_rows
from tests.workflows.tiny_data import make_classifier, make_forecaster


def rows_of(folder: Path, role: str = "rows") -> list[ResultRow]:
    return [ResultRow.from_dict(row) for row in (read_report(folder, "evaluation.json") or {}).get(role, [])]


def test_a_classifier_is_measured_recorded_and_shown(tmp_path: Path, data_folder: Path) -> None:
    folder = make_classifier(tmp_path / "toy")
    (row,) = evaluate(folder, "fashion_mnist", data_dir=data_folder, seed=0, configurations_tested=1, record_in=folder)
    assert (row.n, row.split, row.model) == (70, "test", "weft_micro_patch4_28.fashion_mnist")
    assert row.weights_sha256 == read_folder(folder).sha256 and row.data_fingerprint
    assert rows_of(folder) == [row]
    write_card(folder)
    check_card(folder)
    text = render_card(folder)
    assert f"{100 * row.metrics['top1']:.2f} %" in text and "Wilson" in text
    assert "madzoo evaluate weft_micro_patch4_28.fashion_mnist fashion_mnist`" in text


def test_the_batch_size_is_no_part_of_the_number(tmp_path: Path, data_folder: Path) -> None:
    images, series = make_classifier(tmp_path / "a"), make_forecaster(tmp_path / "b")
    for folder, dataset, sizes in ((images, "fashion_mnist", (9, 512)), (series, "etth1", (500, 1024))):
        one, many = (evaluate(folder, dataset, data_dir=data_folder, batch_size=size)[0] for size in sizes)
        for name, value in one.metrics.items():
            assert value == pytest.approx(many.metrics[name], rel=1e-6), name


def test_a_forecaster_meets_every_window_beside_its_baselines(tmp_path: Path, data_folder: Path) -> None:
    folder = make_forecaster(tmp_path / "toy")
    (row,) = evaluate(folder, "etth1", data_dir=data_folder, seed=0, record_in=folder)
    assert row.n == 2785 and row.settings["horizon"] == 96 and set(row.metrics) == {"mse", "mae"}
    assert row.baselines["linear"]["mse"] < row.baselines["last_value"]["mse"]
    other = make_forecaster(tmp_path / "other", seed=1)
    siblings = evaluate(other, "etth1", data_dir=data_folder, seed=1)
    record_rows(folder, siblings, role="other_seeds")
    record_rows(folder, siblings, role="ablations", label="same recipe, scan removed")
    record_rows(folder, siblings, role="other_seeds")  # takes the place of the first
    assert len(rows_of(folder, "other_seeds")) == len(rows_of(folder, "ablations")) == 1
    text = render_card(folder)
    for words in ("mean ± sd of 2 seeds", "same recipe, scan removed", "etth1, test, horizon 96, in z-scores"):
        assert words in text
    short = evaluate(folder, "etth1", data_dir=data_folder, horizon=24, record_in=folder)
    assert short[0].n == 2857 and [r.settings["horizon"] for r in rows_of(folder)] == [96, 24]


def test_recording_keeps_what_a_new_row_does_not_know(tmp_path: Path, data_folder: Path) -> None:
    folder = make_classifier(tmp_path / "toy")
    (row,) = evaluate(folder, "fashion_mnist", data_dir=data_folder)
    record_rows(folder, [dataclasses.replace(row, seed=0, configurations_tested=3)])
    record_rows(folder, [row])
    assert [(r.seed, r.configurations_tested) for r in rows_of(folder)] == [(0, 3)]
    other = make_classifier(tmp_path / "other", seed=1)
    foreign = evaluate(other, "fashion_mnist", data_dir=data_folder)
    with pytest.raises(CheckpointError, match="other weights"):
        record_rows(folder, foreign)
    with pytest.raises(ConfigError):
        record_rows(folder, foreign, role="row")
    (other / "evaluation.json").write_bytes((folder / "evaluation.json").read_bytes())
    with pytest.raises(CheckpointError, match="disagree"):
        render_card(other)
    record_rows(other, foreign)  # rows of former weights go
    assert json.loads((other / "evaluation.json").read_text())["weights_sha256"] == foreign[0].weights_sha256
    assert rows_of(other) == foreign


def test_refusals(tmp_path: Path, data_folder: Path) -> None:
    images, series = make_classifier(tmp_path / "a"), make_forecaster(tmp_path / "b")
    wrongs = [
        (images, "etth1", {}),
        (series, "fashion_mnist", {}),
        (images, "cifar10", {}),
        (images, "fashion_mnits", {}),
        (images, "fashion_mnist", {"split": "all"}),
        (images, "fashion_mnist", {"horizon": 96}),
        (images, "fashion_mnist", {"batch_size": 0}),
        (series, "etth1", {"split": "all"}),
        (series, "etth1", {"horizon": 0}),
    ]
    for folder, dataset, options in wrongs:
        with pytest.raises(ConfigError):
            evaluate(folder, dataset, data_dir=data_folder, **options)
    with pytest.raises(DataError):
        evaluate(series, "etth1", data_dir=tmp_path)
    with pytest.raises(DataError):
        evaluate(series, "etth1", data_dir=tmp_path / "none")
    with pytest.raises(UnknownModelError):
        evaluate("no_such_model", "etth1", data_dir=data_folder)
