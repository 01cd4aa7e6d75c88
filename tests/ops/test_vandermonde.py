"""The factored Vandermonde product against the direct sum."""

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.ops import vandermonde


def system(channels=3, pairs=5):
    torch.manual_seed(0)
    v = torch.randn(channels, pairs, dtype=torch.complex128)
    decay, frequency = torch.rand(2, channels, pairs, dtype=torch.float64)
    return v, torch.complex(-decay, 3 * frequency)


def direct_sum(v, log_z, length):
    powers = torch.exp(log_z.unsqueeze(-1) * torch.arange(length))
    return 2 * (v.unsqueeze(-1) * powers).sum(-2).real


@pytest.mark.parametrize("length", [1, 2, 3, 4, 63, 64, 65, 1000])
def test_equals_the_direct_sum(length):
    v, log_z = system()
    torch.testing.assert_close(vandermonde(v, log_z, length), direct_sum(v, log_z, length), rtol=1e-12, atol=1e-13)


def test_gradients_equal_those_of_the_direct_sum():
    v, log_z = (x.requires_grad_() for x in system())
    weights = torch.randn(3, 37, dtype=torch.float64)
    ours = torch.autograd.grad((vandermonde(v, log_z, 37) * weights).sum(), [v, log_z])
    theirs = torch.autograd.grad((direct_sum(v, log_z, 37) * weights).sum(), [v, log_z])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_keeps_leading_axes():
    v, log_z = system()
    both = vandermonde(torch.stack([v, 2 * v]), log_z, 9)
    assert both.shape == (2, 3, 9)
    torch.testing.assert_close(both[1], 2 * both[0])


def test_misfits_are_told():
    v, log_z = system()
    with pytest.raises(ShapeError, match="at least one"):
        vandermonde(v, log_z, 0)
    with pytest.raises(ShapeError, match="complex"):
        vandermonde(v.real, log_z, 4)
