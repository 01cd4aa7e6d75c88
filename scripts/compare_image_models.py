"""Compares small image models at equal training time: one plan, resumable runs, one table.

    python scripts/compare_image_models.py scripts/comparisons/imagenette_128.yaml [--runs DIR] [--data-dir DIR]
    python scripts/compare_image_models.py PLAN --into docs/image_models.md

Time is the processor time of a training step on one thread, batch and optimizer included, measured once for all
contestants in turns; each then takes as many steps as fill the plan's time. So neither a busy machine nor a pause
changes a result, and several processes may work on one plan. A run that was killed goes on where it was saved.
"""

import argparse
import fcntl
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_report import Report, markdown  # pyright: ignore[reportAttributeAccessIssue]
from compare_plan import Plan, Run, load_plan, next_runs, read_results  # pyright: ignore[reportAttributeAccessIssue]

from madzoo.data.catalog import find_dataset
from madzoo.data.images import Augmentation, ImageArrays, ImageSteps, image_batches
from madzoo.data.load import load_image_split
from madzoo.training.loop import train
from madzoo.training.losses import cross_entropy
from madzoo.training.recipe import Recipe
from madzoo.training.validation import score_classifier

ROUNDS, TIMED_STEPS = 4, 3
WARMUP_SHARE = 0.1


