"""Measures what post-training quantization of bundled checkpoints loses, on held-out data, over calibration draws.

    python scripts/bench_ptq.py [NAMES] [--bits 4] [--draws 3] [--data-dir DIR] [--samples 2000] [--out FILE]

Matrices at ``--bits``, delicate tensors at 8 bits. Calibration samples are drawn from the training part, once per draw;
the numbers come from the validation part, never the test part. Rounding to nearest needs no calibration and has no
spread. The metric is top-1 (points), or the MSE of the mean forecast (per cent of the unrounded model's).
"""

import argparse
import copy
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from madzoo.data.catalog import DatasetSpec, find_dataset
from madzoo.data.images import image_batches
from madzoo.data.load import load_image_split
from madzoo.data.windows import Borders, split_windows
from madzoo.factory import create_model
from madzoo.quantization import PostTraining, post_training
from madzoo.quantization.calibration import Calibration
from madzoo.quantization.plan import make_plan, quantized_parameters, stored_bits
from madzoo.training.losses import cross_entropy, pinball
from madzoo.workflows.training_task import table_values

NAMES = ("weft_micro_patch8_32.cifar10", "patch_s4d_nano_512_96.etth1", "patch_s4d_tiny_512_96.weather")
CALIBRATION = 256
VALIDATION_SEED = 0
POLICIES = ("rtn", "bias_corrected", "gauge")
Batches = list[tuple[Tensor, Tensor]]
Draw = Callable[[str, int, int], Batches]  # split, number of samples, seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A checkpoint with its data.

    Attributes:
        model: in eval mode.
        held_out: validation batches.
        loss: (outputs, targets) -> the mean over samples.
        is_top1: whether the metric is top-1, else the MSE of the mean forecast.
        calibration: seed -> batches of the training part.
    """

    model: Any
    held_out: Sequence[tuple[Tensor, Tensor]]
    loss: Callable[[Any, Tensor], Tensor]
    is_top1: bool
    calibration: Callable[[int], Batches]

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """Returns the metric of a rounded model on the held-out data: top-1 in per cent, or the MSE."""
        total, count = 0.0, 0
        for x, y in self.held_out:
            found = model(x)
            hits = found.argmax(-1) == y if self.is_top1 else (found.mean(-1) - y).square().flatten(1).mean(1)
            total, count = total + float(hits.double().sum()), count + len(x)
        return 100 * total / count if self.is_top1 else total / count

    def held_out_loss(self, model: nn.Module) -> float:
        """Returns the loss on the held-out data, which tells finer differences than top-1."""
        return Calibration(batches=self.held_out, loss_fn=self.loss).loss(model)

    def lost(self, exact: float, found: float) -> float:
        """Returns points of top-1, or per cent of MSE; positive is worse."""
        return exact - found if self.is_top1 else 100 * (found / exact - 1)


def load_task(name: str, *, samples: int, folder: Path | None) -> Task:
    """Loads a bundled checkpoint, validation data, and the way to draw calibration data."""
    model: Any = create_model(name, pretrained=True).eval()
    spec = find_dataset(model.pretrained_cfg["dataset"])
    draw = _images(model, spec, folder) if spec.task == "image-classification" else _windows(model, spec, folder)
    return Task(
        model=model,
        held_out=draw("validation", samples, VALIDATION_SEED),
        loss=cross_entropy if spec.task == "image-classification" else _pinball_of(model),
        is_top1=spec.task == "image-classification",
        calibration=lambda seed: draw("train", CALIBRATION, seed),
    )


def _images(model: Any, spec: DatasetSpec, folder: Path | None) -> Draw:
    pixels = {key: tuple(model.pretrained_cfg[key]) for key in ("mean", "std")}

    load = functools.cache(lambda split: load_image_split(spec, split, folder=folder))

    def draw(split: str, count: int, seed: int) -> Batches:
        images = load(split)
        rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
        return list(image_batches(images.take(rows), **pixels, batch_size=CALIBRATION))

    return draw


def _windows(model: Any, spec: DatasetSpec, folder: Path | None) -> Draw:
    values = table_values(spec, folder)
    borders = spec.borders or Borders.from_ratio(len(values))
    lengths = {"context_length": model.context_length, "prediction_length": model.prediction_length}

    def draw(split: str, count: int, seed: int) -> Batches:
        windows = split_windows(values, borders, split, **lengths)
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(windows))[:count])
        return [windows[part] for part in rows.sort().values.split(64)]

    return draw


def _pinball_of(model: Any) -> Callable[[Any, Tensor], Tensor]:
    levels = tuple(model.quantile_levels)
    return lambda quantiles, target: pinball(quantiles, target.to(quantiles.dtype), levels)


def kept_steps(found: PostTraining) -> dict[str, Any]:
    """Counts, by gauge, the steps tried and kept, and tells what each kind of step did to the calibration loss."""
    gauges: dict[str, list[int]] = {}
    for step in found.steps:
        if step["step"] == "gauge":
            tried = gauges.setdefault(step["gauge"], [0, 0])
            tried[0] += 1
            tried[1] += step["kept"]
    bias = [step for step in found.steps if step["step"] == "bias_correction"]
    return {"gauges": gauges, "bias_correction": bias[0]["kept"] if bias else None}


def measure(task: Task, name: str, args: argparse.Namespace, *, done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rounds a checkpoint in every way; one record per way and draw, written as they come, after those ``done``."""
    exact, count = task.score(task.model), sum(len(x) for x, _ in task.held_out)
    exact_loss = task.held_out_loss(task.model)
    records: list[dict[str, Any]] = []
    for policy in args.policies:
        for observer in ("min_max", "mse") if policy == "rtn" else ("mse",):
            for group_size in (size or None for size in args.groups):
                plan = make_plan(task.model, args.bits, group_size=group_size)
                for seed in range(1 if policy == "rtn" else args.draws):
                    start = time.perf_counter()
                    data: dict[str, Any] = {"calibration": task.calibration(seed), "loss_fn": task.loss}
                    data = {} if policy == "rtn" else {**data, "seed": seed, "max_steps": args.max_steps}
                    found = post_training(copy.deepcopy(task.model), plan, policy=policy, observer=observer, **data)
                    seconds = time.perf_counter() - start
                    value, loss = task.score(found.model), task.held_out_loss(found.model)
                    records.append({
                        "name": name, "bits": args.bits, "policy": policy, "observer": observer,
                        "group_size": group_size, "seed": seed, "n": count, "exact": exact, "value": value,
                        "lost": task.lost(exact, value), "loss": loss, "exact_loss": exact_loss,
                        "seconds": round(seconds, 1),
                        "stored": stored_bits(quantized_parameters(task.model), plan), **kept_steps(found),
                        "steps": list(found.steps),
                    })  # fmt: skip
                    if args.out:
                        args.out.write_text(json.dumps([*done, *records], indent=1) + "\n")
                    print(json.dumps({k: v for k, v in records[-1].items() if k != "steps"}), flush=True)
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table, one row per checkpoint and way, mean and deviation over draws."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault((r["name"], r["bits"], r["policy"], r["observer"], r["group_size"]), []).append(r)
    lines = [
        "| checkpoint | bits | policy | observer | group | unrounded | lost (points, % MSE) | loss rises by "
        "| worse than rtn | kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = {key: rows[0]["lost"] for key, rows in groups.items() if key[2] == "rtn"}
    for (name, bits, policy, observer, group_size), rows in groups.items():
        lost = [r["lost"] for r in rows]
        rises = [r["loss"] - r["exact_loss"] for r in rows]
        spread = f" ± {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
        base = plain.get((name, bits, "rtn", observer, group_size))
        worse = "" if policy == "rtn" or base is None else f"{sum(x > base for x in lost)} of {len(lost)}"
        steps = "; ".join(f"{g} {sum(r['gauges'][g][1] for r in rows if g in r['gauges'])} of "
                          f"{sum(r['gauges'][g][0] for r in rows if g in r['gauges'])}"
                          for g in sorted({g for r in rows for g in r["gauges"]}))  # fmt: skip
        lines.append(
            f"| {name} | {bits} | {policy} | {observer} | {group_size or 'row'} | {rows[0]['exact']:.4g} | "
            f"{statistics.mean(lost):.2f}{spread} | {statistics.mean(rises):.5f} | {worse} | {steps} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, and writes the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--groups", type=int, nargs="+", default=[0, 32], help="group sizes; 0: one scale per row")
    parser.add_argument("--max-steps", type=int, default=80)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    records: list[dict[str, Any]] = []
    for name in args.names:
        records += measure(load_task(name, samples=args.samples, folder=args.data_dir), name, args, done=records)
    print(f"\nn = {records[0]['n']} validation samples, {CALIBRATION} calibration samples a draw.\n\n{table(records)}")


if __name__ == "__main__":
    main()
