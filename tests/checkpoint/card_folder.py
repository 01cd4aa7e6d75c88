"""A small checkpoint folder with all its reports, made by hand for the tests of cards."""

import json
from pathlib import Path
from typing import Any

import torch

from madzoo.checkpoint.folder import write_folder

__all__ = ["geometry", "make_folder", "quantization", "row", "write_json"]

NAME = "toy_nano_8.shapes"


def make_folder(path: Path, *, image: bool = True, reports: bool = True) -> str:
    """Writes a folder and returns the sha256 of its weights."""
    cfg: dict[str, Any] = {"license": "apache-2.0", "dataset": "shapes", "class_names": ["round", "square"]}
    cfg["input_size"] = [1, 8, 8] if image else None
    checkpoint = write_folder(
        path, architecture=NAME, model_args={}, pretrained_cfg=cfg, state={"weight": torch.arange(6.0).view(2, 3)}
    )
    sha256 = str(checkpoint.sha256)
    if reports:
        write_json(path / "geometry.json", geometry(sha256))
        write_json(path / "quantization.json", quantization(sha256))
        evaluation = {"schema": 1, "weights_sha256": sha256, "rows": [row(sha256, image=image)]}
        write_json(path / "evaluation.json", evaluation)
    return sha256


def row(sha256: str, *, image: bool = True, **changes: Any) -> dict[str, Any]:
    """Returns a result row as evaluation.json holds it."""
    metrics = {"top1": 0.9253, "nll": 0.21} if image else {"mse": 0.361234, "mae": 0.38}
    values = {
        "model": NAME,
        "weights_sha256": sha256,
        "dataset": "shapes",
        "split": "test",
        "n": 10000,
        "metrics": metrics,
        "intervals": {"top1": [0.92, 0.93]} if image else {},
        "baselines": {} if image else {"seasonal_naive": {"mse": 0.5123, "mae": 0.433}},
        "seed": 0,
        "settings": {"hub_id": "someone/shapes"} if image else {"horizon": 96},
        "data_fingerprint": "00" * 32,
        "versions": {"torch": "2"},
        "configurations_tested": 1,
        "seconds": 1.5,
    }
    return values | changes


def geometry(sha256: str, *, rank: int = 160, rows: int = 160) -> dict[str, Any]:
    """Returns a geometry report as geometry.json holds it."""
    limited = rank == rows
    return {
        "schema": 2,
        "weights_sha256": sha256,
        "output": "logits",
        "dtype": "float64",
        "data": {
            "dataset": "shapes",
            "split": "validation",
            "n": 16,
            "seed": 0,
            "sha256": "11" * 32,
            "fingerprint": None,
        },
        "params": {"total": 12345, "trainable": 12345},
        "measured": {
            "rank": rank,
            "rows": rows,
            "row_limited": limited,
            "sigma_max": 12.5,
            "sigma_r": 1e-05,
            "sigma_next": None if limited else 1e-16,
            "gap_decades": None if limited else 11.0,
            "rank_at": {"1e-10": rank, "1e-6": rank, "1e-3": rank - 3},
            "rtol": 1e-12,
            "method": "qr",
        },
        "structural": {
            "items": [
                {"name": "relu.scale", "modules": 2, "lost": 40, "independent": True, "on_data": False},
                {"name": "dead_units", "modules": 4, "lost": 5, "independent": True, "on_data": True},
            ],
            "lost": 40,
            "upper_bound": 12305,
            "generators_checked": 45,
            "max_relative_jvp": 2e-16,
            "verified": True,
        },
        "effective": {"stable_rank": 3.5, "participation_ratio": 7.25, "entropy_rank": 20.5},
        "inactive": {"dead_units": 1, "always_active_units": 0, "patterns": 16, "lost": 5},
        "unexplained": 12300 - rank,
        "curvature": {
            "loss": 0.25,
            "lambda_max": 14.5,
            "lambda_max_residual": 0.01,
            "trace": 100.5,
            "trace_stderr": 2.5,
            "probes": 4,
            "noise_scale": None,
            "n": 8,
        },
        "cost": {"seconds": 1.0, "peak_mb": 100.0, "threads": 1, "torch": "2"},
    }


def quantization(sha256: str, *, metric: str = "top1", schema: int = 2) -> dict[str, Any]:
    """Returns a sensitivity report as quantization.json holds it."""
    error = 0.001 if metric == "top1" else None
    values = {8: 0.925, 6: 0.92, 4: 0.9, 3: 0.5, 2: None}
    entries: list[dict[str, Any]] = [
        {"bits": b, "value": v, "drop": None if v is None else 0.9253 - v, "drop_standard_error": v and error}
        for b, v in values.items()
    ]
    found = {
        "schema": schema,
        "weights_sha256": sha256,
        "metric": metric,
        "higher_is_better": metric == "top1",
        "reference": 0.9253,
        "reference_standard_error": error,
        "n": 5000,
        "entries": entries,
        "policy": "rtn",
        "tensors": 14,
        "num_weights": 12345,
        "dataset": "shapes",
        "split": "validation",
        "seed": 0,
        "data_fingerprint": None,
        "seconds": 1.0,
        "threads": 1,
        "torch_version": "2",
    }
    if schema == 1:
        return found
    losses = {8: 0.0001, 6: 0.001, 4: 0.05, 3: 0.7, 2: None}
    for entry in entries:
        rise = losses[entry["bits"]]
        entry |= {"delta_loss": rise, "delta_loss_standard_error": rise and error}
    return found | {
        "reference_loss": 0.25,
        "group_n": 512,
        "groups": [
            _group("A", 64, 0.002, error),
            _group("head", 320, 0.0475, error),
            _group("vector", 7, -1e-5, error),
        ],
        "ranking": [
            {"bits": b, "spearman": 0.9 + b / 100, "spearman_trace": 0.5, "between_halves": 1.0} for b in values
        ],
        "prediction": {
            "split": "train",
            "n": 500,
            "curvature_n": 64,
            "operator": "ggn",
            "probes": 2,
            "dtype": "float32",
            "sample_sha256": "22" * 32,
            "disjoint": True,
        },
        "sample_shape": [1, 8, 8],
        "sequence_length": 16,
        "dtype": "float32",
    }


def _group(name: str, params: int, rise: float, error: float | None) -> dict[str, Any]:
    entries = [
        {
            "bits": bits,
            "delta_loss": rise * 4 / bits,
            "delta_loss_standard_error": error,
            "delta_metric": -rise,
            "delta_metric_standard_error": error,
            "predicted_quadratic": rise * 3.5 / bits,
            "predicted_trace": None,
            "sqnr_db": 6.02 * bits,
        }
        for bits in (8, 6, 4, 3, 2)
    ]
    return {"name": name, "kind": name, "params": params, "tensors": [f"{name}.weight"], "entries": entries}


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON the way a workflow does."""
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
