"""S4D against published outputs and gradients, and its recurrence against its convolution."""

import math

import pytest
import torch
from parity import LIMITS, filled_state, load_case, relative_error
from published_check import assert_published, assert_published_gradients, case_input
from step_check import assert_steps_equal_the_whole
from symmetry_check import assert_symmetries_hold

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers import S4D, S4DKernel
from madzoo.ops import long_conv

CASE, REFERENCE = load_case("s4d_layer")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def published(dtype):
    layer = S4D(24, d_state=64, transposed=True).to(dtype).eval()
    layer.load_state_dict(filled_state(CASE, dtype), strict=True)
    return layer


@DTYPES
@pytest.mark.parametrize("tag", ["a", "long", "one"])
def test_published_outputs(tag, dtype):
    assert_published(published(dtype)(case_input(CASE, tag, dtype)), REFERENCE[f"{tag}.out.float64"], dtype)


@DTYPES
def test_published_kernel(dtype):
    assert relative_error(published(dtype).kernel(128), REFERENCE["kernel.L128.float64"]) < LIMITS[dtype]


@pytest.mark.parametrize("reverse", [False, True])
def test_convolving_equals_the_long_convolution(reverse):
    torch.manual_seed(0)
    kernel, u, D = S4DKernel(16, d_state=8).double(), torch.randn(2, 16, 50).double(), torch.randn(16).double()
    expected = long_conv(u, kernel(50), reverse=reverse) + D[:, None] * u
    torch.testing.assert_close(kernel.convolve(u, D, reverse=reverse), expected, rtol=1e-10, atol=1e-11)


def test_published_gradients():
    assert_published_gradients(published(torch.float64), CASE, REFERENCE)


@pytest.mark.parametrize("dt_max", [0.1, 1.0])
def test_steps_equal_the_whole_on_every_prefix(dt_max):
    torch.manual_seed(0)
    layer, x = S4D(6, d_state=8, dt_max=dt_max), torch.randn(2, 63, 6)
    assert_steps_equal_the_whole(layer, x, tolerance=1e-5)


def test_layouts_agree():
    torch.manual_seed(0)
    layer, x = S4D(6, d_state=8), torch.randn(2, 20, 6)
    twin = S4D(6, d_state=8, transposed=True)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x.mT).mT, layer(x))


def test_dropout_drops_whole_channels_in_training_only():
    torch.manual_seed(0)
    layer, x = S4D(32, d_state=4, dropout=0.5), torch.randn(1, 20, 32)
    layer.output_linear = torch.nn.Identity()
    dropped = (layer(x) == 0).all(dim=1)
    assert 0 < dropped.sum() < 32
    assert not (layer.eval()(x) == 0).any()


def test_initial_values():
    torch.manual_seed(0)
    kernel = S4DKernel(512, d_state=8, dt_min=0.01, dt_max=0.2)
    assert math.log(0.01) <= kernel.log_dt.min() < kernel.log_dt.max() <= math.log(0.2)
    assert torch.equal(kernel.log_A_real.exp(), torch.full((512, 4), 0.5))
    torch.testing.assert_close(kernel.A_imag[7], math.pi * torch.arange(4.0))
    assert kernel.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)


def test_symmetries():
    assert_symmetries_hold(S4DKernel(3, d_state=4).double(), 17)


def test_dtypes_and_devices():
    assert S4D(4, d_state=4).to(torch.bfloat16).kernel(9).dtype == torch.float32
    with torch.device("meta"):
        assert all(p.is_meta for p in S4D(4, d_state=4).parameters())


def test_misfits_are_told():
    layer = S4D(6, d_state=8)
    for wrong in (torch.randn(2, 6, 20), torch.randn(20, 6)):
        with pytest.raises(ShapeError, match="D = 6"):
            layer(wrong)
    with pytest.raises(ShapeError, match=r"\[B, D\]"):
        layer.step(torch.randn(2, 5), layer.init_state(2))
    with pytest.raises(ConfigError, match="even"):
        S4D(6, d_state=7)
    with pytest.raises(ConfigError, match="dt_min"):
        S4D(6, dt_min=1.0, dt_max=0.1)
