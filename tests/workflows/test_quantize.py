"""The quantization workflow on tiny data: a model's folder in, a packed folder out, which loads and is measured."""

import json
import math
from shutil import copytree

import pytest
import torch
from typer.testing import CliRunner

from madzoo.checkpoint.card import check_card
from madzoo.checkpoint.folder import read_folder
from madzoo.checkpoint.report_files import read_report
from madzoo.cli import app
from madzoo.data.images import ImageArrays
from madzoo.errors import CheckpointError, ConfigError
from madzoo.evaluation import ResultRow
from madzoo.factory import create_model
from madzoo.quantization.plan import make_plan
from madzoo.quantization.quantized import quantize_weights
from madzoo.workflows import quantize_folder, training_task
from madzoo.workflows.evaluate import record_rows
from madzoo.workflows.quantize import quantize
from madzoo.workflows.report import report
from tests.workflows.tiny_data import make_classifier, make_forecaster

STEPS = {"qat": True, "steps": 4, "epochs": 2, "lr": 0.01}


@pytest.fixture(autouse=True)
def few_series(monkeypatch):
    monkeypatch.setattr(training_task, "VALIDATION_SERIES", 256)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return make_forecaster(tmp_path_factory.mktemp("start") / "weights")


@pytest.fixture(scope="module")
def zeroshot(tmp_path_factory):
    return make_forecaster(tmp_path_factory.mktemp("zeroshot") / "weights", dataset="synthetic")


def test_rounded_weights_become_a_folder(tmp_path, start, data_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = quantize(start, bits=4, policy="rtn", data_dir=data_folder)
    assert found.name == "patch_s4d_nano_512_96.etth1-int4" and str(found.folder) == f"runs/{found.name}"
    model, base = create_model(f"local-dir:{found.folder}", verify=True), create_model(f"local-dir:{start}")
    weights = quantize_weights(base, make_plan(base, 4), observer="mse")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name].dequantize()), name
    assert found.float_bytes == (start / "model.safetensors").stat().st_size
    assert found.packed_bytes == (found.folder / "model.safetensors").stat().st_size < 0.3 * found.float_bytes
    assert found.before["n"] == found.after["n"] == 2785 and found.before["mse"] != found.after["mse"]
    check_card(found.folder)
    text = (found.folder / "README.md").read_text()
    assert "Made by `madzoo quantize patch_s4d_nano_512_96.etth1 --bits 4 --policy rtn --seed 0`." in text
    assert f"| MSE | {found.before['mse']:.5g} | {found.after['mse']:.5g} |" in text
    report(found.folder, data_dir=data_folder)  # of weights that are rounded already: their geometry alone
    assert (found.folder / "geometry.json").exists() and not (found.folder / "quantization.json").exists()
    check_card(found.folder)
    with pytest.raises(ConfigError, match="quantized already"):
        quantize(found.folder, bits=4)


def test_the_test_part_is_met_once(tmp_path, start, data_folder, monkeypatch):
    asked = []

    def measured(name, dataset, *, record_in=None, seed=None, configurations_tested=None, data_dir=None):
        asked.append(name)
        row = ResultRow(
            model=str(name), weights_sha256=read_folder(name).sha256, dataset=dataset, data_fingerprint="f" * 64,
            split="test", n=2785, metrics={"mse": 0.4 + 0.1 * len(asked), "mae": 0.5}, seed=seed,
            settings={"horizon": 96}, configurations_tested=configurations_tested, seconds=0.0,
        )  # fmt: skip
        if record_in is not None:
            record_rows(record_in, [row])
        return [row]

    monkeypatch.setattr(quantize_folder, "evaluate", measured)
    choices = {"bits": 8, "policy": "rtn", "data_dir": data_folder, "evaluate": True}
    folder = quantize(start, out=tmp_path / "a", **choices).folder
    assert asked == [folder, start]  # the float weights' folder says nothing yet
    rows = read_report(folder, "evaluation.json")
    (row,), (other,) = rows["rows"], rows["ablations"]
    assert row["weights_sha256"] == read_folder(folder).sha256 and row["configurations_tested"] == 1
    assert other["model"] == "float weights: patch_s4d_nano_512_96.etth1" and round(other["metrics"]["mse"], 9) == 0.6
    check_card(folder)
    assert "| float weights: patch_s4d_nano_512_96.etth1 | 0.6 |" in (folder / "README.md").read_text()
    again = copytree(start, tmp_path / "stated")
    measured(again, "etth1", record_in=again)
    folder = quantize(again, out=tmp_path / "b", **choices).folder
    assert asked[3:] == [folder]
    assert read_report(folder, "evaluation.json")["ablations"][0]["metrics"]["mse"] == pytest.approx(0.7)


