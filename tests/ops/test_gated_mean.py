"""The gated mean: the kernel against the plain form, in every layout, and derivatives through the plain one."""

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


def test_derivatives():
    tensors = [t.requires_grad_() for t in sequences(2, 3, 4, torch.float64, channel_last=True)]
    assert torch.autograd.gradcheck(gated_mean, tensors)
    assert torch.autograd.gradgradcheck(gated_mean, tensors)


def test_gradients_of_the_gate_alone():
    x, y, z = sequences(1, 16, 4, torch.float64, channel_last=True)
    z = z.detach().requires_grad_()
    assert torch.autograd.grad(gated_mean(x, y, z).sum(), z)[0].isfinite().all()


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match="three tensors"):
        gated_mean(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
