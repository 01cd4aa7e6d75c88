"""Published outputs as test data: the rules that re-create weights and inputs, and how close is close enough.

Each folder of ``tests/data/parity`` holds ``case.json`` (what was run, from which commit, with which shapes) and
``outputs.npz`` (what it answered). Weights follow from a tensor's name and shape, inputs from a seed.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from madzoo.factory import create_model

__all__ = [
    "DATA",
    "LIMITS",
    "filled_state",
    "load_case",
    "load_published",
    "relative_error",
    "rule_input",
    "rule_noise",
    "weighted_sum",
]

DATA = Path(__file__).parent / "data" / "parity"

LIMITS = {torch.float64: 1e-9, torch.float32: 2e-5}  # largest difference over the largest reference value


def load_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the description and the reference arrays of a case."""
    folder = DATA / name
    with np.load(folder / "outputs.npz") as arrays:
        return json.loads((folder / "case.json").read_text()), dict(arrays)


def rule_noise(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws the standard normal numbers that belong to a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)


def rule_input(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Draws an input from its seed."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)).to(dtype)


def filled_state(case: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the state dict of a case, filled by its rule, after checking the fill against the recorded sums."""
    state = {}
    for entry in case["state_dict"]:
        key, shape = entry["key"], tuple(entry["shape"])
        state[key] = _fill(key, shape, case.get("fill_overrides"))
    values = np.concatenate([value.ravel() for value in state.values() if value.dtype == np.float64])
    recorded = case["fill_checksum_float64"]
    np.testing.assert_allclose([values.sum(), (values**2).sum()], [recorded["sum"], recorded["sumsq"]], rtol=1e-12)
    tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def load_published(
    name: str, case: dict[str, Any], dtype: torch.dtype, folder: Path, *, key: str = "model"
) -> nn.Module:
    """Loads the weights of a case through the door that a user takes, from a file that has them under ``key``."""
    before, path = torch.get_default_dtype(), folder / "authors.pth"
    torch.save({key: filled_state(case, dtype), "epoch": 299}, path)
    torch.set_default_dtype(dtype)
    try:
        return create_model(name, checkpoint_path=path).eval()
    finally:
        torch.set_default_dtype(before)
        path.unlink()


def relative_error(ours: Tensor, reference: np.ndarray) -> float:
    """Returns the largest difference over the largest reference value."""
    reference_tensor = torch.from_numpy(reference)
    return ((ours.detach() - reference_tensor).abs().max() / reference_tensor.abs().max()).item()


def weighted_sum(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    """Returns the scalar whose gradients a case records: the output, weighted by normal numbers, over the batch."""
    y = module(x)
    return (y * rule_input(seed + 1000, tuple(y.shape), y.dtype)).sum() / len(x)


def _fill(key: str, shape: tuple[int, ...], overrides: str | None) -> np.ndarray:
    z, leaf = rule_noise(key, shape), key.rsplit(".", 1)[-1]
    special = _overridden(leaf, shape, z) if overrides else None
    if special is not None:
        return special
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf in ("running_mean", "running_var"):
        return 0.1 * z if leaf == "running_mean" else 1 + 0.1 * abs(z)
    if leaf in ("A_log", "A_b_log", "A_logs"):
        # per state where there are states, else per head
        return np.log(1 + np.arange(shape[-1]) % (16 if len(shape) == 1 else shape[-1])) + 0.1 * z
    if leaf in ("D", "D_b", "Ds"):
        return 1 + 0.1 * z
    if leaf in ("dt_bias", "dt_projs_bias") or key.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        return -3 + 0.5 * z
    if any(word in key.lower() for word in ("pos_embed", "cls_token", "direction_b")):
        return 0.2 * z
    if len(shape) == 1 and leaf == "weight":
        return 1 + 0.1 * z
    if leaf.startswith("gamma"):
        return 0.5 + 0.1 * z
    if len(shape) <= 1:
        return 0.1 * z
    return z / np.sqrt(shape[-1] if leaf in ("x_proj_weight", "dt_projs_weight") else np.prod(shape[1:]))


def _overridden(leaf: str, shape: tuple[int, ...], z: np.ndarray) -> np.ndarray | None:
    return {
        "log_dt": -4 + 0.7 * z,
        "log_A_real": np.log(0.5) + 0.1 * z,
        "A_imag": np.pi * np.arange(shape[-1]) + 0.1 * z,
        "C": 0.7 * z,
        "B_bias": 1 + 0.1 * z,
        "C_bias": 1 + 0.1 * z,
    }.get(leaf)
