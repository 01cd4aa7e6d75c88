"""Compares fine-tuning with training from scratch: one network, the same steps, so the same time.

    python scripts/compare_finetuning.py [--model NAME] [--data NAME] [--epochs N] [--data-dir DIR] [--runs DIR]
    python scripts/compare_finetuning.py --into docs/finetuning.md

Either way of training gets its learning rate from the same three, chosen on the validation part with the first seed;
the choice is repeated with the other seeds, and only these runs meet the test part, once. Runs that are finished are
not repeated, and one that was killed goes on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench_report import Report, markdown  # pyright: ignore[reportAttributeAccessIssue]

from madzoo.data.catalog import find_dataset
from madzoo.data.image_files import PictureFormat
from madzoo.data.images import image_batches
from madzoo.data.load import load_image_split
from madzoo.evaluation.classification import evaluate_classifier
from madzoo.factory import create_model
from madzoo.workflows.finetune import finetune_to_folder
from madzoo.workflows.finetune_data import resize_images

MODEL, DATA, EPOCHS = "weft_micro_patch4_32.cifar10", "imagenette_128", 3
RATES, SEEDS = (0.001, 0.002, 0.004), (0, 1, 2)
WAYS = {"fine-tuned": True, "from scratch": False}


def train_once(options: argparse.Namespace, way: str, rate: float, seed: int) -> dict[str, Any]:
    """Trains one network, or reads what an earlier call found; returns its record."""
    folder = options.runs / f"{way.replace(' ', '-')}-{rate}-seed{seed}"
    file = folder / "result.json"
    if not file.exists():
        started = time.process_time()
        found = finetune_to_folder(
            options.model, options.data, run_dir=folder, pretrained=WAYS[way], data_dir=options.data_dir,
            epochs=options.epochs, lr=rate, precision="bf16", seed=seed,
        )  # fmt: skip
        training = found.training
        record = {"way": way, "rate": rate, "seed": seed, "steps": training.step, **dict(training.metrics)}
        file.write_text(json.dumps(record | {"process_seconds": time.process_time() - started}, indent=2))
        print(file.read_text(), flush=True)
    return json.loads(file.read_text()) | {"folder": folder}


def test_once(options: argparse.Namespace, record: Mapping[str, Any]) -> float:
    """Returns the top-1 accuracy on the test part, measured when first asked for."""
    file = record["folder"] / "test.json"
    if not file.exists():
        model: Any = create_model(f"local-dir:{record['folder'] / 'checkpoint'}")
        cfg = model.pretrained_cfg
        form = PictureFormat(
            size=tuple(cfg["input_size"]), crop_pct=cfg["crop_pct"], interpolation=cfg["interpolation"]
        )
        data = resize_images(load_image_split(find_dataset(options.data), "test", folder=options.data_dir), form)
        pixels = {name: tuple(cfg[name]) for name in ("mean", "std")}
        scores = evaluate_classifier(model, image_batches(data, **pixels, batch_size=250))
        file.write_text(json.dumps({"n": scores.n, **scores.metrics}, indent=2))
        print(file.read_text(), flush=True)
    return json.loads(file.read_text())["top1"]


def compare(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Returns, for each way, the runs at its chosen rate, with their test accuracy."""
    found = {}
    for way in WAYS:
        tried = [train_once(options, way, rate, SEEDS[0]) for rate in RATES]
        best = max(tried, key=lambda record: record["top1"])["rate"]
        runs = [train_once(options, way, best, seed) for seed in SEEDS]
        found[way] = [{**run, "test_top1": test_once(options, run), "tried": tried} for run in runs]
    return found


def tell(options: argparse.Namespace, found: Mapping[str, list[dict[str, Any]]], report: Report) -> None:
    """Writes the table."""
    rows = []
    for way, runs in found.items():
        tried = ", ".join(f"{100 * record['top1']:.1f} at {record['rate']}" for record in runs[0]["tried"])
        cells = [_spread([run[key] for run in runs]) for key in ("top1", "test_top1")]
        seconds = statistics.median(run["process_seconds"] for run in runs)
        rows.append([way, runs[0]["rate"], runs[0]["steps"], f"{seconds:.0f}", *cells, tried])
    columns = ["", "learning rate", "steps", "processor seconds", "validation", "test", "validation of every rate"]
    seeds = ", ".join(map(str, SEEDS))
    count = f"{int(found['fine-tuned'][0]['n']):,} pictures"
    title = (
        f"`{options.model}` on {options.data}, {options.epochs} epochs: top-1 in %, mean ± sd over seeds {seeds}; "
        f"validation on {count} held out of the training part, by which rate and step were chosen."
    )
    report.tell(markdown(title, columns, rows))


def _spread(values: list[float]) -> str:
    return f"{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f}"


def main() -> None:
    """Reads the command line, trains what is missing, and tells what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/finetune-<model>-on-<data>")
    parser.add_argument(
        "--into", type=Path, help="page whose lines finetuning:begin and finetuning:end enclose the table"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs = options.runs or Path("runs") / f"finetune-{options.model}-on-{options.data}"
    report = Report("finetuning", options.into)
    tell(options, compare(options), report)
    report.write()


if __name__ == "__main__":
    main()
