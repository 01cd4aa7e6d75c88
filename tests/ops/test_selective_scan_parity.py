"""The selective scan against published outputs, every backend, outputs and last states."""

import numpy as np
import pytest
import torch
from parity import LIMITS, load_case, relative_error, rule_noise

from madzoo.ops import selective_scan

CASE, REFERENCE = load_case("selective_scan_op")
NAMES = ["real_varBC", "real_groups", "real_constBC", "no_softplus", "complex_varBC", "L1", "long"]
LEAN = ["real_varBC", "real_groups", "no_softplus", "L1", "long"]  # real A, B and C of every position
SERVED = [(backend, name) for backend in ("auto", "reference") for name in NAMES] + [("torch", name) for name in LEAN]


def inputs(name, dtype):
    described, tensors = CASE["inputs"][name], {}
    for key, entry in described.items():
        if key in ("delta_softplus", "note", "stored"):
            continue
        tensors[key] = torch.from_numpy(_value(name, key, tuple(entry[0]), entry[1] == "complex128"))
    if not described["delta_softplus"]:
        tensors["delta"] = 0.3 * tensors["delta"].abs()
    cast = {key: x.to(dtype.to_complex() if x.is_complex() else dtype) for key, x in tensors.items()}
    return cast | {"delta_softplus": described["delta_softplus"]}


def _value(name, key, shape, is_complex):
    if key == "A" and is_complex:
        decay, frequency = (rule_noise(f"{name}.{part}", shape) for part in ("A_re", "A_im"))
        return -(0.5 + np.abs(decay)) + 3j * frequency
    z = rule_noise(f"{name}.{key}", shape)
    return {"A": -(0.5 + np.abs(z)), "delta_bias": 0.5 * z - 2, "D": 1 + 0.1 * z}.get(key, z)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("backend", "name"), SERVED)
def test_published_outputs(backend, name, dtype):
    y, state = selective_scan(**inputs(name, dtype), return_last_state=True, backend=backend)
    assert y.dtype == dtype
    y = y[..., ::64] if name == "long" else y
    assert relative_error(y, REFERENCE[f"{name}.out.float64"]) < LIMITS[dtype]
    assert relative_error(state, REFERENCE[f"{name}.last_state.float64"]) < LIMITS[dtype]
