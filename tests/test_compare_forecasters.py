"""The comparison of forecasters: what is run, once each and to be resumed, on validation alone; what the table says."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import compare_forecasters
from bench_report import Report
from compare_forecasters import ForecasterPlan, load_plan, tell, train_once, work
from compare_plan import read_results

from madzoo.factory import create_model
from madzoo.training.loop import train
from madzoo.workflows import training_task

SCRIPTS = Path(__file__).parents[1] / "scripts"
PLAN_FILES = sorted((SCRIPTS / "comparisons" / "forecasters").glob("*.yaml"))
PLAN = ForecasterPlan(
    dataset="etth1",
    models=["rlinear_96_96", "dlinear_96_96"],
    seeds=[0, 1],
    recipe={"epochs": 2, "batch_size": 2048, "lr": 0.01, "loss": "pinball", "select": "best"},
)


@pytest.fixture
def table(monkeypatch):
    """Stands in for the rows that count; those of the test part are so large that they would show in any error."""
    rows = np.sin(np.arange(14_400)[:, None] * 2 * np.pi / 24 + np.arange(2))
    rows[8640 + 2880 :] = 1e6
    frame = pd.DataFrame(rows, columns=["a", "b"])
    frame.insert(0, "date", pd.date_range("2016-07-01", periods=len(frame), freq="h"))
    monkeypatch.setattr(training_task, "load_table", lambda spec, folder: frame)


@pytest.mark.parametrize("path", PLAN_FILES, ids=lambda path: path.stem)
def test_plans_compare_like_with_like(path):
    plan = load_plan(path)
    assert len(plan.seeds) == 3 and len(plan.runs()) == 3 * len(plan.models)
    with torch.device("meta"):
        models = [create_model(name) for name in plan.models]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert max(sizes) / min(sizes) < 1.05
    assert len({(m.context_length, m.prediction_length, m.quantile_levels) for m in models}) == 1


def test_the_mixers_are_trained_by_the_recipe_of_patch_s4d():
    name = "patch_s4d_nano_512_96"
    recipe = yaml.safe_load((SCRIPTS / "recipes" / f"{name}.etth1.yaml").read_text())
    plan = load_plan(SCRIPTS / "comparisons" / "forecasters" / "etth1_mixers.yaml")
    assert {**plan.recipe, "dataset": plan.dataset} == {k: v for k, v in recipe.items() if k not in ("name", "seed")}


def test_a_plan_is_worked_off_once_and_told(tmp_path, table):
    folder, page = tmp_path / "runs", tmp_path / "page.md"
    work(PLAN, folder, None)
    found = read_results(folder)
    assert set(found) == set(PLAN.runs()) and len(found) == 4
    assert all(0 < record["validation"]["mse"] < 10 and record["steps"] == 8 for record in found.values())
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    work(PLAN, folder, None)
    assert written == {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    page.write_text("<!-- plan:begin -->\n<!-- plan:end -->\n")
    report = Report("plan", page)
    tell(PLAN, found, report)
    report.write()
    means = {m: sum(found[f"{m}-seed{s}"]["validation"]["mse"] for s in (0, 1)) / 2 for m in PLAN.models}
    text = page.read_text()
    first, second = sorted(means, key=means.__getitem__)
    assert f"| {means[first]:.4f} ± " in text and text.index(f"| {first} |") < text.index(f"| {second} |")
    assert f"{2880 - 95:,} windows" in text


def test_a_run_that_was_stopped_goes_on(tmp_path, table, monkeypatch):
    recipe = PLAN.runs()["rlinear_96_96-seed1"]
    whole = train_once(recipe, tmp_path / "whole", None)
    with monkeypatch.context() as patch:
        patch.setattr(compare_forecasters, "train", partial(train, max_minutes=0))
        assert train_once(recipe, tmp_path / "parts", None)["steps"] == 1
    again = train_once(recipe, tmp_path / "parts", None)
    assert again["validation"] == whole["validation"] and again["steps"] == whole["steps"]
    assert whole["process_seconds"] > 0 and again["process_seconds"] is None


def test_no_seed_is_left_out():
    with pytest.raises(SystemExit, match="dlinear_96_96-seed1"):
        tell(PLAN, {slug: {} for slug in list(PLAN.runs())[:-1]}, Report("plan"))
