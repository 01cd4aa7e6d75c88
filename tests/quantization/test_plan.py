"""Plans and what they store: counted as packed, and never of a model whose parameters are latents."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from madzoo.errors import ConfigError
from madzoo.quantization import post_training, prepare_qat, quantize, sensitivity
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import make_plan, stored_bits, uniform_plan
from madzoo.quantization.quantized import quantize_tensor


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_stored_bits_count_scales_of_four_bytes_and_zero_points_of_one(group_size, symmetric) -> None:
    w = torch.zeros(11, 37)
    rows = 11 if group_size is None else 11 * 10
    grid = Grid(bits=3, group_size=group_size, symmetric=symmetric)
    assert stored_bits({"w": w, "b": torch.zeros(11)}, {"w": grid}) == 3 * 407 + rows * (32 if symmetric else 40) + 352


@pytest.mark.parametrize("axis", [0, 1, 2, -1, None])
def test_complex_tensors_are_counted_as_pairs(axis) -> None:
    w, grid = torch.randn(3, 6, dtype=torch.complex64), Grid(bits=4, axis=axis)
    rows = {0: 3, 1: 6, 2: 2, -1: 2, None: 1}[axis]
    assert len(quantize_tensor(w, grid).scale) == rows
    assert stored_bits({"w": w}, {"w": grid}) == 4 * 36 + 32 * rows


def test_a_model_under_training_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4)
    qat = prepare_qat(model, make_plan(model, 4))
    batches = [(x, torch.arange(8) % 3)]
    plan = {"0.parametrizations.weight.original": Grid(bits=4)}
    for attempt in (
        lambda: make_plan(model, 4),
        lambda: uniform_plan(model, 4),
        lambda: quantize(model, 4),
        lambda: post_training(model, plan),
        lambda: sensitivity(model, batches, metric="top1", loss_fn=cross_entropy),
    ):
        with pytest.raises(ConfigError, match="levels already"):
            attempt()
    qat.finish()
    assert set(make_plan(model, 4)) == {"0.weight", "0.bias"}
