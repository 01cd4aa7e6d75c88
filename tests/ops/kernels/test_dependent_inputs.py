"""Operators whose inputs were computed from one another: the gradient is the same one with a graph and without."""

import pytest
import torch

from madzoo.ops import causal_conv1d, selective_scan
from madzoo.ops.diagonal_scan import diagonal_scan
from madzoo.ops.kernels.library import kernel_library

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="this machine has no compiled kernels")


def leaf(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def scanned(u, backend):  # as Mamba does: step sizes, B and C are functions of u
    B, C = u[:, :2], u[:, 1:].sin()
    return selective_scan(u, u.cos(), -torch.ones(3, 2, dtype=u.dtype), B, C, delta_softplus=True, backend=backend)


def convolved(x, backend):
    return causal_conv1d(x, x[0, :, :2].sin(), x[0, :, 0], activation="silu", backend=backend)


def filtered(u, backend):
    log_z = torch.complex(-u[0, :, :2].square(), u[0, :, 1:3])
    return diagonal_scan(u, log_z.exp(), log_z, log_z[:, 0].real, backend=backend)


@pytest.mark.parametrize(("run", "other"), [(scanned, "reference"), (convolved, "torch"), (filtered, "reference")])
def test_a_gradient_with_a_graph_is_the_gradient(run, other):
    u = leaf(1, 3, 6)
    (plain,) = torch.autograd.grad(run(u, "cpu").square().sum(), u)
    (again,) = torch.autograd.grad(run(u, "cpu").square().sum(), u, create_graph=True)
    (reference,) = torch.autograd.grad(run(u, other).square().sum(), u, create_graph=True)
    torch.testing.assert_close(again, plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(again, reference, rtol=1e-10, atol=1e-12)
    second, expected = (torch.autograd.grad(g.sin().sum(), u)[0] for g in (again, reference))
    torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-11)
