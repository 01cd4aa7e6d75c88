"""The fine-tuning workflow on tiny data: pictures in, a checkpoint folder out, which classifies them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from madzoo.checkpoint.card import check_card
from madzoo.cli import app
from madzoo.errors import CheckpointError, ConfigError, DataError, UnknownModelError, UnknownTagError
from madzoo.factory import create_model
from madzoo.workflows.classify import classify
from madzoo.workflows.finetune import finetune, finetune_to_folder
from tests.workflows.tiny_data import make_classifier, make_forecaster

QUICK = {"epochs": 6, "lr": 0.02, "batch_size": 8, "mixup": 0.0, "layer_decay": 0.9}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Dark ants and bright bees, 20 of each."""
    folder, rng = tmp_path_factory.mktemp("pictures") / "Insects 2", np.random.default_rng(0)
    for name, light in (("ant", 30), ("bee", 190)):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = light + rng.integers(0, 40, (30, 34, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return str(make_classifier(tmp_path_factory.mktemp("start") / "weights"))


def test_pictures_become_a_checkpoint_that_classifies_them(tmp_path, pictures, start, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = finetune_to_folder(start, pictures, **QUICK)
    folder = tmp_path / "runs" / "weft_micro_patch4_28.fashion_mnist-on-insects-2-seed0" / "checkpoint"
    assert result.training.finished and folder.samefile(result.folder)
    assert result.class_names == ("ant", "bee") and result.training.metrics["n"] == 4
    model = create_model(f"local-dir:{folder}", verify=True)
    assert model.num_classes == 2 and model.madzoo_name == "weft_micro_patch4_28.insects-2"
    assert model.pretrained_cfg["class_names"] == ["ant", "bee"] and model.pretrained_cfg["input_size"] == [1, 28, 28]
    found = classify(model, [pictures / "ant" / "3.png", pictures / "bee" / "4.png"], top=1)
    assert [one.classes for one in found] == [("ant",), ("bee",)]
    check_card(folder)
    card = (folder / "README.md").read_text()
    assert "Trained on 36 pictures of Insects 2 by `madzoo finetune`, from weft_micro_patch4_28.fashion_mnist" in card


def test_the_head_is_new_and_the_rest_begins_as_it_was(tmp_path, pictures, start):
    still = {**QUICK, "epochs": 1, "lr": 1e-12, "weight_decay": 0.0}
    model = finetune(start, pictures, run_dir=tmp_path / "a", **still)
    before, after = create_model(f"local-dir:{start}").state_dict(), model.state_dict()
    body = [name for name in after if not name.startswith("head.")]
    same = [name for name in body if torch.allclose(after[name], before[name], atol=1e-6)]
    moments = {name for name in body if "running" in name or "num_batches" in name}
    assert set(body) - set(same) == moments and after["head.weight"].shape == (2, 8)
    scratch = finetune(start, pictures, run_dir=tmp_path / "b", pretrained=False, seed=5, **still).state_dict()
    assert not torch.equal(scratch["stem.0.weight"], before["stem.0.weight"])


def test_a_module_is_copied(tmp_path, pictures, start):
    given = create_model(f"local-dir:{start}")
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    model = finetune(given, pictures, run_dir=tmp_path, **{**QUICK, "epochs": 1})
    assert given.num_classes == 10 and model.num_classes == 2 and not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())
    assert model.config == type(given.config)(**{**_fields(given.config), "num_classes": 2})


def _fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_other_sizes_and_colours(tmp_path, pictures, start):
    model = finetune(start, pictures, run_dir=tmp_path, img_size=16, in_chans=3, **{**QUICK, "epochs": 1})
    assert model.pretrained_cfg["input_size"] == [3, 16, 16] and len(model.pretrained_cfg["mean"]) == 3
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_a_model_that_never_met_pictures_learns_their_moments(tmp_path, pictures):
    tiny = create_model("weft_tiny_patch4_64", img_size=16, embed_dim=8, depth=1)
    model = finetune(tiny, pictures, run_dir=tmp_path, **{**QUICK, "epochs": 1})
    light = np.stack([np.asarray(Image.open(path)) for path in sorted(pictures.rglob("*.png"))]) / 255
    assert model.pretrained_cfg["mean"] == pytest.approx(light.mean((0, 1, 2)).tolist(), abs=0.03)
    assert model.pretrained_cfg["std"] == pytest.approx(light.std((0, 1, 2)).tolist(), abs=0.05)
    assert classify(model, [pictures / "ant" / "0.png"])[0].classes


def test_a_seed_repeats_a_run_and_a_stopped_run_goes_on(tmp_path, pictures, start):
    choices = {**QUICK, "epochs": 2}
    whole = finetune(start, pictures, run_dir=tmp_path / "a", **choices).state_dict()
    part = finetune_to_folder(start, pictures, run_dir=tmp_path / "b", max_minutes=0, **choices)
    assert part.folder is None and "goes on from there" in str(part)
    rest = finetune(start, pictures, run_dir=tmp_path / "b", **choices).state_dict()
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    other = finetune(start, pictures, run_dir=tmp_path / "c", seed=1, **choices).state_dict()
    assert not torch.equal(whole["head.weight"], other["head.weight"])


def test_a_run_does_not_go_on_with_other_pictures(tmp_path, pictures, start):
    finetune(start, pictures, run_dir=tmp_path / "run", **QUICK)
    table = tmp_path / "Insects 2.parquet"
    cells = [path.read_bytes() for path in sorted(pictures.rglob("*.png"))]
    pq.write_table(pa.table({"image": cells, "label": ["x", "y"] * 20}), table)
    with pytest.raises(CheckpointError, match=r"another recipe \(dataset"):
        finetune(start, table, run_dir=tmp_path / "run", **QUICK)


def test_the_command_reads_parquet(tmp_path, pictures, start):
    cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted(pictures.rglob("*.png"))]
    kinds = [path.parent.name for path in sorted(pictures.rglob("*.png"))]
    pq.write_table(pa.table({"photo": cells, "kind": kinds}), tmp_path / "insects.parquet")
    paths = ["--data", tmp_path / "insects.parquet", "--out", tmp_path / "out", "--run-dir", tmp_path / "run"]
    choices = ["--epochs", 1, "--lr", 0.01, "--layer-decay", 0.9, "--batch-size", 8, "--mixup", 0.1, "--seed", 3]
    words = ["finetune", start, *paths, *choices, "--label-column", "kind", "--val-fraction", 0.25, "--tag", "mine"]
    result = CliRunner().invoke(app, [*map(str, words), "--no-flip"], catch_exceptions=False)
    assert result.exit_code == 0 and str(tmp_path / "out") in result.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "weft_micro_patch4_28.mine"
    assert config["pretrained_cfg"]["class_names"] == ["ant", "bee"]
    recipe = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["recipe"]
    asked = {"lr": 0.01, "layer_decay": 0.9, "batch_size": 8, "mixup": 0.1, "flip": False, "seed": 3}
    assert {name: recipe[name] for name in asked} == asked


def test_an_image_set_of_the_catalog(tmp_path, data_folder, start):
    choices = {"epochs": 1, "batch_size": 16, "img_size": 8, "run_dir": tmp_path, "data_dir": data_folder}
    result = finetune_to_folder(start, "fashion_mnist", **choices)
    assert result.training.metrics["n"] == 5000 and result.class_names[9] == "Ankle boot"
    assert result.folder is not None


def test_misfits_are_refused(tmp_path, pictures, start, data_folder):
    def refused(kind, words, model=start, data=pictures, **choices):
        with pytest.raises(kind, match=words):
            finetune(model, data, run_dir=tmp_path / "never", **choices)
        assert not (tmp_path / "never").exists()

    refused(ConfigError, "has no option 'in_chans'", model="patch_s4d_nano_512_96.etth1", in_chans=3)
    refused(DataError, "Insects 2", model=str(make_forecaster(tmp_path / "series")))
    refused(ConfigError, "no entry 'steps'", steps=3)
    refused(ConfigError, "only models of the zoo", model="timm/resnet18")
    refused(ConfigError, "only models of the zoo", model=torch.nn.Linear(2, 2))
    refused(ConfigError, "comes with its sizes", model=create_model(f"local-dir:{start}"), img_size=8)
    refused(UnknownModelError, "did you mean", model="weft_micro_patch4_33")
    refused(UnknownTagError, "weft_tiny_patch4_64", model="weft_tiny_patch4_64")
    refused(DataError, r"no such data[\s\S]*did you mean cifar10", data="cifar")
    refused(DataError, "series, not pictures", data="etth1", data_dir=data_folder)
    refused(ConfigError, "no entry 'epoch'", epoch=3)
    refused(ConfigError, "follow from the model", loss="mse")
    refused(ConfigError, "between 0 and 1", val_fraction=0.0)
    refused(ConfigError, "a seed is a whole number", seed=-1)
    refused(ConfigError, "a run that may stop", max_minutes=1.0)
