"""Times whole models end to end: ours by each path, beside timm's; alternating runs in one process, medians.

    python scripts/bench_models.py [--threads 1 2] [--batches 1 8] [--data-dir DIR] [--json FILE] [--plot FILE]
    python scripts/bench_models.py --plot docs/bench_models.png --into docs/performance.md

Inference of a Vim beside DeiT, MambaOut and a ResNet; a training step of small image models with the kernels and
without; a forecaster. With ``--data-dir`` (or MADZOO_DATA_DIR) also how often an optimised bundled classifier names
the class of the plain one. Prints one Markdown table.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from bench_peers import mamba_selective_scan, transformers_scan  # pyright: ignore[reportAttributeAccessIssue]
from bench_report import Report, describe_machine, dot_plot, markdown

from madzoo.data.catalog import find_dataset
from madzoo.data.images import image_batches
from madzoo.data.load import load_image_split
from madzoo.errors import DataError
from madzoo.factory import create_model
from madzoo.inference import optimize_for_cpu
from madzoo.layers import mamba
from madzoo.workflows.bench import BenchResult, measure_times
from madzoo.workflows.bench_step import BenchSetup, Step, prepare

VIM, QUICK_VIM = "vim_tiny_patch16_224", "weft_micro_patch4_32"
BASELINES = ("timm/deit_tiny_patch16_224", "timm/mambaout_femto", "timm/resnet18")
TRAINED, TRAINING_BATCH = ("vim_nano_patch4_32", "weft_micro_patch4_28"), 128  # half a million parameters each
FORECASTER, SERIES_BATCH = "patch_s4d_small_672_168", 32
CLASSIFIER, DATASET = "weft_micro_patch4_32.cifar10", "cifar10"
FOREIGN_SCAN = "transformers' scan"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOLERANCE = 1e-4  # of the logits with the other scan, relative to the largest


def inference(name: str, batch: int, *, baselines: tuple[str, ...] = BASELINES) -> dict[str, Step]:
    """Returns one call of every contestant: the model by each of its paths, then the baselines."""
    plain = BenchSetup(model=name, batch=batch)
    setups = {
        name: plain,
        f"{name}, optimised": replace(plain, optimize=True),
        f"{name}, optimised, bfloat16": replace(plain, optimize=True, dtype="bfloat16"),
        f"{name}, without the kernels": replace(plain, kernels=False),
    }
    steps = {label: prepare(setup) for label, setup in setups.items()}
    if mamba_selective_scan is not None and name == VIM:
        steps[f"{name}, {FOREIGN_SCAN}"] = with_foreign_scan(steps[name], as_in_mixer=True)
        steps[f"{name}, {FOREIGN_SCAN}, channel-last"] = with_foreign_scan(steps[name], as_in_mixer=False)
    return steps | {baseline: prepare(replace(plain, model=baseline)) for baseline in baselines}


def with_foreign_scan(step: Step, *, as_in_mixer: bool) -> Step:
    """Returns the same model on the same input with transformers' scan in every layer, and nothing else changed.

    Args:
        step: the model with our scan.
        as_in_mixer: hand the scan the memory it has in its own layer, else the memory our layers have.

    Raises:
        SystemExit: when the outputs differ, or no layer used it.
    """
    uses = []

    def scan(*args: torch.Tensor, **options: bool) -> torch.Tensor:
        uses.append(1)
        return transformers_scan(*args, **options, as_in_mixer=as_in_mixer)  # type: ignore[arg-type]

    @contextmanager
    def plugged_in() -> Iterator[None]:
        with patch.object(mamba, "selective_scan", scan):
            yield

    def run() -> object:
        with plugged_in():
            return step.run()

    ours, theirs = step(), run()
    assert isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor)  # noqa: PT018
    error = ((ours - theirs).abs().max() / ours.abs().max()).item()
    if not uses or error > TOLERANCE:
        raise SystemExit(f"the model with {FOREIGN_SCAN} used it {len(uses)} times and deviates by {error:.1e}")
    return replace(step, run=run)


def training(name: str, batch: int) -> dict[str, Step]:
    """Returns one training step under bfloat16 autocast, with the kernels and without."""
    setup = BenchSetup(model=name, batch=batch, dtype="bfloat16", train=True)
    lean = replace(setup, kernels=False)
    return {f"{name}, training": prepare(setup), f"{name}, training without the kernels": prepare(lean)}


def forecasting(batch: int) -> dict[str, Step]:
    """Returns one call of a forecaster, plain and optimised."""
    setup = BenchSetup(model=FORECASTER, batch=batch)
    return {FORECASTER: prepare(setup), f"{FORECASTER}, optimised": prepare(replace(setup, optimize=True))}


def measure(args: argparse.Namespace) -> list[tuple[str, BenchResult]]:
    """Times each group at each number of threads; only what stands in one group is compared."""
    found = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for batch in args.batches:
            baselines = BASELINES[-1:] if args.quick else BASELINES
            found += timed(inference(QUICK_VIM if args.quick else VIM, batch, baselines=baselines), args)
        for name in TRAINED:
            found += timed(training(name, 4 if args.quick else TRAINING_BATCH), args)
        found += timed(forecasting(2 if args.quick else SERIES_BATCH), args)
    return found


def timed(steps: dict[str, Step], args: argparse.Namespace) -> list[tuple[str, BenchResult]]:
    """Times one group in turns."""
    clock = CLOCKS[args.clock]
    results = measure_times(list(steps.values()), rounds=args.rounds, budget=40, clock=clock)
    return list(zip(steps, results, strict=True))


def agreement(folder: Path | None) -> dict[str, float] | None:
    """Returns how often optimised copies of a bundled classifier name its class on validation images; None: no data."""
    data = find_dataset(DATASET)
    try:
        images = load_image_split(data, "validation", folder=folder)
    except DataError:
        return None
    model = create_model(CLASSIFIER, pretrained=True).eval()
    dtypes = (torch.float32, torch.bfloat16)
    copies = {f"{dtype}".removeprefix("torch."): optimize_for_cpu(model, dtype=dtype) for dtype in dtypes}
    same, total = dict.fromkeys(copies, 0), 0
    with torch.inference_mode():
        for batch, _ in image_batches(images, mean=data.mean, std=data.std, batch_size=250):
            classes, total = model(batch).argmax(-1), total + len(batch)
            for name, fast in copies.items():
                same[name] += int((fast(batch).argmax(-1) == classes).sum())
    return {name: count / total for name, count in same.items()} | {"n": total}


def table(found: list[tuple[str, BenchResult]], clock: str) -> str:
    """Shows samples per second and milliseconds by threads, one row per model and batch."""
    threads = list(dict.fromkeys(result.threads for _, result in found))
    rows: dict[tuple[str, int], dict[int, BenchResult]] = {}
    for name, result in found:
        rows.setdefault((name, result.setup.batch), {})[result.threads] = result
    lines = []
    for (name, batch), by_threads in sorted(rows.items(), key=lambda row: (row[0][1], -fastest(row[1]))):
        cells = [f"{r.per_second:.3g} ({r.milliseconds:.4g} ms)" if r else "" for r in map(by_threads.get, threads)]
        unit = next(iter(by_threads.values())).unit
        lines.append([name, batch, unit, *cells])
    columns = ["model", "batch", "unit", *(f"{n} thread{'s' if n > 1 else ''}, per second" for n in threads)]
    return markdown(f"Whole models, float32 unless said, medians, {clock} clock", columns, lines)


def fastest(by_threads: dict[int, BenchResult]) -> float:
    """Returns the largest throughput, by which the rows are sorted."""
    return max(result.per_second for result in by_threads.values())


def draw(found: list[tuple[str, BenchResult]], path: Path) -> None:
    """Draws the images per second of the inference rows."""
    cases: dict[str, dict[str, float]] = {}
    for name, result in found:
        if result.unit == "images" and not result.setup.train:
            case = f"batch {result.setup.batch}, {result.threads} thread{'s' if result.threads > 1 else ''}"
            cases.setdefault(case, {})[name] = result.per_second
    ours = {name for name, _ in found if not name.startswith("timm/") and FOREIGN_SCAN not in name}
    dot_plot(path, cases, label="images per second", title="Inference on a CPU, 224 x 224", filled=ours)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, help="turns that count; default: what fits into 40 s a group, at least 5")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: time of this process, all threads")
    parser.add_argument("--data-dir", type=Path, help="folder of Parquet data sets, for the agreement in bfloat16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--into", type=Path, help="page between whose markers the table is written")
    parser.add_argument("--quick", action="store_true", help="small models and batches: does everything run?")
    return parser.parse_args()


def main() -> None:
    """Prints the table; writes the numbers and the plot where asked."""
    args = parse()
    report = Report("bench_models", args.into)
    found = measure(args)
    report.tell(table(found, args.clock))
    agreed = None if args.quick else agreement(args.data_dir)
    if agreed:
        shares = ", ".join(f"{name} {share:.2%}" for name, share in agreed.items() if name != "n")
        report.tell(f"Optimised copies of {CLASSIFIER} name its class on {agreed['n']} validation images: {shares}.")
    if args.json:
        results = [{"name": name, **result.to_dict()} for name, result in found]
        args.json.write_text(
            json.dumps({"machine": describe_machine(), "results": results, "agreement": agreed}, indent=2) + "\n"
        )
    if args.plot:
        draw(found, args.plot)
    report.write(picture=args.plot)


if __name__ == "__main__":
    main()
