"""The comparisons of small models: what is run when, once each, and what the tables say."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import compare_finetuning
from bench_report import Report
from compare_image_models import Comparison, FixedSteps, join, locked, tell
from compare_plan import Run, load_plan, next_runs, read_results

from madzoo.data.images import Augmentation, ImageArrays, ImageSteps

PLANS = sorted((Path(__file__).parents[1] / "scripts" / "comparisons").glob("*.yaml"))
PLAN = """
dataset: fashion_mnist
seconds: 0.2
search_seconds: 0.1
rates: [0.01, 0.02]
seeds: [0, 1]
recipe: {batch_size: 4, crop_padding: 1, flip: true}
families:
  Weft:
    model: weft_micro_patch4_28
    args: {embed_dim: 8, d_state: 2, dt_rank: 1}
    shapes: {one: {depth: 1}, two: {depth: 2}}
  ViT:
    model: timm/vit_tiny_patch16_224
    args: {img_size: 28, patch_size: 14, in_chans: 1, depth: 1, num_heads: 1}
    shapes: {narrow: {embed_dim: 8}}
"""


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "plan.yaml").write_text(PLAN)
    return load_plan(tmp_path / "plan.yaml")


def score(top1):
    return {"validation": {"top1": top1}}


def test_runs_follow_from_results(plan):
    runs, last = next_runs(plan, {})
    assert not last and [(run.family, run.shape, run.rate, run.final) for run in runs] == [
        ("Weft", "one", 0.01, False), ("Weft", "two", 0.01, False), ("ViT", "narrow", 0.01, False),
    ]  # fmt: skip
    found = {run.slug: score(0.5 + 0.1 * (run.shape == "two")) for run in runs}
    runs, last = next_runs(plan, found)
    assert not last and [(run.shape, run.rate) for run in runs] == [("two", 0.02), ("narrow", 0.02)]
    found |= {runs[0].slug: score(0.1), runs[1].slug: score(0.9)}
    runs, last = next_runs(plan, found)
    assert last and [(run.shape, run.rate, run.seed, run.final) for run in runs] == [
        ("two", 0.01, 0, True), ("two", 0.01, 1, True), ("narrow", 0.02, 0, True), ("narrow", 0.02, 1, True),
    ]  # fmt: skip
    assert next_runs(plan, found | {run.slug: score(0.0) for run in runs}) == ([], True)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plans_compare_like_with_like(path):
    plan = load_plan(path)
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in plan.build(*pair, seed=0).parameters()) for pair in plan.contestants()]
    assert max(sizes) <= 2_000_000 and max(sizes) / min(sizes) < 1.07
    assert len({len(entry["shapes"]) for entry in plan.families.values()}) == 1
    assert len(plan.rates) == len(plan.seeds) == 3


def random_part(count):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return ImageArrays(images=images, labels=torch.arange(count) % 10, num_classes=10)


def test_a_plan_is_worked_off_and_told(tmp_path, plan, monkeypatch):
    monkeypatch.setattr("compare_image_models.load_image_split", lambda spec, part, folder: random_part(20))
    folder = tmp_path / "runs"
    folder.mkdir()
    times = {"Weft": {"one": 0.1, "two": 0.05}, "ViT": {"narrow": 0.02}}
    (folder / "step_seconds.json").write_text(json.dumps(times))
    Comparison(plan, folder, None).work()
    found = read_results(folder)
    assert len(found) == 9 and next_runs(plan, found) == ([], True)
    for record in found.values():
        budget = plan.seconds if record["final"] else plan.search_seconds
        assert record["steps"] == round(budget / times[record["family"]][record["shape"]])
        assert ("test" in record) == record["final"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    Comparison(plan, folder, None).work()
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    page = tmp_path / "page.md"
    page.write_text("<!-- plan:begin -->\n<!-- plan:end -->\n")
    report = Report("plan", page)
    tell(plan, found, report)
    report.write()
    text = page.read_text()
    weft = [record for record in found.values() if record["family"] == "Weft" and record["final"]]
    mean = 50 * sum(record["test"]["top1"] for record in weft)
    assert f"| {mean:.2f} ± " in text and "| ViT | narrow |" in text and "20 validation, 20 test images" in text


def test_step_times_are_measured_for_all_in_turns(tmp_path, plan, monkeypatch):
    monkeypatch.setattr("compare_image_models.load_image_split", lambda spec, part, folder: random_part(20))
    comparison = Comparison(plan, tmp_path, None)
    asked = []
    monkeypatch.setattr(comparison, "_few_steps", lambda *pair: asked.append(pair) or [3.0, 1.0, len(asked)])
    assert comparison.step_seconds() == {"Weft": {"one": 3.0, "two": 3.0}, "ViT": {"narrow": 3.0}}
    assert asked[:3] == asked[3:6] == plan.contestants()
    assert comparison.step_seconds()["ViT"]["narrow"] == 3.0 and len(asked) == 12
    few = Comparison(plan, tmp_path, None)._few_steps("Weft", "one")
    assert len(few) == 3 and all(seconds > 0 for seconds in few)


def test_who_joins_later_is_timed_beside_the_earlier_ones(tmp_path, plan, monkeypatch):
    (tmp_path / "step_seconds.json").write_text(json.dumps({"Weft": {"one": 2.0}}))
    monkeypatch.setattr("compare_image_models.load_image_split", lambda spec, part, folder: random_part(20))
    comparison = Comparison(plan, tmp_path, None)
    monkeypatch.setattr(
        comparison, "_few_steps", lambda family, shape: [{"one": 1.0, "two": 3.0, "narrow": 5.0}[shape]]
    )
    assert comparison.step_seconds() == {"Weft": {"one": 2.0, "two": 6.0}, "ViT": {"narrow": 10.0}}
    assert join({}, {"ViT": {"narrow": 5.0}}) == {"ViT": {"narrow": 5.0}}


def test_a_lock_is_held_by_one_and_ends(tmp_path):
    path = tmp_path / "lock"
    with locked(path, wait=False) as mine, locked(path, wait=False) as theirs:
        assert mine and not theirs
    with locked(path, wait=False) as again:
        assert again


def test_fixed_steps_pass_the_source_on():
    source = ImageSteps(random_part(9), Augmentation(), mean=(0.5,), std=(0.2,), batch_size=4, seed=0)
    fixed = FixedSteps(source, 7)
    assert fixed.steps_per_epoch == 7 and torch.equal(fixed[5][0], source[5][0])


def test_slugs_name_folders():
    run = Run(family="ViT", shape="patch 16, 5 blocks", rate=0.002, seed=1, final=True)
    assert run.slug == "ViT-patch_16__5_blocks-0.002-seed1-final"


def test_fine_tuning_is_told(tmp_path, capsys):
    options = compare_finetuning.argparse.Namespace(model="m", data="d", epochs=2)
    run = {"rate": 0.1, "steps": 8, "process_seconds": 3.0, "n": 50.0}
    tried = [{"rate": 0.1, "top1": 0.5}, {"rate": 0.2, "top1": 0.25}]
    runs = [{**run, "top1": value, "test_top1": value / 2, "tried": tried} for value in (0.4, 0.5, 0.6)]
    compare_finetuning.tell(options, {"fine-tuned": runs}, Report("finetuning"))
    assert (
        "| fine-tuned | 0.1 | 8 | 3 | 50.00 ± 10.00 | 25.00 ± 5.00 | 50.0 at 0.1, 25.0 at 0.2 |"
        in capsys.readouterr().out
    )
