"""The scan of a constant diagonal system: every backend against the plain loop, outputs and gradients."""

import pytest
import torch

from madzoo.errors import BackendError, ShapeError
from madzoo.ops import long_conv, vandermonde
from madzoo.ops.diagonal_scan import diagonal_scan, quickest
from madzoo.ops.kernels import library

BACKENDS = ["auto", "toeplitz", "fft", *(["cpu"] if library.kernel_library() is not None else [])]


def inputs(batch=(2,), channels=5, length=7, pairs=3):
    torch.manual_seed(0)
    u, D = torch.randn(*batch, channels, length, dtype=torch.float64), torch.randn(channels, dtype=torch.float64)
    decay, frequency = torch.rand(2, channels, pairs, dtype=torch.float64)
    v = torch.randn(channels, pairs, dtype=torch.complex128)
    return u, v, torch.complex(-decay, 3 * frequency), D


def results(tensors, grad, **options):
    tensors = [None if x is None else x.detach().requires_grad_() for x in tensors]
    y = diagonal_scan(*tensors, **options)
    return [y.detach(), *torch.autograd.grad(y, [x for x in tensors if x is not None], grad)]


def test_reference_is_the_convolution_with_the_impulse_response():
    u, v, log_z, D = inputs(length=23)
    for reverse in (False, True):
        expected = long_conv(u, vandermonde(v, log_z, 23), reverse=reverse, method="reference") + D[:, None] * u
        found = diagonal_scan(u, v, log_z, D, reverse=reverse, backend="reference")
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True], ids=["causal", "anticausal"])
@pytest.mark.parametrize("size", [((2,), 5, 7, 3), ((), 3, 1, 1), ((2, 3), 16, 40, 9)])
def test_equals_the_reference_with_gradients(size, reverse, backend):
    tensors = inputs(*size)
    for given in (tensors, (*tensors[:3], None)):
        grad = torch.randn_like(tensors[0])
        expected = results(given, grad, reverse=reverse, backend="reference")
        found = results(given, grad, reverse=reverse, backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_halves_are_computed_in_float32():
    u, v, log_z, D = inputs(length=33)
    y = diagonal_scan(u.bfloat16(), v.to(torch.complex64), log_z.to(torch.complex64), D.float())
    assert y.dtype == torch.bfloat16
    expected = diagonal_scan(u.bfloat16().double(), v, log_z, D, backend="reference")
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)


def test_the_rule():
    assert quickest(128, 4096, gradients=True, kernels=False) == "fft"
    assert quickest(128, 27, gradients=True, kernels=False) == "toeplitz"
    assert quickest(128, 27, gradients=True, kernels=True) == "cpu"
    assert [quickest(8, 27, gradients=wanted, kernels=True) for wanted in (False, True)] == ["cpu", "toeplitz"]
    assert quickest(1, 4096, gradients=False, kernels=True) == "fft"


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
def test_function_transforms_go_by_convolution():
    u, v, log_z, D = inputs(batch=(3,), channels=16, length=20)
    apart = torch.func.vmap(lambda one: diagonal_scan(one, v, log_z, D))(u)
    torch.testing.assert_close(apart, diagonal_scan(u, v, log_z, D))
    along = torch.func.jvp(lambda one: diagonal_scan(one, v, log_z), (u,), (u,))[1]
    torch.testing.assert_close(along, diagonal_scan(u, v, log_z))


def test_misfits_are_told():
    u, v, log_z, D = inputs()
    for wrong in ((u[:, :4], v, log_z), (u, v, log_z[:, :2]), (u, v, log_z, D[:3]), (u[0, 0], v, log_z)):
        with pytest.raises(ShapeError, match="do not fit"):
            diagonal_scan(*wrong)
    with pytest.raises(ShapeError, match="complex"):
        diagonal_scan(u, v.real, log_z)
    with pytest.raises(BackendError, match="unknown backend 'ftt'"):
        diagonal_scan(u, v, log_z, backend="ftt")
