"""Asks why predicted rises of the loss do not always rank groups of tensors as the measured ones do.

    python scripts/bench_prediction.py NAMES [--bits 4] [--data-dir DIR]

The measured rises are those of the card (512 samples, one group rounded at a time). Predictions are made with the
Gauss-Newton matrix and with the Hessian, each on the card's other samples and on the measured samples themselves, where
neither noise nor a shift of the data stands between the two. Printed: Spearman's correlation over the groups.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from madzoo.factory import create_model
from madzoo.quantization import sensitivity
from madzoo.workflows.report_data import ReportData, load_report_data

WAYS = {"other samples": ("ggn", "hessian"), "the measured samples": ("ggn", "hessian")}


def main() -> None:
    """Prints a row for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--curvature-samples", type=int, default=256)
    parser.add_argument("--data-dir", type=Path)
    args = parser.parse_args()
    heads = ["checkpoint", *(f"{operator}, {place}" for place, operators in WAYS.items() for operator in operators)]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in args.names:
        model: Any = create_model(name, pretrained=True).eval()
        data = load_report_data(
            model, model.pretrained_cfg["dataset"], split="validation", seed=0, folder=args.data_dir
        )
        cells = [
            _rank(model, data, args, place, operator) for place, operators in WAYS.items() for operator in operators
        ]
        print(f"| `{name}` | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)


def _rank(model: Any, data: ReportData, args: argparse.Namespace, place: str, operator: str) -> float:
    measured = data.group_batches
    same = torch.cat([x for x, _ in measured]), torch.cat([y for _, y in measured])
    found = sensitivity(
        model,
        measured,
        bits=(args.bits,),
        metric=data.metric,
        loss_fn=data.loss,
        group_batches=measured,
        prediction_batch=data.prediction_batch if place == "other samples" else same,
        prediction_loss_fn=data.prediction_loss,
        curvature_samples=args.curvature_samples,
        operator=operator,
        seed=0,
    )
    value = found.spearman(args.bits)
    return float("nan") if value is None else value


if __name__ == "__main__":
    main()
