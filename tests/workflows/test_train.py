"""The training workflow on tiny data: recipe in, checkpoint folder out, loaded again by name."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from madzoo.checkpoint.card import check_card
from madzoo.errors import ConfigError, DataError, UnknownModelError
from madzoo.factory import create_model
from madzoo.training.recipe import Recipe
from madzoo.workflows.train import train
from madzoo.workflows.training_task import training_task
from tests.workflows.tiny_data import few_samples

SERIES = {
    "name": "patch_s4d_nano_336_96.tiny", "dataset": "etth1", "epochs": 1, "batch_size": 2048, "lr": 1e-3,
    "loss": "pinball", "model_args": {"d_model": 4, "depth": 1, "context_length": 48, "prediction_length": 8},
    "ema_decay": 0.5,
}  # fmt: skip
IMAGES = {
    "name": "weft_micro_patch4_28.tiny", "dataset": "fashion_mnist", "epochs": 1, "batch_size": 32, "lr": 1e-3,
    "loss": "cross_entropy", "model_args": {"embed_dim": 8, "depth": 1, "d_state": 2}, "mixup": 0.2,
    "precision": "bf16",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with a table as long as ETTh1 and 5,064 very small pictures."""
    folder = tmp_path_factory.mktemp("data")
    hours = np.arange(14400)
    wave = np.sin(hours * 2 * np.pi / 24) + 0.1 * np.random.default_rng(0).standard_normal(14400)
    table = pd.DataFrame({"date": pd.date_range("2016", periods=14400, freq="h"), "OT": wave})
    (folder / "ett").mkdir()
    table.to_parquet(folder / "ett" / "ETTh1.parquet")
    (folder / "fashion_mnist").mkdir()
    pictures = [{"bytes": _png(i), "path": None} for i in range(5064)]
    images = pa.table({"image": pictures, "label": [i % 10 for i in range(5064)]})
    pq.write_table(images, folder / "fashion_mnist" / "train-00000-of-00001.parquet")
    return folder


