"""Rounding: bit-exact against a plain NumPy statement, and what a rounded copy keeps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.quantization import quantize
from madzoo.quantization.round_to_nearest import quantized_tensors, round_to_nearest

SHAPES = [(), (1,), (7,), (0,), (5, 0), (1, 1), (13, 7), (3, 5, 7), (63, 1, 3, 3)]


def numpy_statement(w: np.ndarray, bits: int) -> np.ndarray:
    levels = w.dtype.type(2 ** (bits - 1) - 1)
    out = np.zeros_like(w)
    for channel in range(w.shape[0]) if w.ndim >= 2 else [...]:
        part = w[channel]
        if part.size == 0:
            continue
        scale = np.abs(part).max() / levels
        out[channel] = np.round(part / scale) * scale if scale > 0 else 0
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_bit_exact(shape: tuple[int, ...], bits: int, dtype: torch.dtype) -> None:
    w = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(bits))
    if w.ndim >= 2 and w.shape[0] > 1:
        w[1] = 0  # a zero channel
    found = round_to_nearest(w, bits)
    assert found.dtype == dtype and found.shape == w.shape
    np.testing.assert_array_equal(found.numpy(), numpy_statement(w.numpy(), bits))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_levels_are_few_symmetric_and_hold_the_extremes(bits: int) -> None:
    w = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = round_to_nearest(w, bits)
    for row, exact in zip(rounded, w, strict=True):
        assert len(row.unique()) <= 2**bits - 1
        assert row.abs().max() == pytest.approx(float(exact.abs().max()), rel=1e-15)
        assert (row - exact).abs().max() <= exact.abs().max() / (2 ** (bits - 1) - 1) / 2 * (1 + 1e-12)


def test_two_bits_are_minus_one_zero_one() -> None:
    assert round_to_nearest(torch.tensor([[0.4, -0.6, 1.0, 0.0]]), 2).tolist() == [[0.0, -1.0, 1.0, 0.0]]


def test_ties_go_to_even_and_tiny_channels_stay_finite() -> None:
    assert round_to_nearest(torch.tensor([0.5, 1.5, 2.5, 3.0]), 3).tolist() == [0.0, 2.0, 2.0, 3.0]
    tiny = torch.full((2, 3), 1e-45)
    assert round_to_nearest(tiny, 8).isfinite().all()


def test_half_precision_is_rounded_in_float32() -> None:
    w = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(round_to_nearest(w, 4), round_to_nearest(w.float(), 4).bfloat16())


def test_a_complex_tensor_is_pairs_of_reals_under_one_scale() -> None:
    w = torch.randn(3, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    expected = round_to_nearest(torch.view_as_real(w).flatten(1), 4).view(3, 5, 2)
    assert torch.equal(torch.view_as_real(round_to_nearest(w, 4)), expected)


def test_every_floating_parameter_is_rounded_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).train()
    model.get_parameter("0.bias").requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    rounded = quantize(model, 3)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, round_to_nearest(before[name], 3))
        assert parameter.requires_grad == model.get_parameter(name).requires_grad
    for name, buffer in rounded.named_buffers():
        assert torch.equal(buffer, before[name])
    assert rounded.training and len(quantized_tensors(rounded)) == 6


def test_tied_parameters_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    rounded = quantize(model, 4)
    assert rounded.get_parameter("0.weight") is rounded.get_parameter("1.weight")
    assert len(quantized_tensors(model)) == 3


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 2.5, True, "8", None])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError):
        quantize(nn.Linear(2, 2), bits)


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="rtn"):
        quantize(nn.Linear(2, 2), 8, policy="rtm")
