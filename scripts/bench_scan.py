"""Times the selective scan beside what a user would run instead: medians of alternating runs in one process.

    python scripts/bench_scan.py [--threads 1] [--mamba-ref FILE] [--only forward ...] [--json FILE] [--plot FILE]
    python scripts/bench_scan.py --mamba-ref FILE --plot docs/bench_scan.png --into docs/performance.md

Prints Markdown tables: the limits of the machine, forward, forward with backward, growth with the length, error against
float64, memory. Peers run when they are importable (transformers, mambapy, assoc-scan); ``--mamba-ref`` is the
published file that defines ``selective_scan_ref``. Sizes are (B, D, L, N); ``--quick`` tries everything on a small one.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_limits import limits
from bench_peers import Variant, our_variants, peer_variants
from bench_report import Report, describe_machine, dot_plot, geometric_mean, markdown, timed_cell
from bench_scan_measure import Size, errors, growth, hot, memory, peak, served, stepping, time_pairs, time_variants

FORWARD: tuple[Size, ...] = ((8, 384, 197, 16), (1, 384, 197, 16), (4, 128, 2048, 16), (1, 1536, 512, 16))
TRAINING: tuple[Size, ...] = ((8, 384, 197, 16), (32, 256, 96, 16))
QUICK: tuple[Size, ...] = ((2, 32, 33, 16),)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
IN_MEMORY = ("madzoo cpu", "madzoo cpu, [B,D,L]", "madzoo torch", "mambapy pscan", "transformers")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
POSITIONS = (0, 1000, 10000)
OURS = ("cpu", "torch", "reference")
SECTIONS = ("limits", "forward", "training", "growth", "steps", "error", "memory")


def measure(variants: list[Variant], args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Runs the sections asked for; tells each one's table as soon as it is known."""
    ours = [variant for variant in variants if variant.ours]
    main, lengths = (QUICK[0], LENGTHS[:2]) if args.quick else (FORWARD[0], LENGTHS)
    options = ["--threads", str(args.threads), *(["--mamba-ref", str(args.mamba_ref)] if args.mamba_ref else [])]
    found: dict[str, Any] = {}
    clock = CLOCKS[args.clock]
    if "limits" in args.only:
        speeds = {variant.name: hot(variant, main, rounds=args.rounds or 50, clock=clock) for variant in ours[:2]}
        found["limits"] = {"machine": limits(), "hot": speeds, "size": main}
        tell(limits_table(found["limits"]))
    for section, sizes in (("forward", FORWARD), ("training", TRAINING)):
        if section in args.only:
            names, training = [variant.name for variant in variants], section == "training"
            timing = [*options, "--clock", args.clock, *(["--rounds", str(args.rounds)] if args.rounds else [])]
            found[section] = {
                str(size): time_pairs(names, size, training=training, options=timing)
                for size in (QUICK if args.quick else sizes)
            }
            tell(times_table(section, found[section], args))
    if "growth" in args.only:
        found["growth"] = {
            "variant": ours[0].name,
            "seconds": growth(ours[0], lengths, rounds=args.rounds or 25, clock=clock),
        }
        tell(growth_table(found["growth"]))
    if "steps" in args.only:
        found["steps"] = stepping(POSITIONS[:2] if args.quick else POSITIONS)
        rows = [[position, f"{1e6 * seconds:.0f}"] for position, seconds in found["steps"].items()]
        tell(markdown("One streamed step of Mamba(192), batch 1", ["steps made before", "median µs"], rows))
    if "error" in args.only:
        found["error"] = errors(variants, main)
        rows = [[name, f"{forward:.1e}", f"{worst:.1e}"] for name, (forward, worst) in found["error"].items()]
        title = f"Largest error against float64, relative to the largest value, {main}"
        tell(markdown(title, ["path", "forward", "worst gradient"], rows))
    if "memory" in args.only:
        names = [variant.name for variant in variants if variant.name in IN_MEMORY]
        found["memory"] = {name: memory(name, main, *options) for name in names}
        tell(memory_table(found["memory"], main))
    return found


def measure_as_child(args: argparse.Namespace) -> Any:
    """Measures one variant: the peak of its memory, or its time in turns with the first of ours."""
    name, what, *numbers = args.peak or args.pair
    batch, channels, length, states = map(int, numbers)
    size, training = (batch, channels, length, states), what == "training"
    if args.peak:
        return peak(name, what, size, args.mamba_ref)
    first, *others = served(our_variants(OURS) + peer_variants(args.mamba_ref))
    pair = [first, *(variant for variant in others if variant.name == name)]
    return time_variants(pair, size, training=training, rounds=args.rounds, clock=CLOCKS[args.clock])


