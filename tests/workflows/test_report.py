"""The reports of a folder: measured, recomputed only when an input changed, rendered, checked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from madzoo.checkpoint.card import write_card
from madzoo.checkpoint.folder import write_folder
from madzoo.checkpoint.weights import read_weights
from madzoo.errors import CheckpointError, ConfigError, UnknownModelError
from madzoo.factory import create_model
from madzoo.geometry import GeometryReport, local_dimension
from madzoo.geometry.report import sample_sha256
from madzoo.quantization import SensitivityReport
from madzoo.workflows.report import check, find_folder, geometry, report
from madzoo.workflows.report_data import load_report_data
from tests.workflows.tiny_data import few_samples, make_classifier, make_forecaster


@pytest.fixture(scope="session")
def reported(data_folder, tmp_path_factory):
    folder = make_classifier(tmp_path_factory.mktemp("cards") / "toy")
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_samples(monkeypatch, 100)
        report(folder, data_dir=data_folder)
    return folder


@pytest.fixture
def toy(reported, tmp_path, monkeypatch):
    few_samples(monkeypatch, 100)
    return shutil.copytree(reported, tmp_path / "toy")


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_a_classifiers_reports(reported: Path) -> None:
    check(reported)
    found = GeometryReport.from_dict(load(reported, "geometry.json"))
    assert (found.dataset, found.split, found.seed, found.n) == ("fashion_mnist", "validation", 0, 2)
    assert found.local_dimension.rows == 20 and found.local_dimension.output == "logits"
    lost = SensitivityReport.from_dict(load(reported, "quantization.json"))
    assert (lost.metric, lost.n, lost.tensors) == (
        "top1",
        100,
        len(list(create_model(f"local-dir:{reported}").parameters())),
    )
    assert [entry.bits for entry in lost.entries] == [8, 6, 4, 3, 2] and lost.weights_sha256 == found.weights_sha256
    assert lost.group_n == 32 and lost.prediction is not None and lost.prediction.disjoint and lost.prediction.n == 40
    assert len(lost.groups) >= 8 and lost.sequence_length == 9 and lost.sample_shape == (1, 28, 28)
    assert (reported / "quantization.png").read_bytes().startswith(b"\x89PNG")
    text = (reported / "README.md").read_text()
    assert "quantization.png" in text and f"sha256 of model.safetensors: `{found.weights_sha256}`" in text


def test_the_rank_is_that_of_the_stated_sample(toy: Path, data_folder: Path) -> None:
    again = geometry(toy, data_dir=data_folder)
    stated = GeometryReport.from_dict(load(toy, "geometry.json"))
    assert again.local_dimension == stated.local_dimension and again.sample_sha256 == stated.sample_sha256
    other = load_report_data(
        create_model(f"local-dir:{toy}"), "fashion_mnist", split="validation", seed=1, folder=data_folder
    )
    assert sample_sha256(other.sample) != stated.sample_sha256


def test_nothing_is_recomputed_while_nothing_changed(toy: Path, data_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in toy.iterdir() if path.is_file()}
    report(toy, data_dir=data_folder)
    report(toy)  # without the data at hand, too
    assert {path.name: path.read_bytes() for path in toy.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "change", ["weights", "fingerprint", "seed", "missing", pytest.param("recompute", marks=pytest.mark.slow)]
)
def test_a_changed_input_recomputes_the_report(toy: Path, data_folder: Path, change: str) -> None:
    stated = load(toy, "geometry.json")
    options: dict[str, Any] = {}
    if change == "weights":
        config = load(toy, "config.json")
        stored = read_weights(toy / "model.safetensors").items()
        state = {name: 1.01 * t if t.is_floating_point() else t for name, t in stored}
        keys = ("architecture", "model_args", "pretrained_cfg")
        write_folder(toy, **{key: config[key] for key in keys}, state=state)
        with pytest.raises(CheckpointError, match="disagree"):
            check(toy)
    elif change == "fingerprint":
        (toy / "geometry.json").write_text(json.dumps(stated | {"data": stated["data"] | {"fingerprint": "00"}}))
    elif change == "missing":
        (toy / "geometry.json").unlink()
    elif change == "seed":
        options["seed"] = 3
    else:
        options["recompute"] = True
    marked = stated | {"cost": stated["cost"] | {"seconds": -1.0}}
    if change not in ("missing", "fingerprint"):
        (toy / "geometry.json").write_text(json.dumps(marked))
    report(toy, data_dir=data_folder, **options)
    assert load(toy, "geometry.json")["cost"]["seconds"] >= 0
    assert load(toy, "geometry.json")["data"]["seed"] == options.get("seed", 0)
    check(toy)


def test_a_forecaster_on_a_table_and_on_synthetic_series(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_samples(monkeypatch, 250)
    folder = make_forecaster(tmp_path / "toy")
    report(folder, data_dir=data_folder)
    found = GeometryReport.from_dict(load(folder, "geometry.json"))
    assert found.local_dimension.rows == 2 * 96 and found.local_dimension.output == "forecast"
    lost = SensitivityReport.from_dict(load(folder, "quantization.json"))
    assert (lost.metric, lost.n, lost.entries[0].drop_standard_error) == ("mse", 250, None)
    assert lost.sample_shape == (96, 2) and lost.prediction is not None and lost.prediction.split == "train"
    report(folder, dataset="synthetic")
    assert load(folder, "geometry.json")["data"]["dataset"] == "synthetic"
    lost = SensitivityReport.from_dict(load(folder, "quantization.json"))
    assert lost.metric == "mae" and lost.prediction is not None and lost.prediction.disjoint
    report(folder)  # stays on what the report states
    assert load(folder, "geometry.json")["data"]["dataset"] == "synthetic"
    check(folder)


def test_the_median_stands_for_a_forecast_that_is_too_large(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"d_model": 2, "depth": 1, "bottleneck": 2, "linear_skip": False, "prediction_length": 24}
    model = create_model("patch_s4d_micro_504_168", **small)
    size = 8 * 24 * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr("madzoo.workflows.report_data.LARGEST_JACOBIAN", 2 * size)
    monkeypatch.setattr("madzoo.workflows.report_data.JACOBIAN_BYTES", 2 * size)
    data = load_report_data(model, "synthetic", split="validation", seed=0)
    assert data.output == "median" and len(data.sample) == 2
    found = local_dimension(model, data.sample, output="median")
    whole = local_dimension(model, data.sample, output="forecast")
    assert found.rows == 2 * 24 and whole.rows == 9 * found.rows and found.rank < whole.rank


def test_the_sample_is_cut_where_the_jacobian_would_not_fit(
    toy: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("madzoo.workflows.report_data.JACOBIAN_BYTES", 1000)
    found = geometry(toy, data_dir=data_folder)
    assert found.n == 1 and found.local_dimension.rows == 10
    monkeypatch.setattr("madzoo.workflows.report_data.LARGEST_JACOBIAN", 1000)
    with pytest.raises(ConfigError, match="too large"):
        geometry(toy, data_dir=data_folder)


def falsify(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    head = next(group for group in groups if group["name"] == "head")
    *others, last = head["entries"]
    changed = head | {"entries": [*others, last | {"delta_loss": last["delta_loss"] + 0.01}]}
    return [changed if group is head else group for group in groups]


def test_numbers_repeat_within_their_tolerances(toy: Path, data_folder: Path) -> None:
    stated = {name: load(toy, name) for name in ("geometry.json", "quantization.json")}
    false = {"rank": 9, "sigma_max": 1.0}
    changes = {
        "geometry.json": {"measured": stated["geometry.json"]["measured"] | false},
        "quantization.json": {
            "reference": stated["quantization.json"]["reference"] + 0.03,
            "groups": falsify(stated["quantization.json"]["groups"]),
        },
    }
    for name, change in changes.items():
        (toy / name).write_text(json.dumps(stated[name] | change))
    write_card(toy)
    with pytest.raises(CheckpointError) as told:
        check(toy, recompute=True, data_dir=data_folder)
    for word in ("rank 9", "sigma_max 1.0", "top1 at reference", "delta_loss of head at 2 bits"):
        assert word in str(told.value)
    assert str(told.value).count(", now ") == 4  # every other number is found again


def test_the_service_alone_gives_the_same_rank(reported: Path) -> None:
    model = create_model(f"local-dir:{reported}")
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert local_dimension(model, x).rows == 20


def test_refusals(toy: Path, tmp_path: Path, data_folder: Path) -> None:
    with pytest.raises(ConfigError, match="task"):
        report(toy, dataset="etth1", data_dir=data_folder)
    with pytest.raises(ConfigError, match="images"):
        report(toy, dataset="cifar10", data_dir=data_folder)
    with pytest.raises(ConfigError, match="synthetic"):
        report(toy, dataset="synthetic", data_dir=data_folder)
    with pytest.raises(CheckpointError):
        report(tmp_path)
    with pytest.raises(CheckpointError):
        report(f"local-dir:{tmp_path / 'none'}")
    with pytest.raises(UnknownModelError):
        find_folder("no_such_model")
    (toy / "geometry.json").write_text("[]")
    with pytest.raises(CheckpointError, match="geometry"):
        report(toy, data_dir=data_folder)
