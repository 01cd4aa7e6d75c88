"""Times forecasts on one thread: medians of alternating calls in one process, and one call for very many series.

    python scripts/bench_forecast.py [--threads 1] [--series 10000] [--into docs/performance.md]

The first table is one ``predict``: the nine deciles of 96 steps, for 7 series, from 512 points each. The registered
``tiny`` models forecast the median alone; the same with nine levels are built beside them. ``statsforecast``, where it
is installed, repeats the last season as a floor. The second table is one ``predict`` of very many series, in a process
of its own, which tells the peak of its memory. Weights and series are random, because speed does not depend on them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from bench_report import Report, markdown  # pyright: ignore[reportAttributeAccessIssue]

from madzoo.factory import create_model
from madzoo.workflows.timing import medians, peak_memory, rounds_for, time_in_turns

try:
    from statsforecast import StatsForecast  # pyright: ignore[reportMissingImports]
    from statsforecast.models import SeasonalNaive  # pyright: ignore[reportMissingImports]
except ImportError:
    StatsForecast = SeasonalNaive = None

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONTEXT, HORIZON, SERIES, SEASON = 512, 96, 7, 24
TINY = tuple(f"{family}_tiny_512_96" for family in ("patch_s4d", "patch_mamba", "linoss", "patchtst"))
NAIVE, BULK = "seasonal_naive_24_512_96", TINY[0]
BAR = 0.015  # seconds that one forecast of a tiny model may take


class Contestant(NamedTuple):
    """One way to forecast: how many numbers a step it gives, its parameters, and the call that is timed."""

    levels: int
    parameters: int | None
    call: Callable[[], np.ndarray]


def drawn(count: int) -> torch.Tensor:
    """Returns noisy days, [count, 512, 1]."""
    generator = torch.Generator().manual_seed(count)
    daily = torch.sin(torch.arange(CONTEXT) * 2 * torch.pi / SEASON)
    return (daily + torch.randn(count, CONTEXT, generator=generator)).unsqueeze(-1)


def build(name: str, levels: Sequence[float] | None = None) -> Any:
    """Returns a forecaster with random weights, with its own levels or with these."""
    torch.manual_seed(0)
    changes: dict[str, Any] = {"quantile_levels": tuple(levels)} if levels else {}
    return create_model(name, **changes).eval()


def ours(name: str, levels: Sequence[float] | None = None) -> Contestant:
    """Returns one of our models: its forecast of 7 channels."""
    model, past = build(name, levels), drawn(SERIES).permute(2, 1, 0)
    count = sum(p.numel() for p in model.parameters())
    return Contestant(len(model.quantile_levels), count, lambda: model.predict(past)[0][0].permute(1, 0, 2).numpy())


def statsforecast() -> Contestant | None:
    """Returns the seasonal naive forecast of statsforecast with the same nine levels; None where it is missing."""
    if StatsForecast is None or SeasonalNaive is None:
        return None
    naive, run = SeasonalNaive(SEASON), StatsForecast
    table = pd.DataFrame({
        "unique_id": np.repeat(np.arange(SERIES), CONTEXT),
        "ds": np.tile(np.arange(CONTEXT), SERIES),
        "y": drawn(SERIES).flatten().numpy(),
    })  # fmt: skip
    widths = [round(100 * (1 - 2 * level)) for level in LEVELS if level < 0.5]  # of the central intervals
    sides = [f"SeasonalNaive-lo-{width}" for width in widths]
    columns = [*sides, "SeasonalNaive", *(side.replace("-lo-", "-hi-") for side in reversed(sides))]

    def call() -> np.ndarray:
        found = run(models=[naive], freq=1).forecast(df=table, h=HORIZON, level=widths)
        return found[columns].to_numpy().reshape(SERIES, HORIZON, len(LEVELS))

    return Contestant(len(LEVELS), None, call)


def contestants() -> dict[str, Contestant]:
    """Returns everyone who is at hand, by name."""
    found = {f"{name}, nine levels": ours(name, LEVELS) for name in TINY}
    found |= {name: ours(name) for name in TINY}
    found[f"{NAIVE}, nine levels"] = ours(NAIVE, LEVELS)
    theirs = statsforecast()
    return found | ({"statsforecast SeasonalNaive, nine levels": theirs} if theirs else {})


def check(name: str, contestant: Contestant) -> None:
    """Refuses to time what gives no sorted, finite forecast of the shape that is asked for.

    Raises:
        SystemExit: when it does not.
    """
    found = contestant.call()
    if found.shape != (SERIES, HORIZON, contestant.levels):
        raise SystemExit(f"{name} gives {found.shape}")
    if not np.isfinite(found).all() or (np.diff(found) < 0).any():
        raise SystemExit(f"{name} gives quantiles that cross, or no numbers")


def latency(found: Mapping[str, Contestant], *, rounds: int | None = None) -> str:
    """Times all in turns; returns a table, the quickest first."""
    for name, contestant in found.items():
        check(name, contestant)
    calls = {name: contestant.call for name, contestant in found.items()}
    if rounds is None:
        first = medians(time_in_turns(calls, rounds=1))
        rounds = rounds_for(sum(first.values()), budget=20, least=11, most=201)
    taken = time_in_turns(calls, rounds=rounds)
    middle = medians(taken)
    rows = [
        [name, found[name].levels, _count(found[name].parameters), *_times(taken[name], middle[name])]
        for name in sorted(middle, key=middle.__getitem__)
    ]
    title = (
        f"One forecast of {HORIZON} steps, {SERIES} series of {CONTEXT} points, {torch.get_num_threads()} thread(s): "
        f"ms, n = {rounds}. A `tiny` model may take {1e3 * BAR:g} ms."
    )
    return markdown(title, ["forecaster", "levels", "parameters", "median", "slowest tenth from"], rows)


def _count(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters:,}"


def _times(seconds: Sequence[float], median: float) -> list[str]:
    return [f"{1e3 * median:.3g}", f"{1e3 * float(np.quantile(seconds, 0.9)):.3g}"]


def bulk(count: int) -> dict[str, float | None]:
    """Forecasts many series at once; returns seconds, progress reports, and MiB of memory; in a fresh process."""
    model, past, reports = build(BULK, LEVELS), drawn(count), []
    model.predict(past[:1])  # whatever is loaded once is no memory of the series
    kept: list[torch.Tensor] = []
    started = time.perf_counter()
    peak = peak_memory(lambda: kept.extend(model.predict(past, on_batch=lambda *done: reports.append(done))))
    seconds = time.perf_counter() - started
    if reports[-1] != (count, count) or not all(answer.isfinite().all() for answer in kept):
        raise SystemExit(f"{BULK} did not answer all of {count} series")
    answers = sum(answer.numel() * answer.element_size() for answer in kept)
    return {"seconds": seconds, "reports": len(reports), "peak": peak, "answers": answers / 2**20}


def bulk_table(count: int, found: Mapping[str, float | None]) -> str:
    """Returns the table of one large call."""
    peak = "" if found["peak"] is None else f"{found['peak']:.0f}"
    seconds = found["seconds"] or 0.0
    row = [f"{BULK}, nine levels", f"{count:,}", f"{seconds:.2f}", f"{count / seconds:,.0f}", f"{found['reports']:.0f}"]
    columns = ["forecaster", "series", "seconds", "series a second", "progress reports", "peak, MiB", "of it answers"]
    title = f"One call of `predict`, {CONTEXT} points each, {HORIZON} steps, {torch.get_num_threads()} thread(s)"
    return markdown(title, columns, [[*row, peak, f"{found['answers']:.0f}"]])


def bulk_apart(count: int, threads: int) -> dict[str, float | None]:
    """Does :func:`bulk` in a process of its own."""
    command = [sys.executable, __file__, "--bulk-only", "--series", str(count), "--threads", str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--series", type=int, default=10_000, help="of the one large call")
    parser.add_argument("--into", type=Path, help="page between whose markers the tables are written")
    parser.add_argument("--quick", action="store_true", help="few rounds and few series: does everything run?")
    parser.add_argument("--bulk-only", action="store_true", help="the large call alone, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.bulk_only:
        print(json.dumps(bulk(args.series)))
        return
    report = Report("bench_forecast", args.into)
    report.tell(latency(contestants(), rounds=3 if args.quick else None))
    count = 500 if args.quick else args.series
    report.tell(bulk_table(count, bulk_apart(count, args.threads)))
    report.write()


if __name__ == "__main__":
    main()
