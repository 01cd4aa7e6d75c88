"""Compares forecasters trained by one recipe, on the validation part: one plan, resumable runs, one table.

    python scripts/compare_forecasters.py scripts/comparisons/forecasters/etth1_mixers.yaml [--runs DIR]
    python scripts/compare_forecasters.py PLAN --into docs/forecasters.md

Every model is trained with every seed. The validation part chooses the epoch and gives the score; the test part is not
read. Several processes may work on one plan, and a run that was killed goes on where it was saved.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from bench_report import Report, markdown  # pyright: ignore[reportAttributeAccessIssue]
from compare_image_models import locked  # pyright: ignore[reportAttributeAccessIssue]
from compare_plan import read_results  # pyright: ignore[reportAttributeAccessIssue]

from madzoo.factory import create_model
from madzoo.training.loop import train
from madzoo.training.recipe import Recipe
from madzoo.workflows.training_task import training_task


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecasterPlan:
    """States what is compared; see the files in ``scripts/comparisons/forecasters``.

    Attributes:
        dataset: a name of the data catalog.
        models: names of architectures.
        seeds: of every model's runs.
        recipe: entries of every run's :class:`madzoo.training.recipe.Recipe`.
    """

    dataset: str
    models: Sequence[str]
    seeds: Sequence[int]
    recipe: Mapping[str, Any]

    def runs(self) -> dict[str, Recipe]:
        """Returns the recipe of every run, by the name of its folder; one seed of all models before the next."""
        return {
            f"{model}-seed{seed}": Recipe(name=model, dataset=self.dataset, seed=seed, **self.recipe)
            for seed in self.seeds
            for model in self.models
        }


def load_plan(path: Path) -> ForecasterPlan:
    """Reads a plan."""
    return ForecasterPlan(**yaml.safe_load(path.read_text()))


def train_once(recipe: Recipe, folder: Path, data_dir: Path | None) -> dict[str, Any]:
    """Trains one model, or goes on with it; returns its record. Only an uninterrupted run knows its processor time."""
    whole, started = not (folder / "state.pt").exists(), time.process_time()
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.name)
    task = training_task(model, recipe, folder=data_dir)
    result = train(model, task.source, task.loss, task.validate, recipe, folder)
    seconds = time.process_time() - started if whole else None
    record = {"model": recipe.name, "seed": recipe.seed, "parameters": sum(p.numel() for p in model.parameters())}
    steps = {"steps": result.step, "chosen_step": result.chosen_step}
    return record | steps | {"validation": dict(result.metrics), "process_seconds": seconds}


def work(plan: ForecasterPlan, folder: Path, data_dir: Path | None) -> None:
    """Does every run of the plan that has no result and that no other process is doing."""
    for slug, recipe in plan.runs().items():
        home = folder / slug
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / "lock", wait=False) as mine:
            if not mine or (home / "result.json").exists():
                continue
            record = train_once(recipe, home, data_dir)
            (home / "result.json").write_text(json.dumps(record, indent=2))
            (home / "state.pt").unlink()
            print(slug, record["validation"], flush=True)


def tell(plan: ForecasterPlan, results: Mapping[str, Mapping[str, Any]], report: Report) -> None:
    """Writes the table, the smallest squared error first.

    Raises:
        SystemExit: when a run is missing: no seed is left out.
    """
    if missing := [slug for slug in plan.runs() if slug not in results]:
        raise SystemExit(f"not trained yet: {', '.join(missing)}")
    rows = {}
    for model in plan.models:
        records = [results[f"{model}-seed{seed}"] for seed in plan.seeds]
        errors = {name: [record["validation"][name] for record in records] for name in ("mse", "mae")}
        seconds = [record["process_seconds"] for record in records if record["process_seconds"] is not None]
        chosen = ", ".join(f"{record['chosen_step']:,}" for record in records)
        cells = [model, f"{records[0]['parameters']:,}", *map(_spread, errors.values()), chosen]
        rows[model] = (
            statistics.fmean(errors["mse"]),
            [*cells, f"{statistics.median(seconds):.0f}" if seconds else ""],
        )
    windows = int(results[next(iter(plan.runs()))]["validation"]["n"])
    title = (
        f"{plan.dataset}, validation: errors of the median in z-scores of the training rows, {windows:,} windows, "
        f"mean ± sd over seeds {', '.join(map(str, plan.seeds))}."
    )
    columns = ["", "parameters", "MSE", "MAE", "chosen steps", "processor seconds"]
    report.tell(markdown(title, columns, [row for _, row in sorted(rows.values())]))


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    """Reads the command line, does what is open, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/compare-<plan>")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--into", type=Path, help="page whose lines NAME:begin and NAME:end enclose the table of NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.runs or Path("runs") / f"compare-{options.plan.stem}"
    plan, report = load_plan(options.plan), Report(options.plan.stem, options.into)
    work(plan, folder, options.data_dir)
    tell(plan, read_results(folder), report)
    report.write()


if __name__ == "__main__":
    main()
