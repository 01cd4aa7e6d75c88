"""Validates forecasters that are trained on no benchmark's series, on what comes before a benchmark's tested rows.

    python scripts/validate_zeroshot.py NAME [NAME ...] [--data-dir DIR] [--out FILE.json]

The parts are what lies before the tested rows: the last 20 windows of ETT's hours before 11,520 and the last 4 of its
days before day 165, and the last horizon of the official train parts of the competitions. Each line gives SQL, MASE and
the coverage of the 80 % interval, and the last one the geometric mean of the ratios to the seasonal naive forecast.

Each part lies before what its own benchmark tests (and the hours before the long horizons' test part), but the hours
8,160 to 11,519 make days and weeks that ETT_1D and ETT_1W test: what is chosen here is not blind to these two.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from madzoo.data.series_cuts import rolling_cuts
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.evaluation.series import LEVELS, SeriesBenchmark, evaluate_series
from madzoo.factory import create_model
from madzoo.layers.forecaster import Forecaster, with_seasonality
from madzoo.workflows.series_benchmarks import load_benchmarks

# A row before the first one that the benchmark tests, and how many windows are cut there.
HELD_BACK = {"fev-ett-1h": (11520, 20), "fev-ett-1d": (165, 4)}
SHORTEST = 2  # seasons of past, below which the last horizon of a train part is left alone


def validation_parts(folder: Path | None) -> Iterator[SeriesBenchmark]:
    """Yields the benchmarks of the zero-shot forecasters, cut before whatever they test."""
    anyone = create_model("seasonal_naive_24_512_96")
    for family in ("fev-ett", "monash"):
        for benchmark in load_benchmarks(anyone, family, folder=folder):
            assert isinstance(benchmark, SeriesBenchmark)
            if (part := cut_before(benchmark)) is not None:
                yield part


def cut_before(benchmark: SeriesBenchmark) -> SeriesBenchmark | None:
    """Returns windows of a benchmark's series before the first row that it tests; None where too little is left."""
    if benchmark.name in HELD_BACK:
        stop, count = HELD_BACK[benchmark.name]
        items = [past[:stop] for past, _ in benchmark.windows[-1]]
        windows: Any = rolling_cuts(items, horizon=benchmark.horizon, num_windows=count)
    elif benchmark.name.startswith("monash"):
        least = benchmark.horizon + max(SHORTEST * benchmark.seasonality, 4)
        pasts = [past for past, _ in benchmark.windows[0] if len(past) >= least]
        windows = [[(past[: -benchmark.horizon], past[-benchmark.horizon :]) for past in pasts]]
    else:
        return None
    return dataclasses.replace(benchmark, split="before the test part", windows=windows, linear_context=0)


def validate(model: Forecaster, part: SeriesBenchmark) -> dict[str, float]:
    """Returns the metrics of a model on a part, beside those of the last season."""
    naive = SeasonalNaive(
        context_length=max(len(past) for window in part.windows for past, _ in window),
        prediction_length=part.horizon,
        seasonality=part.seasonality,
        quantile_levels=LEVELS,
    )
    found = evaluate_series(with_seasonality(model, part.seasonality), part)
    base = evaluate_series(naive, part).metrics
    names = ("sql", "mase")
    ratio = math.exp(sum(math.log(found.metrics[name] / base[name]) for name in names) / len(names))
    kept = {name: found.metrics[name] for name in (*names, "coverage_80")}
    return {"n": found.n, **kept, **{f"naive_{name}": base[name] for name in names}, "ratio": ratio}


def main() -> None:
    """Reads the command line, prints one line a part, and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="models, or local-dir:FOLDER")
    parser.add_argument("--data-dir", type=Path, help="default: MADZOO_DATA_DIR")
    parser.add_argument("--out", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    parts, numbers = list(validation_parts(arguments.data_dir)), {}
    for name in arguments.names:
        model: Any = create_model(name, pretrained=True)
        started = time.monotonic()
        numbers[name] = {part.name: validate(model, part) for part in parts}
        print(f"{name} ({time.monotonic() - started:.0f} s)")
        for part, found in numbers[name].items():
            print(f"  {part:24}" + "".join(f" {key} {value:<8.4g}" for key, value in found.items()))
        ratios = [found["ratio"] for found in numbers[name].values()]
        print(f"  geometric mean of the ratios {math.exp(sum(map(math.log, ratios)) / len(ratios)):.4f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