class FixedSteps:
    """Shows a source as one epoch of so many steps, since equal time means other numbers of steps."""

    def __init__(self, source: ImageSteps, steps: int) -> None:
        self.source, self.steps_per_epoch = source, steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the batch of a step."""
        return self.source[step]


class Comparison:
    """Holds a plan, its folder of runs, and the decoded images."""

    def __init__(self, plan: Plan, folder: Path, data_dir: Path | None) -> None:
        self.plan, self.folder = plan, folder
        self.spec = find_dataset(plan.dataset)
        read = partial(load_image_split, self.spec, folder=data_dir)
        self.parts: dict[str, ImageArrays] = {split: read(split) for split in ("train", "validation", "test")}

    def train(self, run: Run, folder: Path, *, steps: int, on_step: Any = None) -> dict[str, Any]:
        """Trains one contestant; returns its record."""
        recipe = Recipe(
            name=run.slug, dataset=self.plan.dataset, epochs=1, loss="cross_entropy", seed=run.seed, lr=run.rate,
            min_lr=run.rate / 100, warmup_steps=round(WARMUP_SHARE * steps), **self.plan.recipe,
        )  # fmt: skip
        names = ("crop_padding", "flip", "mixup", "cutmix")
        augmentation = Augmentation(**{name: getattr(recipe, name) for name in names})
        pixels: dict[str, Any] = {"mean": self.spec.mean, "std": self.spec.std}
        source = ImageSteps(self.parts["train"], augmentation, **pixels, batch_size=recipe.batch_size, seed=run.seed)
        model = self.plan.build(run.family, run.shape, seed=run.seed)
        loss = partial(cross_entropy, label_smoothing=recipe.label_smoothing)
        result = train(
            model, FixedSteps(source, steps), loss, partial(self.score, split="validation"), recipe, folder,
            on_step=on_step,
        )  # fmt: skip
        record = {name: getattr(run, name) for name in ("family", "shape", "rate", "seed", "final")}
        record |= {"steps": steps, "params": sum(p.numel() for p in model.parameters())}
        record |= {"validation": dict(result.metrics)}
        if run.final:
            model.load_state_dict(dict(result.state))
            record["test"] = self.score(model.eval(), split="test")
        return record

    def score(self, model: torch.nn.Module, *, split: str) -> dict[str, float]:
        """Returns cross-entropy and top-1 accuracy on a part."""
        batches = image_batches(self.parts[split], mean=self.spec.mean, std=self.spec.std, batch_size=250)
        return score_classifier(model, batches)

    def step_seconds(self) -> dict[str, dict[str, float]]:
        """Returns the processor time of a training step of every contestant, measured once, in turns."""
        file = self.folder / "step_seconds.json"
        with locked(self.folder / "step_seconds.lock", wait=True):
            known = json.loads(file.read_text()) if file.exists() else {}
            if any(shape not in known.get(family, {}) for family, shape in self.plan.contestants()):
                file.write_text(json.dumps(join(known, self._measure()), indent=2))
        return json.loads(file.read_text())

    def _measure(self) -> dict[str, dict[str, float]]:
        times: dict[tuple[str, str], list[float]] = {pair: [] for pair in self.plan.contestants()}
        for _ in range(ROUNDS):
            for (family, shape), found in times.items():
                found += self._few_steps(family, shape)
        seconds: dict[str, dict[str, float]] = {}
        for (family, shape), found in times.items():
            seconds.setdefault(family, {})[shape] = statistics.median(found)
        return seconds

    def _few_steps(self, family: str, shape: str) -> list[float]:
        """Returns the times from step to step of the loop itself; the first step, which warms up, is left out."""
        run = Run(family=family, shape=shape, rate=self.plan.rates[0], seed=self.plan.seeds[0], final=False)
        clock: list[float] = []
        parts, self.parts = self.parts, {**self.parts, "validation": self.parts["validation"].take(np.arange(1))}
        try:
            with tempfile.TemporaryDirectory() as folder:
                tick = partial(_tick, clock)
                self.train(run, Path(folder), steps=TIMED_STEPS + 1, on_step=tick)
        finally:
            self.parts = parts
        return [after - before for before, after in pairwise(clock)]

    def work(self) -> None:
        """Does every run of the plan that has no result and that no other process is doing."""
        seconds = self.step_seconds()
        while True:
            runs, complete = next_runs(self.plan, read_results(self.folder))
            if not runs and complete:
                return
            if not any(self._do(run, seconds[run.family][run.shape]) for run in runs):
                time.sleep(10)

    def _do(self, run: Run, step_seconds: float) -> bool:
        folder = self.folder / run.slug
        folder.mkdir(exist_ok=True)
        with locked(folder / "lock", wait=False) as mine:
            if not mine or (folder / "result.json").exists():
                return False
            budget = self.plan.seconds if run.final else self.plan.search_seconds
            started = time.process_time()
            record = self.train(run, folder, steps=round(budget / step_seconds))
            record |= {"step_seconds": step_seconds, "process_seconds": time.process_time() - started}
            (folder / "result.json").write_text(json.dumps(record, indent=2))
            (folder / "state.pt").unlink()
            print(run.slug, record["steps"], record["validation"], record.get("test", ""), flush=True)
        return True


Seconds = Mapping[str, Mapping[str, float]]


def join(known: Seconds, measured: Seconds) -> dict[str, dict[str, float]]:
    """Adds contestants that joined later to the times of the earlier ones.

    All were timed anew; the later ones' times are scaled by how much quicker or slower the earlier ones were this time.
    """
    pairs = [(known[family][shape], measured[family][shape]) for family in known for shape in known[family]]
    scale = statistics.median(before / now for before, now in pairs) if pairs else 1.0
    scaled = {family: {shape: scale * t for shape, t in shapes.items()} for family, shapes in measured.items()}
    return {family: shapes | dict(known.get(family, {})) for family, shapes in scaled.items()}


def _tick(clock: list[float], step: int, loss: float) -> None:
    clock.append(time.process_time())


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock that ends with the process; yields whether it was free."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def tell(plan: Plan, results: Mapping[str, Mapping[str, Any]], report: Report) -> None:
    """Writes the table of the final runs, and that of the search."""
    finals: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in results.values():
        if record["final"]:
            finals.setdefault((record["family"], record["shape"]), []).append(record)
    rows = []
    for (family, shape), records in sorted(finals.items(), key=lambda item: -_mean(item[1], "test")):
        one, n = records[0], len(records)
        told = [family, shape, f"{one['params']:,}", f"{one['rate']:g}", f"{1e3 * one['step_seconds']:.0f}"]
        rows.append([*told, one["steps"], _spread(records, "validation"), _spread(records, "test"), n])
    columns = ["", "shape", "parameters", "learning rate", "ms a step", "steps", "validation", "test", "seeds"]
    sizes = ", ".join(f"{one[part]['n']:,.0f} {part}" for part in ("validation", "test"))
    title = (
        f"{plan.dataset}, {plan.seconds:g} seconds of processor time a run, batches of {plan.recipe['batch_size']}: "
        f"top-1 in %, mean ± sd over seeds; {sizes} images."
    )
    report.tell(markdown(title, columns, rows))
    searched = [record for record in results.values() if not record["final"]]
    searched.sort(key=lambda record: (record["family"], -record["validation"]["top1"]))
    rows = [
        [
            r["family"],
            r["shape"],
            f"{r['params']:,}",
            f"{r['rate']:g}",
            r["steps"],
            f"{100 * r['validation']['top1']:.1f}",
        ]
        for r in searched
    ]
    title = f"The search, {plan.search_seconds:g} seconds a run, seed {plan.seeds[0]}: top-1 in % on validation."
    report.tell(markdown(title, ["", "shape", "parameters", "learning rate", "steps", "validation"], rows))


def _mean(records: list[Mapping[str, Any]], part: str) -> float:
    return statistics.fmean(record[part]["top1"] for record in records)


def _spread(records: list[Mapping[str, Any]], part: str) -> str:
    found = [100 * record[part]["top1"] for record in records]
    return f"{statistics.fmean(found):.2f}" + (f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else "")


def main() -> None:
    """Reads the command line, does what is open, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/compare-<plan>")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--into", type=Path, help="page whose lines NAME:begin and NAME:end enclose the tables of NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.runs or Path("runs") / f"compare-{options.plan.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    plan, report = load_plan(options.plan), Report(options.plan.stem, options.into)
    if next_runs(plan, read_results(folder)) != ([], True):
        Comparison(plan, folder, options.data_dir).work()
    tell(plan, read_results(folder), report)
    report.write()


if __name__ == "__main__":
    main()
