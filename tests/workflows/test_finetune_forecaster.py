"""Fine-tuning of a forecaster to a folder: by command and by function, loaded again by everything that takes a name."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import madzoo
from madzoo.checkpoint.card import check_card
from madzoo.checkpoint.folder import read_folder
from madzoo.cli import app
from madzoo.errors import CheckpointError, ConfigError, DataError
from madzoo.evaluation import ResultRow
from madzoo.factory import create_model
from madzoo.layers.forecaster import with_seasonality
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.workflows.evaluate import record_rows
from madzoo.workflows.finetune import finetune, finetune_to_folder
from madzoo.workflows.finetune_forecaster import finetune_forecaster
from tests.workflows.tiny_data import make_classifier, make_forecaster

QUICK = {"steps": 10, "lr": 0.02, "batch_size": 8, "seed": 0}


@pytest.fixture(autouse=True)
def own_log_lines(monkeypatch):
    """Takes back what a command sets up for its log lines."""
    logger = logging.getLogger("madzoo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return str(make_forecaster(tmp_path_factory.mktemp("start") / "weights"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two series of 600 hours with a season of a day."""
    path, hours = tmp_path_factory.mktemp("shop") / "Corner Shop.csv", np.arange(600)
    stamps = pd.date_range("2024-01-01", periods=600, freq="h")
    sales = [40 + (5 + i) * np.sin(hours * np.pi / 12) + np.random.default_rng(i).normal(size=600) for i in (0, 1)]
    table = pd.concat(pd.DataFrame({"item_id": i, "timestamp": stamps, "sales": sales[i]}) for i in (0, 1))
    table.to_csv(path, index=False)
    return path


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    return {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}


def test_a_table_becomes_a_checkpoint_that_forecasts_it(tmp_path, start, shop, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--steps", 20, "--lr", 0.02, "--batch-size", 8, "--seed", 1, "--target", "sales", "--freq", "h"]
    ran = CliRunner().invoke(app, list(map(str, ["finetune", start, "--data", shop, *words])), catch_exceptions=False)
    folder = tmp_path / "runs" / "weights-on-corner-shop-seed1" / "checkpoint"
    assert ran.exit_code == 0 and "corner-shop-seed1" in ran.output
    model = madzoo.create_model(f"local-dir:{folder}", verify=True)
    assert model.madzoo_name == "patch_s4d_nano_512_96.corner-shop"
    assert changed(model, state(madzoo.create_model(f"local-dir:{start}")))
    config = json.loads((folder / "config.json").read_text())
    assert config["pretrained_cfg"]["dataset"] == "Corner Shop"
    assert config["pretrained_cfg"]["license"] == "apache-2.0"
    check_card(folder)
    card = (folder / "README.md").read_text()
    assert "Trained on 2 series of Corner Shop by `madzoo finetune`, from weights: 20 steps" in card
    options = ["--model", str(folder), "--horizon", "24", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, ["forecast", str(shop), *options], catch_exceptions=False).exit_code == 0
    written = pd.read_csv(tmp_path / "Corner Shop_forecast.csv")
    assert len(written) == 48 and written["predictions"].between(20, 60).all()


def test_the_folder_of_other_weights_is_left_alone(tmp_path, start, shop, caplog):
    work = {"steps": 10, "lr": 0.02, "batch_size": 8, "target": "sales"}
    mine, other = Path(shutil.copytree(start, tmp_path / "mine")), tmp_path / "other"
    before = (mine / "config.json").read_bytes()
    for out, message in (
        (mine, "to start from"),
        (mine / "tuned", "to start from"),
        (start, "holds the float weights"),
    ):
        with pytest.raises(ConfigError, match=message):  # before the training
            finetune_forecaster(f"local-dir:{mine}", shop, out=out, run_dir=tmp_path / "unused", **work)
    assert (mine / "config.json").read_bytes() == before and not (tmp_path / "unused").exists()

    runs = [tmp_path / "run0", tmp_path / "run1"]
    finetune_forecaster(str(mine), shop, out=other, run_dir=runs[0], seed=0, **work)
    weights = read_folder(other).sha256
    row = ResultRow(
        model="patch_s4d_nano_512_96.corner-shop", weights_sha256=weights, dataset="shop", data_fingerprint="f" * 64,
        split="test", n=1, metrics={"mse": 0.5}, seconds=0.0,
    )  # fmt: skip
    record_rows(other, [row])
    finetune_forecaster(str(mine), shop, out=other, run_dir=runs[0], seed=0, **work)
    assert read_folder(other).sha256 == weights and (other / "evaluation.json").exists()
    assert "replaced" not in caplog.text
    check_card(other)
    finetune_forecaster(str(mine), shop, out=other, run_dir=runs[1], seed=1, **work)
    assert read_folder(other).sha256 != weights and not (other / "evaluation.json").exists()
    assert "about the weights replaced: evaluation.json" in caplog.text
    check_card(other)


def test_every_option_of_the_command(tmp_path, start, shop):
    table = pd.read_csv(shop).rename(columns={"item_id": "shop", "timestamp": "hour"}).assign(cost=1.0)
    table.to_parquet(tmp_path / "renamed.parquet")
    words = ["finetune", start, "--data", tmp_path / "renamed.parquet", "--out", tmp_path / "out", "--tag", "mine"]
    words += ["--run-dir", tmp_path / "run", "--steps", 10, "--mode", "head", "--loss", "pinball", "--horizon", 12]
    words += ["--timestamp", "hour", "--id", "shop", "--target", "sales", "--val-fraction", 0.3, "--lr", 0.05]
    assert CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False).exit_code == 0
    model = madzoo.create_model(f"local-dir:{tmp_path / 'out'}", verify=True)
    assert model.prediction_length == 12 and model.madzoo_name == "patch_s4d_nano_512_96.mine"
    before = state(madzoo.create_model(f"local-dir:{start}", pretrained=True, prediction_length=12))
    assert {name.split(".")[0] for name in changed(model, before)} == {"head", "linear_skip"}
    recipe = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["recipe"]
    assert recipe["lr"] == 0.05 and "head pinball 0.3" in recipe["dataset"]


