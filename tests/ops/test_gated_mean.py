"""The gated mean: the kernel against the plain form, in every layout, and derivatives through the plain one."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from madzoo.errors import ShapeError
from madzoo.ops import gated_mean
from madzoo.ops.kernels.library import instruction_set, kernel_status

ISAS = kernel_status().isas or (None,)


def sequences(batch, channels, length, dtype, *, channel_last):
    if channel_last:
        return [torch.randn(batch, length, 2 * channels, dtype=dtype)[..., :channels].transpose(1, 2) for _ in range(3)]
    return [torch.randn(batch, channels, length, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize("sizes", [(2, 32, 70), (1, 5, 1), (2, 21, 33)], ids=str)
def test_equals_the_plain_form(sizes, channel_last, dtype, isa):
    x, y, z = sequences(*sizes, dtype, channel_last=channel_last)
    if isa is None:
        found = gated_mean(x, y, z)
    else:
        with instruction_set(isa):
            found = gated_mean(x, y, z)
    true = (x.double() + y.double()) / 2 * F.silu(z.double())
    torch.testing.assert_close(found.double(), true, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize("sizes", [(2, 16, 3), (1, 5, 18)], ids=str)
def test_derivatives(sizes, channel_last, isa):
    tensors = [t.detach().requires_grad_() for t in sequences(*sizes, torch.float64, channel_last=channel_last)]
    with nullcontext() if isa is None else instruction_set(isa):
        assert torch.autograd.gradcheck(gated_mean, tensors)
        assert torch.autograd.gradgradcheck(gated_mean, tensors)


def test_gradients_in_float32_are_those_in_float64():
    tensors = [t.detach().requires_grad_() for t in sequences(2, 32, 70, torch.float32, channel_last=True)]
    grad = torch.randn(2, 32, 70)
    found = torch.autograd.grad(gated_mean(*tensors), tensors, grad)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    x, y, z = wide
    true = torch.autograd.grad((x + y) / 2 * F.silu(z), wide, grad.double())
    for one, other in zip(found, true, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not kernel_status().available, reason="needs the compiled kernels")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own, from torch 2.14 on
def test_it_is_a_sound_operator():
    tensors = [t.detach().requires_grad_() for t in sequences(2, 5, 7, torch.float64, channel_last=True)]
    torch.library.opcheck(torch.ops.madzoo.gated_mean.default, tuple(tensors))


def test_a_gate_in_half_precision_beside_float32():
    x, y, z = sequences(2, 16, 9, torch.float32, channel_last=True)
    found = gated_mean(x, y, z.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gated_mean(x, y, z.bfloat16().float()))


def test_gradients_of_the_gate_alone():
    x, y, z = sequences(1, 16, 4, torch.float64, channel_last=True)
    z = z.detach().requires_grad_()
    assert torch.autograd.grad(gated_mean(x, y, z).sum(), z)[0].isfinite().all()


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match="three tensors"):
        gated_mean(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