def _png(index):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 25 * (index % 10), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("values", [SERIES, IMAGES], ids=["series", "images"])
def test_recipe_to_loadable_folder(tmp_path, data, values, monkeypatch):
    few_samples(monkeypatch, 100)
    result = train(Recipe.from_dict(values), out=tmp_path / "out", run_dir=tmp_path / "run", data_dir=data)
    check_card(tmp_path / "out")
    assert {"geometry.json", "quantization.json", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert result.finished and result.step == result.total_steps
    assert {"score", "n"} <= result.metrics.keys()
    model = create_model(f"local-dir:{tmp_path / 'out'}", verify=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, result.state[name])
    assert model.config == create_model(values["name"].split(".")[0], **values["model_args"]).config


def test_stopping_and_going_on_gives_the_same_weights(tmp_path, data):
    recipe = Recipe.from_dict({**SERIES, "epochs": 2})
    whole = train(recipe, run_dir=tmp_path / "a", data_dir=data, reports=False)
    part = train(recipe, run_dir=tmp_path / "b", data_dir=data, max_minutes=0, reports=False)
    assert not part.finished and not (tmp_path / "b" / "checkpoint").exists()
    rest = train(recipe, run_dir=tmp_path / "b", data_dir=data, reports=False)
    assert (tmp_path / "b" / "checkpoint" / "config.json").exists()
    assert all(torch.equal(whole.state[name], rest.state[name]) for name in whole.state)


def test_seed_argument_replaces_the_recipes(tmp_path, data):
    states = [
        train(Recipe.from_dict(SERIES), run_dir=tmp_path / str(i), data_dir=data, seed=seed, reports=False).state
        for i, seed in enumerate((0, 0, 1))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_misfits_are_refused(tmp_path, data):
    with pytest.raises(ConfigError, match="do not belong together"):
        train(Recipe.from_dict({**SERIES, "dataset": "fashion_mnist"}), run_dir=tmp_path, data_dir=data)
    with pytest.raises(UnknownModelError, match=r"arch\.tag"):
        train(Recipe.from_dict({**SERIES, "name": "patch_s4d_nano_336_96"}), run_dir=tmp_path, data_dir=data)
    with pytest.raises(ConfigError, match="only a generator"):
        train(Recipe.from_dict({**SERIES, "steps_per_epoch": 3}), run_dir=tmp_path, data_dir=data)
    for values in ({**IMAGES, "refit": True}, {**SERIES, "dataset": "synthetic", "steps_per_epoch": 2, "refit": True}):
        with pytest.raises(ConfigError, match="only a table"):
            train(Recipe.from_dict(values), run_dir=tmp_path, data_dir=data)
    with pytest.raises(ConfigError, match="smaller than one batch"):
        train(Recipe.from_dict({**SERIES, "batch_size": 10**6}), run_dir=tmp_path, data_dir=data)


def test_starts_from_the_weights_of_its_family(tmp_path, data):
    values = {**SERIES, "name": "patch_s4d_nano_512_96.tiny", "start": "patch_s4d_nano_512_96.etth1"}
    values |= {"lr": 1e-9, "ema_decay": 0.0, "model_args": {"dropout": 0.0}}
    state = train(Recipe.from_dict(values), run_dir=tmp_path / "a", data_dir=data, reports=False).state
    begun = create_model("patch_s4d_nano_512_96.etth1", pretrained=True).state_dict()
    assert all((state[name] - begun[name]).abs().max() < 1e-6 for name in begun)
    folder = {"start": f"local-dir:{tmp_path / 'a' / 'checkpoint'}"}
    again = train(Recipe.from_dict(values | folder), run_dir=tmp_path / "d", data_dir=data, reports=False).state
    assert all((again[name] - begun[name]).abs().max() < 1e-6 for name in begun)
    fresh = train(Recipe.from_dict({**values, "start": ""}), run_dir=tmp_path / "b", data_dir=data, reports=False).state
    assert (fresh["patch_embed.weight"] - begun["patch_embed.weight"]).abs().max() > 0.01
    with pytest.raises(ConfigError, match="season_s4d do not start a patch_s4d"):
        recipe = Recipe.from_dict({**values, "start": "season_s4d_base_1008_192.zeroshot"})
        train(recipe, run_dir=tmp_path / "c", data_dir=data, reports=False)


def test_refitting_trains_on_the_validation_rows_in_the_same_units(data):
    model = create_model("patch_s4d_nano_336_96", **SERIES["model_args"])
    chosen, refitted = (
        training_task(model, Recipe.from_dict({**SERIES, "batch_size": 64, "refit": refit}), folder=data).source.windows
        for refit in (False, True)
    )
    assert len(refitted) - len(chosen) == 2880  # the validation rows of ETTh1
    assert torch.equal(refitted.values, chosen.values)
    assert refitted[-1][1].shape == (8, 1) and refitted.stop == 11520


def test_recordings_beside_a_generator(tmp_path):
    hours = np.arange(8000)
    table = pd.DataFrame({"item_id": ["a"], "target": [np.sin(hours * 0.26) + np.cos(hours * 0.011)]})
    (tmp_path / "citylearn").mkdir()
    table.to_parquet(tmp_path / "citylearn" / "hourly.parquet")
    values = {**SERIES, "name": "season_s4d_small_672_192.tiny", "dataset": "synthetic-frequencies-long+citylearn"}
    values |= {"model_args": {"d_model": 4, "depth": 1, "bottleneck": 4}, "steps_per_epoch": 2, "batch_size": 16}
    result = train(Recipe.from_dict(values), run_dir=tmp_path / "a", data_dir=tmp_path, reports=False)
    plain = {**values, "dataset": "synthetic-frequencies-long"}
    other = train(Recipe.from_dict(plain), run_dir=tmp_path / "b", data_dir=tmp_path, reports=False)
    assert result.finished and any(not torch.equal(result.state[name], other.state[name]) for name in other.state)
    with pytest.raises(DataError, match="lacks citylearn"):
        train(Recipe.from_dict(values), run_dir=tmp_path / "c", data_dir=tmp_path / "a", reports=False)