@pytest.mark.parametrize("mode", ["full", "head"])
def test_the_facade_returns_a_new_model(tmp_path, start, shop, mode, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = madzoo.create_model(f"local-dir:{start}")
    before = state(given)
    tuned = madzoo.finetune(given, pd.read_csv(shop), mode=mode, **QUICK)
    assert tuned is not given and not changed(given, before) and not tuned.training
    assert (changed(tuned, before) == {n for n in before if n.startswith(("head.", "linear_skip."))}) is (
        mode == "head"
    )
    assert changed(tuned, before) and not list(tmp_path.iterdir())  # no folder was asked for
    kept = madzoo.finetune(given, shop, mode=mode, out=tmp_path / "out", run_dir=tmp_path / "run", **QUICK)
    assert not changed(kept, state(tuned)) and (tmp_path / "out" / "README.md").exists()


def test_a_stopped_run_goes_on(tmp_path, start, shop):
    whole = finetune(start, shop, **QUICK)
    part = finetune_to_folder(start, shop, run_dir=tmp_path, max_minutes=0, **QUICK)
    assert part.folder is None and "goes on from there" in str(part)
    rest = finetune_to_folder(start, shop, run_dir=tmp_path, **QUICK)
    assert not changed(madzoo.create_model(f"local-dir:{rest.folder}"), state(whole))


def test_a_run_that_helps_nobody_writes_the_start(tmp_path, start, shop, caplog):
    found = finetune_to_folder(start, shop, run_dir=tmp_path, **{**QUICK, "lr": 1e-12})
    worse = finetune_to_folder(str(found.folder), shop, run_dir=tmp_path / "b", **{**QUICK, "lr": 0.5, "steps": 4})
    assert "those of the start" in caplog.text
    assert "these are the weights of the start" in (worse.folder / "README.md").read_text()
    again = madzoo.create_model(f"local-dir:{worse.folder}", verify=True)
    assert not changed(again, state(madzoo.create_model(f"local-dir:{found.folder}")))


def test_misfits_are_refused(tmp_path, start, shop):
    def refused(kind, words, model=start, data=shop, **options):
        with pytest.raises(kind, match=words):
            finetune_to_folder(model, data, run_dir=tmp_path / "never", **options)
        assert not (tmp_path / "never").exists()

    refused(ConfigError, "has no option 'step'.*", step=3)
    refused(ConfigError, "has no option 'epochs'", epochs=3)
    refused(ConfigError, "no mode is named 'tail'", mode="tail")
    refused(ConfigError, "no loss is named 'mape'", loss="mape")
    refused(ConfigError, "steps is a whole number", steps=0)
    refused(DataError, "no column 'profit'|profit", target="profit")
    refused(DataError, "nowhere.csv", data=tmp_path / "nowhere.csv")
    refused(DataError, "no series is long enough", data=pd.read_csv(shop)[:20])
    sizes = {"patch_size": 24, "patch_stride": 24, "d_model": 4}
    unnamed = PatchS4D(PatchS4DConfig(context_length=96, prediction_length=96, **sizes))
    refused(ConfigError, "only models of the zoo make checkpoint folders", model=unnamed)
    with pytest.raises(ConfigError, match="a run that may stop"):
        finetune(start, shop, max_minutes=1.0)
    images = str(make_classifier(tmp_path / "images"))
    ran = CliRunner().invoke(app, ["finetune", images, "--data", str(shop), "--steps", "3"])
    assert isinstance(ran.exception, (ConfigError, DataError))


def test_a_run_does_not_go_on_with_another_table(tmp_path, start, shop):
    finetune_to_folder(start, shop, run_dir=tmp_path, **QUICK)
    with pytest.raises(CheckpointError, match="another recipe"):
        finetune_to_folder(start, pd.read_csv(shop)[:-1], run_dir=tmp_path, **QUICK)


@pytest.mark.parametrize(("given", "season"), [({}, 7), ({"seasonality": 5}, 5)])
def test_a_model_that_asks_is_told_the_season_of_the_table(tmp_path, given, season):
    days = np.arange(400)
    week = np.sin(2 * np.pi * days / season) + 0.1 * np.random.default_rng(0).standard_normal(400)
    table = pd.DataFrame({"timestamp": pd.date_range("2023-01-01", periods=400, freq="D"), "sales": week})
    torch.manual_seed(0)
    model = create_model("season_s4d_small_672_192", d_model=4, depth=1, bottleneck=4, context_length=168)
    result = finetune_to_folder(model, table, out=tmp_path / "tuned", run_dir=tmp_path / "run", **QUICK, **given)
    assert model.seasonality == 24 and result.training.finished
    text = (tmp_path / "tuned" / "README.md").read_text()
    assert f"10 steps, {season} steps a season" in text
    again = create_model(f"local-dir:{tmp_path / 'tuned'}", verify=True)
    tuned = madzoo.finetune(model, table, **QUICK, **given)
    assert tuned.seasonality == season
    told = with_seasonality(again.eval(), season)
    past = torch.from_numpy(week[-60:]).view(1, 60, 1)
    torch.testing.assert_close(told.predict(past)[0], tuned.predict(past)[0])
    with pytest.raises(ConfigError, match="follows from its season"):
        madzoo.finetune("season_s4d_base_1008_192.zeroshot", table, prediction_length=14)
