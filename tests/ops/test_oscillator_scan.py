"""The oscillator scan: the fast path against the loop and the loop against the published matrices, with gradients."""

import pytest
import torch

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.oscillator_scan import oscillator_response, oscillator_scan

CASES = [(1, 1), (2, 3), (3, 64), (5, 131)]


def inputs(oscillators, length, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(2, oscillators, length, generator=generator, dtype=dtype)
    A, dt = (torch.rand(oscillators, generator=generator, dtype=dtype) for _ in range(2))
    A[0] = 0  # at rest: the roots of its polynomial meet
    return f, A, dt + 0.1


def published(f, A, dt, discretization):
    """Matrices and forces as the authors' code writes them, one oscillator at a time."""
    x = torch.zeros_like(f)
    for p in range(len(A)):
        a, h = A[p], dt[p]
        if discretization == "IM":
            s = 1 / (1 + h**2 * a)
            M, F = [[1 - h**2 * a * s, -h * a * s], [h * s, s]], [(1 - h**2 * a * s) * h, h * s * h]
        else:
            M, F = [[torch.ones_like(a), -h * a], [h, 1 - h**2 * a]], [h, h**2]
        M, F = torch.stack([torch.stack(row) for row in M]), torch.stack(F)
        state = f.new_zeros(len(f), 2)
        for t in range(f.shape[-1]):
            state = state @ M.T + f[:, p, t, None] * F
            x[:, p, t] = state[:, 1]
    return x


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
@pytest.mark.parametrize(("oscillators", "length"), CASES)
@pytest.mark.parametrize("reverse", [False, True])
def test_paths_agree_with_gradients(discretization, oscillators, length, reverse):
    answers = []
    for backend in ("reference", "torch"):
        tensors = [x.requires_grad_() for x in inputs(oscillators, length)]
        y = oscillator_scan(*tensors, discretization=discretization, reverse=reverse, backend=backend)
        answers.append((y, *torch.autograd.grad((y * torch.arange(1, length + 1)).sum(), tensors)))
    for reference, fast in zip(*answers, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
def test_published_recurrence(discretization):
    f, A, dt = inputs(4, 19)
    y = oscillator_scan(f, A, dt, discretization=discretization, backend="reference")
    torch.testing.assert_close(y, published(f, A, dt, discretization), rtol=1e-12, atol=1e-12)


def test_reverse_is_the_mirror_image():
    f, A, dt = inputs(3, 17)
    torch.testing.assert_close(oscillator_scan(f.flip(-1), A, dt).flip(-1), oscillator_scan(f, A, dt, reverse=True))


def test_implicit_oscillations_decay_and_the_others_stay():
    A, dt = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    size = {kind: oscillator_response(A, dt, 3000, discretization=kind).abs() for kind in ("IM", "IMEX")}
    assert size["IM"][0, -100:].max() < 1e-6 * size["IM"].max()
    assert size["IMEX"][0, -100:].max() > 0.9 * size["IMEX"].max()


def test_single_precision_stays_close():
    f, A, dt = inputs(6, 500, dtype=torch.float32)
    double = oscillator_scan(f.double(), A.double(), dt.double(), discretization="IMEX")
    single = oscillator_scan(f, A, dt, discretization="IMEX")
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-3 * double.abs().max()


def test_second_derivatives():
    f, A, dt = inputs(2, 5)
    for kind in ("IM", "IMEX"):
        scan = lambda f, A, dt, kind=kind: oscillator_scan(f, A, dt, discretization=kind)  # noqa: E731
        torch.autograd.gradgradcheck(scan, [x.requires_grad_() for x in (f[:1], A + 0.1, dt)])


def test_errors():
    f, A, dt = inputs(3, 4)
    with pytest.raises(BackendError, match="unknown"):
        oscillator_scan(f, A, dt, discretization="EX")
    with pytest.raises(BackendError, match="unknown"):
        oscillator_scan(f, A, dt, backend="cuda")
    for bad in (f[:, :2], f[..., :0], f.to(torch.complex128), f[0, 0]):
        with pytest.raises(ShapeError, match="oscillator_scan"):
            oscillator_scan(bad, A, dt)
