"""A data folder with made-up contents under the catalog's file names, and checkpoints of tiny models."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from madzoo.checkpoint.folder import write_folder
from madzoo.factory import create_model

__all__ = ["few_samples", "make_classifier", "make_data", "make_forecaster"]

WEFT = {"patch_size": 8, "embed_dim": 8, "depth": 1, "d_state": 2, "dt_rank": 1}
SERIES = {"context_length": 96, "prediction_length": 96, "patch_size": 24, "patch_stride": 24, "d_model": 4, "depth": 1}


def make_data(folder: Path) -> Path:
    """Writes fashion_mnist (5,060 training images, 70 test images) and ETTh1 (two channels)."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5060), ("test", 70)):
        labels = np.arange(count) % 10
        path = folder / "fashion_mnist" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = [_png(int(label), rng) for label in labels]
        images = [{"bytes": data, "path": None} for data in encoded]
        pq.write_table(pa.table({"image": images, "label": labels}), path)
    time = np.arange(17420)
    season = np.sin(2 * np.pi * time / 24)
    table = {
        "date": pd.date_range("2016-07-01", periods=len(time), freq="h"),
        "HUFL": 5 + season + 0.1 * rng.normal(size=len(time)),
    }
    table["OT"] = 20 + 3 * np.cos(2 * np.pi * time / 24) + rng.normal(size=len(time))
    (folder / "ett").mkdir()
    pd.DataFrame(table).to_parquet(folder / "ett" / "ETTh1.parquet")
    return folder


def few_samples(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Lets reports be measured on so few samples that a test can wait for them."""
    numbers = {"GEOMETRY_SAMPLES": 2, "METRIC_SAMPLES": count, "GROUP_SAMPLES": 32, "PREDICTION_SAMPLES": 40}
    for name, number in numbers.items():
        monkeypatch.setattr(f"madzoo.workflows.report_data.{name}", number)


def make_classifier(path: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder of a tiny image model."""
    cfg: dict[str, Any] = {"dataset": "fashion_mnist", "input_size": [1, 28, 28], "mean": [0.286], "std": [0.353]}
    return _write(path, "weft_micro_patch4_28", "fashion_mnist", WEFT, cfg, seed)


def make_forecaster(path: Path, *, seed: int = 0, dataset: str = "etth1") -> Path:
    """Writes a checkpoint folder of a tiny forecaster."""
    return _write(path, "patch_s4d_nano_512_96", "etth1", SERIES, {"dataset": dataset}, seed)


def _write(path: Path, arch: str, tag: str, args: dict[str, Any], cfg: dict[str, Any], seed: int) -> Path:
    torch.manual_seed(seed)
    state = create_model(arch, **args).state_dict()
    cfg = {"license": "apache-2.0", **cfg}
    write_folder(path, architecture=f"{arch}.{tag}", model_args=args, pretrained_cfg=cfg, state=state)
    return path


def _png(label: int, rng: np.random.Generator) -> bytes:
    pixels = rng.integers(0, 40, (28, 28), dtype=np.uint8)
    pixels[2 * label : 2 * label + 6] += 200
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
