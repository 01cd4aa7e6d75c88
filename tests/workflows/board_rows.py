"""Result rows written by hand, and files of them, for the tests of the leaderboard."""

import json
from pathlib import Path
from typing import Any

__all__ = ["HOSTILE", "image_row", "series_row", "write_results"]

HOSTILE = "<img src=x onerror=alert(1)>"


def image_row(model: str, top1: float, **changes: Any) -> dict[str, Any]:
    """One row of an image benchmark of 100 images."""
    row = {
        "model": model,
        "weights_sha256": None,
        "dataset": "toy",
        "split": "test",
        "n": 100,
        "metrics": {"top1": top1, "top5": 0.9, "nll": 1.25, "ece": 0.05},
        "intervals": {"top1": [top1 - 0.1, top1 + 0.1]},
        "settings": {"benchmark": "toy", "trained_on_this_dataset": True, "testdata_leakage": False},
        "seconds": 1.0,
    }
    return row | changes


def series_row(model: str, mse: float, **changes: Any) -> dict[str, Any]:
    """One row of a forecasting benchmark whose seasonal naive forecast has the squared error 2."""
    row = {
        "model": model,
        "weights_sha256": None,
        "dataset": "toys",
        "split": "test",
        "n": 10,
        "metrics": {"mse": mse, "mae": 0.5},
        "baselines": {"seasonal_naive": {"mse": 2.0, "mae": 1.0}, "linear": {"mse": 1.0, "mae": 0.75}},
        "settings": {"horizon": 24, "context_length": 96, "trained_on_this_dataset": False, "testdata_leakage": False},
        "seconds": 1.0,
    }
    return row | changes


def write_results(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as ``madzoo evaluate --out`` does; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(rows))
    return folder
