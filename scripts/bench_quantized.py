"""Quantizes bundled checkpoints in several ways, and tables what each loses on the validation part.

    python scripts/bench_quantized.py [NAMES] --ways rtn8 rtn4 gauge4 qat4 --out FILE.json [--draws 3] [--steps 500]

A way is a method and the bits of the matrices: ``rtn``, ``bias_corrected``, ``gauge``, ``mixed`` or ``qat``; 2 bits are
ternary. Vectors and the recurrence have 8 bits. Every run is a call of ``madzoo quantize``, its folder under ``runs``;
methods that calibrate run once per draw (the seed), rounding to nearest and training once. What FILE holds already is
not run again, so the script goes on where it was stopped; ``--table`` prints the table of it and runs nothing. The test
part is never looked at.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from madzoo.factory import list_models
from madzoo.workflows.quantize import quantize

CALIBRATED = ("bias_corrected", "gauge", "mixed")
METHODS = ("rtn", *CALIBRATED, "qat")
METRICS = {"top1": "top-1", "mse": "MSE", "mae": "MAE"}  # of a validation, the first that it has


def main() -> None:
    """Runs what FILE lacks, and prints the table."""
    args = _arguments()
    records = json.loads(args.out.read_text()) if args.out.exists() else []
    for name in [] if args.table else args.names:
        for way in args.ways:
            method, bits = _parse(way)
            for seed in range(args.draws if method in CALIBRATED else 1):
                key = {
                    "name": name,
                    "method": method,
                    "bits": bits,
                    "seed": seed,
                    "group_size": args.group_size or None,
                }
                if any(all(record[k] == v for k, v in key.items()) for record in records):
                    continue
                records.append(key | _run(args, key))
                args.out.write_text(json.dumps(records, indent=1) + "\n")
                print(json.dumps({k: v for k, v in records[-1].items() if k != "record"}), flush=True)
    print(_table(records))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list_models(pretrained=True))
    parser.add_argument("--ways", nargs="+", default=["rtn8", "rtn4", "qat4"], metavar="METHODBITS")
    parser.add_argument("--draws", type=int, default=3, help="of calibration data")
    parser.add_argument("--group-size", type=int, default=64, help="0: one scale per row")
    parser.add_argument("--steps", type=int, help="of a training; default: an epoch")
    parser.add_argument("--lr", type=float, help="of a training")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only print the table of FILE")
    args = parser.parse_args()
    for way in args.ways:
        _parse(way)
    if args.draws < 1 or args.group_size < 0:
        parser.error("--draws is at least 1, --group-size at least 0")
    return args


def _parse(way: str) -> tuple[str, int]:
    found = re.fullmatch(rf"({'|'.join(METHODS)})([2-8])", way)
    if not found:
        raise SystemExit(f"no way {way!r}: one of {', '.join(METHODS)} and 2 to 8 bits, for instance qat4")
    return found[1], int(found[2])


def _run(args: argparse.Namespace, key: dict[str, Any]) -> dict[str, Any]:
    start, is_trained = time.perf_counter(), key["method"] == "qat"
    choices: dict[str, Any] = {"steps": args.steps, "lr": args.lr} if is_trained else {"policy": key["method"]}
    place = f"runs/quantized/{key['name']}-{key['method']}{key['bits']}-g{key['group_size'] or 0}-seed{key['seed']}"
    run_dir: dict[str, Any] = {"run_dir": f"{place}-run"} if is_trained else {}
    found = quantize(
        key["name"], bits=key["bits"], qat=is_trained, group_size=key["group_size"], seed=key["seed"],
        data_dir=args.data_dir, out=place, **choices, **run_dir,
    )  # fmt: skip
    return {
        "before": dict(found.before),
        "after": dict(found.after),
        "ratio": found.packed_bytes / found.float_bytes,
        "float_bytes": found.float_bytes,
        "seconds": round(time.perf_counter() - start, 1),
        "steps": found.training.step if found.training else None,
        "record": dict(found.record),
    }


def _table(records: Sequence[dict[str, Any]]) -> str:
    """Returns Markdown: a checkpoint a row, a way a column; of several draws mean and standard deviation."""
    ways = sorted({(r["bits"], METHODS.index(r["method"])) for r in records}, key=lambda way: (-way[0], way[1]))
    heads = [f"{METHODS[m]} {'ternary' if bits == 2 else f'{bits} bits'}" for bits, m in ways]
    lines = [["checkpoint", "metric, n", "float32", *heads], ["---"] * (3 + len(heads))]
    for name in dict.fromkeys(r["name"] for r in records):
        mine = [r for r in records if r["name"] == name]
        metric = next(m for m in METRICS if m in mine[0]["before"])
        cells = [_cell([r for r in mine if (r["bits"], METHODS.index(r["method"])) == way], metric) for way in ways]
        n = mine[0]["before"].get("n")
        count = f", {n:,.0f}" if n else ""
        lines.append([f"`{name}`", f"{METRICS[metric]}{count}", f"{mine[0]['before'][metric]:.4f}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(records: Sequence[dict[str, Any]], metric: str) -> str:
    """What is lost, points of top-1 or per cent of an error, and of a descent the gauge steps kept."""
    if not records:
        return ""
    pairs = [(r["before"][metric], r["after"][metric]) for r in records]
    lost = [100 * (a - b) if metric == "top1" else 100 * (b / a - 1) for a, b in pairs]
    spread = f" ± {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
    tried = [s for r in records if r["method"] != "qat" for s in r["record"]["steps"]]
    steps = [s for s in tried if s["step"] == "gauge"]
    kept = f" ({sum(s['kept'] for s in steps)} of {len(steps)} steps)" if steps else ""
    return f"{statistics.mean(lost):+.2f}{spread}{kept}"


if __name__ == "__main__":
    main()
