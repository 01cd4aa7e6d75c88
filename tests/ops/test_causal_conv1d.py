"""The short causal convolution against its defining sum, in both directions and step by step."""

import pytest
import torch
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.ops import causal_conv1d, causal_conv1d_step
from madzoo.ops.kernels import library

BACKENDS = ["auto", "torch", *(["cpu"] if library.kernel_library() is not None else [])]


@pytest.mark.skipif(library.kernel_library() is None, reason="this machine has no compiled kernels")
def test_under_autocast_the_kernel_stays_in_float32():
    x = torch.randn(2, 9, 16, dtype=torch.bfloat16).transpose(1, 2)
    weight, bias = torch.randn(16, 4, requires_grad=True), torch.randn(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = causal_conv1d(x, weight, bias, activation="silu")
        plain = causal_conv1d(x, weight, bias, activation="silu", backend="torch")
    assert (y.dtype, plain.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(y, causal_conv1d(x.float(), weight, bias, activation="silu"))
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(plain, y.bfloat16(), rtol=0.05, atol=0.05)


def inputs(batch=2, channels=5, length=7, taps=4):
    torch.manual_seed(0)
    shapes = ((batch, channels, length), (channels, taps), (channels,))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def defining_sum(x, weight, bias):
    y = torch.zeros_like(x) + bias[:, None]
    for t in range(x.shape[-1]):
        for k in range(min(weight.shape[-1], t + 1)):
            y[..., t] += weight[:, -1 - k] * x[..., t - k]
    return y


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("length", "taps"), [(1, 4), (3, 4), (63, 4), (7, 1), (7, 2)])
def test_equals_the_defining_sum(length, taps, backend):
    x, weight, bias = inputs(length=length, taps=taps)
    expected = defining_sum(x, weight, bias)
    torch.testing.assert_close(causal_conv1d(x, weight, bias, backend=backend), expected, rtol=1e-12, atol=1e-13)
    silent = causal_conv1d(x, weight, activation="silu", backend=backend)
    torch.testing.assert_close(silent, F.silu(expected - bias[:, None]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_is_the_mirror_image(backend):
    x, weight, bias = inputs()
    mirrored = causal_conv1d(x.flip(-1), weight, bias, activation="silu", backend=backend).flip(-1)
    ours = causal_conv1d(x, weight, bias, activation="silu", reverse=True, backend=backend)
    torch.testing.assert_close(ours, mirrored, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients(reverse, backend):
    tensors = [tensor.requires_grad_() for tensor in inputs(batch=1, channels=2, length=5, taps=3)]
    options = {"activation": "silu", "reverse": reverse, "backend": backend}
    assert torch.autograd.gradcheck(lambda *args: causal_conv1d(*args, **options), tensors)


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_steps_equal_the_whole(taps):
    x, weight, bias = inputs(length=9, taps=taps)
    state, found = x.new_zeros(2, 5, taps - 1), []
    for t in range(9):
        y_t, state = causal_conv1d_step(x[..., t], state, weight, bias, "silu")
        found.append(y_t)
    expected = causal_conv1d(x, weight, bias, activation="silu")
    torch.testing.assert_close(torch.stack(found, -1), expected, rtol=1e-12, atol=1e-13)


def test_misfits_are_told():
    x, weight, bias = inputs()
    with pytest.raises(ShapeError):
        causal_conv1d(x[:, :4], weight, bias)
    with pytest.raises(ShapeError):
        causal_conv1d(x, weight, bias[:3])
    with pytest.raises(ShapeError):
        causal_conv1d(x[..., 0], weight, bias)
    with pytest.raises(ShapeError, match="conv_state"):
        causal_conv1d_step(x[..., 0], x[..., :4], weight, bias)
    with pytest.raises(ConfigError, match="gelu"):
        causal_conv1d(x, weight, bias, activation="gelu")