def test_synthetic_series_calibrate(tmp_path, zeroshot):
    found = quantize(zeroshot, bits=3, policy="bias_corrected", group_size=4, out=tmp_path / "out")
    assert found.before["n"] == 256 and found.folder == tmp_path / "out"
    assert [step["step"] for step in found.record["steps"]] == ["round", "bias_correction"]
    with pytest.raises(ConfigError, match="no test part"):
        quantize(zeroshot, bits=3, evaluate=True)


def test_training_on_levels_stops_goes_on_and_repeats(tmp_path, zeroshot):
    whole = quantize(zeroshot, bits=2, out=tmp_path / "a", run_dir=tmp_path / "run a", **STEPS)
    part = quantize(zeroshot, bits=2, out=tmp_path / "b", run_dir=tmp_path / "run b", max_minutes=0, **STEPS)
    assert part.folder is None and "goes on from there" in str(part) and not (tmp_path / "b").exists()
    rest = quantize(zeroshot, bits=2, out=tmp_path / "b", run_dir=tmp_path / "run b", **STEPS)
    assert rest.after == whole.after and rest.training.total_steps == 4
    files = [path / "model.safetensors" for path in (tmp_path / "a", tmp_path / "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert whole.record["estimator"] == "lsq" and whole.after["score"] < whole.before["score"]
    model = create_model(f"local-dir:{tmp_path / 'a'}", verify=True)
    assert model.madzoo_name.endswith("-t2")
    for name, grid in make_plan(model, 2, kind="ternary").items():
        if grid.kind == "ternary":
            assert all(len(row.unique()) <= 3 for row in model.get_parameter(name).flatten(1)), name
    with pytest.raises(CheckpointError, match=r"other choices \(group_size"):
        quantize(zeroshot, bits=2, group_size=4, run_dir=tmp_path / "run a", **STEPS)
    with pytest.raises(CheckpointError, match="another recipe"):
        quantize(zeroshot, bits=2, run_dir=tmp_path / "run a", **{**STEPS, "lr": 0.02})


def test_the_command_trains_a_classifier(tmp_path, monkeypatch):
    labels = torch.arange(60) % 10
    images = (labels.view(-1, 1, 1, 1) * 25).expand(-1, 1, 28, 28).to(torch.uint8)
    data = ImageArrays(images=images, labels=labels, num_classes=10)
    monkeypatch.setattr(training_task, "load_image_split", lambda spec, split, folder: data)
    start = make_classifier(tmp_path / "start")
    choices = ["--bits", 4, "--qat", "--epochs", 2, "--batch-size", 16, "--lr", 0.01, "--seed", 3]
    paths = ["--out", tmp_path / "out", "--run-dir", tmp_path / "run"]
    result = CliRunner().invoke(app, ["quantize", *map(str, [start, *choices, *paths])], catch_exceptions=False)
    assert result.exit_code == 0 and "float weights" in result.output and "60 samples" in result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]["method"] == "qat"
    model = create_model(f"local-dir:{tmp_path / 'out'}", verify=True)
    assert model.pretrained_cfg["input_size"] == [1, 28, 28] and model.pretrained_cfg["mean"] == [0.286]
    check_card(tmp_path / "out")
    assert "--qat --epochs 2 --lr 0.01 --batch-size 16 --seed 3" in (tmp_path / "out" / "README.md").read_text()


def test_misfits_are_refused(tmp_path, start, zeroshot, data_folder):
    def refused(words, name=start, **choices):
        with pytest.raises(ConfigError, match=words):
            quantize(name, data_dir=data_folder, **{"bits": 4, **choices})

    refused("bits is a whole number, 2 to 8", bits=1)
    refused("bits is a whole number, 2 to 8", bits=True)
    refused("did you mean gauge", policy="gague")
    refused("did you mean lsq", qat=True, estimator="lqs")
    refused("rounding after training", qat=True, policy="rtn")
    refused("only a training", steps=3)
    refused("only a training", estimator="ste")
    for name in ("group_size", "epochs", "steps", "batch_size"):
        for value in (0, -3, 2.5, True, "2"):
            refused(f"{name} is a whole number, at least 1", qat=True, **{name: value})
    for value in (-1, 2**32, None, 0.5):
        refused("seed is a whole number, 0 to", seed=value)
    for value in (0, 0.0, -1e-3, math.nan, math.inf, "0.1", True):
        refused("lr is a number above 0", qat=True, lr=value)
    for value in (-1, math.nan, "soon"):
        refused("max_minutes is a number at least 0", qat=True, max_minutes=value)
    refused("no row is as long as a group", group_size=10**9)
    refused("at least one step", zeroshot, qat=True, steps=1, epochs=2, run_dir=tmp_path)
    refused("only models of the zoo", "timm/resnet18")
    refused("not in the catalog", make_forecaster(tmp_path / "mine", dataset="My Shops"))
    refused("do not belong together", dataset="fashion_mnist")
