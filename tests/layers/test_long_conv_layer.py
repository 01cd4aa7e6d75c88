"""The gated long convolution: its mathematics written out, stepping, symmetries, the size of what it begins with."""

import pytest
import torch
from step_check import assert_steps_equal_the_whole
from symmetry_check import assert_symmetries_hold
from torch.nn.functional import conv1d, linear, pad, silu

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.long_conv import LongConv


def build(d_model=5, kernel_size=20, **options):
    torch.manual_seed(0)
    return LongConv(d_model, kernel_size=kernel_size, **options).double()


def read_aloud(layer, x):
    p = dict(layer.named_parameters())
    taps, kernel = p["gate_conv1d.weight"], p["kernel"]
    near = silu(conv1d(pad(x.mT, (taps.shape[-1] - 1, 0)), taps, p["gate_conv1d.bias"], groups=len(taps))).mT
    gated = x * linear(near, p["gate_proj.weight"], p["gate_proj.bias"]).sigmoid()
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for lag in range(min(t + 1, kernel.shape[1])):
            y[:, t] += kernel[:, lag] * gated[:, t - lag]
    return linear(y, p["out_proj.weight"])


@pytest.mark.parametrize(("kernel_size", "d_conv", "length"), [(20, 3, 33), (40, 2, 33), (1, 1, 9), (200, 3, 163)])
@torch.no_grad()
def test_the_layer_written_out(kernel_size, d_conv, length):
    layer = build(kernel_size=kernel_size, d_conv=d_conv)
    x = torch.randn(2, length, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), read_aloud(layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel_size", "d_conv"), [(20, 3), (60, 1), (1, 4)])
@torch.no_grad()
def test_step_equals_forward_on_every_prefix(kernel_size, d_conv):
    x = torch.randn(2, 37, 5, dtype=torch.float64)
    assert_steps_equal_the_whole(build(kernel_size=kernel_size, d_conv=d_conv), x, tolerance=1e-10)


def test_symmetries():
    assert_symmetries_hold(build(d_model=3, kernel_size=7), torch.randn(2, 9, 3, dtype=torch.float64))


@pytest.mark.parametrize("kernel_size", [1, 64, 2048])
def test_kernels_begin_with_size_one(kernel_size):
    kernel = LongConv(8, kernel_size=kernel_size).kernel.detach()
    assert kernel.shape == (8, kernel_size)
    torch.testing.assert_close(kernel.norm(dim=-1), torch.ones(8))


def test_every_parameter_learns():
    layer = build()
    layer(torch.randn(2, 30, 5, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().min() > 0 for p in layer.parameters())


def test_follows_the_dtype_and_the_device_of_its_parameters():
    with torch.device("meta"):
        assert all(p.is_meta for p in LongConv(4, kernel_size=9).parameters())
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in LongConv(4, kernel_size=9).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


def test_errors():
    for bad in ({"d_model": 0}, {"kernel_size": 0}, {"d_conv": 0}):
        with pytest.raises(ConfigError):
            build(**bad)
    with pytest.raises(ShapeError, match="LongConv"):
        build()(torch.zeros(2, 9, 4, dtype=torch.float64))
    with pytest.raises(ShapeError, match="LongConv"):
        build().step(torch.zeros(2, 9, 5, dtype=torch.float64), build().init_state(2))