def limits_table(found: dict[str, Any]) -> str:
    """Shows the machine's rates, and ours as a share of the limit of state updates."""
    machine, rows = found["machine"], []
    bound = next((rate for name, rate in machine.items() if name.startswith("state updates")), None)
    for name, rate in machine.items():
        rows.append([name, f"{rate / 1e9:.3g} G/s", ""])
    for name, rates in found["hot"].items():
        for what, words in (("forward", "forward"), ("training", "forward and backward")):
            share = f"{rates[what] / bound:.0%}" if bound else ""
            rows.append([f"{name}, {words}, state updates", f"{rates[what] / 1e9:.3g} G/s", share])
    title = f"Limits of one core, and what is reached at {found['size']} when nothing else runs in between"
    return markdown(title, ["what", "rate", "share of the limit"], rows)


def times_table(section: str, found: dict[str, Any], args: argparse.Namespace) -> str:
    """Shows medians by path and size, each with its ratio to the first of ours."""
    names = list(next(iter(found.values()))["seconds"])
    columns = [f"{size}, n = {'-'.join(map(str, sorted(set(entry['rounds']))))}" for size, entry in found.items()]
    rows = []
    for name in names:
        cells = [timed_cell(entry["seconds"][name], entry["ratios"][name]) for entry in found.values()]
        rows.append([name, *cells])
    what = "Forward" if section == "forward" else "Forward and backward"
    title = f"{what}: median ms ({args.clock} clock, {args.threads} thread(s)), and times as long as {names[0]}"
    return markdown(title, ["path", *columns], rows)


def growth_table(found: dict[str, Any]) -> str:
    """Shows time against length, with the factor of each doubling and their geometric mean."""
    seconds = list(found["seconds"].values())
    factors = [b / a for a, b in itertools.pairwise(seconds)]
    told = ["", *(f"{factor:.2f}" for factor in factors)]
    rows = [
        [length, f"{1e3 * taken:.3g}", factor]
        for (length, taken), factor in zip(found["seconds"].items(), told, strict=True)
    ]
    mean = geometric_mean(factors)
    title = f"Growth with the length, forward of {found['variant']}, (1, 384, L, 16); geometric mean {mean:.2f}"
    return markdown(title, ["L", "median ms", "times the half"], rows)


def memory_table(found: dict[str, Any], size: Size) -> str:
    """Shows peak memory above the inputs."""
    rows = [
        [name, *("" if values[what] is None else f"{values[what]:.1f}" for what in ("forward", "training"))]
        for name, values in found.items()
    ]
    title = f"Peak memory above the inputs, outputs and gradients included, MiB, {size}"
    return markdown(title, ["path", "forward", "forward and backward"], rows)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draws every time of the tables in one picture."""
    cases = {}
    for section, words in (("forward", "forward"), ("training", "forward + backward")):
        for size, entry in found.get(section, {}).items():
            cases[f"{words}\n{size}"] = {name: 1e3 * seconds for name, seconds in entry["seconds"].items()}
    ours = {name for values in cases.values() for name in values if name.startswith("madzoo")}
    title = "Selective scan on a CPU, (B, D, L, N)"
    dot_plot(path, cases, label="milliseconds (median)", title=title, filled=ours)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="turns that count; default: what fits into 20 s, with backward 60 s")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: time of this process, all threads")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--mamba-ref", type=Path, help="file that defines the published selective_scan_ref")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--into", type=Path, help="page between whose markers the tables are written")
    parser.add_argument("--quick", action="store_true", help="one small size, three rounds: does everything run?")
    parser.add_argument("--peak", nargs=6, help=argparse.SUPPRESS)  # a child process that measures its own memory
    parser.add_argument("--pair", nargs=6, help=argparse.SUPPRESS)  # one that times a variant in turns with our first
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else None)
    return args


def main() -> None:
    """Prints the tables; writes the numbers and the plot where asked."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.peak or args.pair:
        print(json.dumps(measure_as_child(args)))
        return
    report = Report("bench_scan", args.into)
    variants = served(our_variants(OURS) + peer_variants(args.mamba_ref))
    found = measure(variants, args, report.tell)
    if args.json:
        settings = {"threads": args.threads, "clock": args.clock}
        args.json.write_text(json.dumps({"machine": describe_machine(), **settings, **found}, indent=2) + "\n")
    if args.plot:
        draw(found, args.plot)
    report.write(picture=args.plot)


if __name__ == "__main__":
    main()
