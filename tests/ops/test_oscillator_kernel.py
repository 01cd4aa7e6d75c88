"""The kernel in real numbers against the complex one."""

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.layers.s4d import S4DKernel
from madzoo.ops.oscillator_kernel import oscillator_kernel


@pytest.mark.parametrize("length", [1, 5, 64])
@pytest.mark.parametrize("dt", [1e-4, 0.1])
def test_it_is_the_kernel_of_s4d(length, dt):
    kernel = S4DKernel(3, d_state=8, dt_min=dt, dt_max=2 * dt).double()
    parts = (-torch.exp(kernel.log_A_real), kernel.A_imag, kernel.C, torch.exp(kernel.log_dt).unsqueeze(-1))
    torch.testing.assert_close(oscillator_kernel(*parts, length), kernel(length), rtol=1e-10, atol=1e-13)


def test_an_empty_kernel_is_refused():
    ones = torch.ones(1, 1)
    with pytest.raises(ShapeError, match="sample"):
        oscillator_kernel(-ones, ones, torch.ones(1, 1, 2), ones, 0)
