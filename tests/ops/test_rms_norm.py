"""The root mean square norm: the kernel against the plain form, and derivatives of first and second order."""

from contextlib import nullcontext

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.ops import rms_norm
from madzoo.ops.kernels.library import instruction_set, kernel_status

ISAS = kernel_status().isas or (None,)
SHAPES = [(2, 3, 64), (130, 192), (1, 1), (5,), (3, 37)]
EPS = 1e-5


def plain(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def on(isa):
    return nullcontext() if isa is None else instruction_set(isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_plain_form(shape, dtype, isa):
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(shape[-1], dtype=dtype)
    with on(isa):
        found = rms_norm(x, weight, EPS)
    torch.testing.assert_close(
        found.double(), plain(x.double(), weight.double()), rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=1e-7
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_gradients_are_those_of_the_plain_form(shape, isa):
    x, weight, grad = (torch.randn(s, dtype=torch.float64) for s in (shape, shape[-1:], shape))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    with on(isa):
        found = torch.autograd.grad(rms_norm(x, weight, EPS), (x, weight), grad)
    torch.testing.assert_close(found, torch.autograd.grad(plain(x, weight), (x, weight), grad), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 5), (4,)], ids=str)
def test_derivatives_of_second_order(shape):
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, shape[-1:])]
    assert torch.autograd.gradcheck(rms_norm, tensors)
    assert torch.autograd.gradgradcheck(rms_norm, tensors)


def test_strided_rows_and_broadcast_gradients():
    x = torch.randn(4, 6, 20, dtype=torch.float64).transpose(0, 1)[..., ::2].detach().requires_grad_()
    weight = torch.randn(10, dtype=torch.float64)
    found = torch.autograd.grad(rms_norm(x, weight, EPS).sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(plain(x, weight).sum(), x))


def test_half_precision_takes_its_statistics_in_float32():
    x, weight = torch.randn(3, 32, dtype=torch.bfloat16), torch.randn(32)
    found = rms_norm(x, weight, EPS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain(x.float(), weight).bfloat16())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, in jvp
def test_under_transforms():
    x, weight = torch.randn(3, 4, 8), torch.randn(8)
    torch.testing.assert_close(torch.func.vmap(rms_norm, (0, None))(x, weight), rms_norm(x, weight))
    _, tangent = torch.func.jvp(lambda y: rms_norm(y, weight), (x,), (x,))
    _, true = torch.func.jvp(lambda y: plain(y, weight), (x,), (x,))
    torch.testing.assert_close(tangent, true)


@pytest.mark.skipif(not kernel_status().available, reason="needs the compiled kernels")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own, from torch 2.14 on
def test_it_is_a_sound_operator():
    x, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 7), (7,)))
    torch.library.opcheck(torch.ops.madzoo.rms_norm.default, (x, weight, EPS))


def test_the_weight_must_fit():
    with pytest.raises(ShapeError, match="does not fit"):
        rms_norm(torch.zeros(2, 3), torch.zeros(4))
