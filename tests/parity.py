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

__all__ = ["DATA", "LIMITS", "filled_state", "load_case", "relative_error", "rule_input", "rule_noise", "weighted_sum"]

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
    values = np.concatenate([value.ravel() for value in state.values()])
    recorded = case["fill_checksum_float64"]
    np.testing.assert_allclose([values.sum(), (values**2).sum()], [recorded["sum"], recorded["sumsq"]], rtol=1e-12)
    return {key: torch.from_numpy(np.asarray(value)).to(dtype) for key, value in state.items()}


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
    special = _s4d_fill(leaf, shape, z) if overrides else None
    if special is not None:
        return special
    if leaf in ("A_log", "A_b_log"):
        return np.log(1 + np.arange(shape[-1])) + 0.1 * z
    if leaf in ("D", "D_b"):
        return 1 + 0.1 * z
    if key.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        return -3 + 0.5 * z
    if "pos_embed" in key or "cls_token" in key:
        return 0.2 * z
    if len(shape) == 1:
        return 1 + 0.1 * z if leaf == "weight" else 0.1 * z
    return z / np.sqrt(np.prod(shape[1:]))


def _s4d_fill(leaf: str, shape: tuple[int, ...], z: np.ndarray) -> np.ndarray | None:
    return {
        "log_dt": -4 + 0.7 * z,
        "log_A_real": np.log(0.5) + 0.1 * z,
        "A_imag": np.pi * np.arange(shape[-1]) + 0.1 * z,
        "C": 0.7 * z,
    }.get(leaf)
