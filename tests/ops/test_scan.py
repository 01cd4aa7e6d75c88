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


def test_misuse_is_refused():
    with pytest.raises(ShapeError, match="do not fit"):
        linear_scan(torch.ones(3), torch.ones(4))
    with pytest.raises(ShapeError, match="empty"):
        linear_scan(torch.ones(0), torch.ones(0))
    with pytest.raises(BackendError):
        linear_scan(torch.ones(3), torch.ones(3), backend="fast")
