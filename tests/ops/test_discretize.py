"""Discretisation rules against their definitions."""

import pytest
import torch

from madzoo.ops import discretize_bilinear, discretize_euler, discretize_zoh

COMPLEX = torch.complex128


def system():
    torch.manual_seed(0)
    A = torch.complex(-torch.rand(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64))
    return A, torch.randn(6, dtype=COMPLEX), torch.rand(6, dtype=torch.float64)


def test_zoh_is_the_matrix_exponential_of_the_augmented_system():
    A, B, dt = system()
    A_bar, B_bar = discretize_zoh(A, B, dt)
    for n in range(6):
        augmented = torch.tensor([[A[n], B[n]], [0, 0]], dtype=COMPLEX) * dt[n]
        exact = torch.linalg.matrix_exp(augmented)[0]
        torch.testing.assert_close(torch.stack([A_bar[n], B_bar[n]]), exact, rtol=1e-13, atol=1e-14)


def test_zoh_has_its_limit_and_a_finite_gradient_at_zero():
    A = torch.tensor([0.0, -1e-300, -1.0], dtype=torch.float64, requires_grad=True)
    B = torch.full((3,), 3.0, dtype=torch.float64)
    A_bar, B_bar = discretize_zoh(A, B, torch.tensor(0.5, dtype=torch.float64))
    assert A_bar[0] == 1
    assert B_bar[0] == 1.5
    (B_bar.sum() + A_bar.sum()).backward()
    assert torch.isfinite(A.grad).all()
    assert A.grad[0] == pytest.approx(0.5 + 3 * 0.5**2 / 2)


def test_bilinear_is_the_trapezoidal_step():
    A, B, dt = system()
    A_bar, B_bar = discretize_bilinear(A, B, dt)
    x, u = torch.tensor(0.7, dtype=COMPLEX), torch.tensor(-1.3, dtype=COMPLEX)
    after = A_bar * x + B_bar * u
    torch.testing.assert_close(after, x + dt * (A * (x + after) / 2 + B * u), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("rule", "order"), [(discretize_bilinear, 3), (discretize_euler, 2)])
def test_rules_agree_with_zoh_to_their_order(rule, order):
    A, B, _ = system()

    def gap(dt):
        dt = torch.tensor(dt, dtype=torch.float64)
        pairs = zip(rule(A, B, dt), discretize_zoh(A, B, dt), strict=True)
        return max((ours - exact).abs().max().item() for ours, exact in pairs)

    assert gap(1e-2) / gap(1e-3) == pytest.approx(10**order, rel=0.1)


def test_float32_stays_float32():
    A, B, dt = (x.to(torch.complex64 if x.is_complex() else torch.float32) for x in system())
    for rule in (discretize_zoh, discretize_bilinear, discretize_euler):
        assert {part.dtype for part in rule(A, B, dt)} == {torch.complex64}
