"""The pairwise linear scan against the loop."""

import pytest
import torch

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.scan import linear_scan


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 63])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_pairwise_equals_loop(length, reverse, dtype):
    generator = torch.Generator().manual_seed(length)
    a, b = (torch.randn(2, 3, length, generator=generator, dtype=dtype, requires_grad=True) for _ in range(2))
    start = torch.randn(2, 3, generator=generator, dtype=dtype, requires_grad=True)
    results = []
    for backend in ("auto", "reference"):
        h = linear_scan(a, b, initial=start, reverse=reverse, backend=backend)
        results.append([h, *torch.autograd.grad(h.abs().square().sum(), (a, b, start))])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


def test_broadcast_factor_is_a_geometric_series():
    h = linear_scan(torch.tensor([0.5]), torch.ones(1, 5))
    torch.testing.assert_close(h, torch.tensor([[1, 1.5, 1.75, 1.875, 1.9375]]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
@pytest.mark.parametrize("length", [1, 2, 3, 6])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_to_second_order_and_forward_mode(length, reverse, dtype):
    a, b = (torch.randn(2, length, dtype=dtype, requires_grad=True) for _ in range(2))
    start = torch.randn(2, dtype=dtype, requires_grad=True)

    def scan(a, b, start):
        return linear_scan(a, b, initial=start, reverse=reverse)

    assert torch.autograd.gradcheck(scan, (a, b, start), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scan, (a, b, start))


def test_inputs_are_left_alone():
    a, b = torch.rand(3, 2, 9).mT, torch.randn(9)
    kept = a.clone(), b.clone()
    h = linear_scan(a[..., :1], b)
    torch.testing.assert_close(h, linear_scan(a[..., :1], b, backend="reference"))
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])


def test_real_factors_and_complex_additions():
    a, b = torch.rand(3, 7), torch.randn(3, 7, dtype=torch.complex64)
    torch.testing.assert_close(linear_scan(a, b), linear_scan(a, b, backend="reference"))
    h = linear_scan(b, a, reverse=True)
    torch.testing.assert_close(h, linear_scan(b, a, reverse=True, backend="reference"))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
def test_transforms_and_programs_are_served():
    a, b = torch.rand(2, 7, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    expected = linear_scan(a, b)
    torch.testing.assert_close(torch.func.vmap(linear_scan)(a, b), expected)
    _, along = torch.func.jvp(lambda x: linear_scan(a, x), (b,), (b,))
    torch.testing.assert_close(along, expected)

    class Scan(torch.nn.Module):
        def forward(self, a, b):
            return linear_scan(a, b)

    torch.testing.assert_close(torch.export.export(Scan(), (a, b)).module()(a, b), expected)
    torch.testing.assert_close(torch.compile(Scan(), backend="eager", fullgraph=True)(a, b), expected)


def test_misuse_is_refused():
    with pytest.raises(ShapeError, match="do not fit"):
        linear_scan(torch.ones(3), torch.ones(4))
    with pytest.raises(ShapeError, match="empty"):
        linear_scan(torch.ones(0), torch.ones(0))
    with pytest.raises(BackendError):
        linear_scan(torch.ones(3), torch.ones(3), backend="fast")
