"""The generating function of a diagonal-plus-low-rank system against its recurrence, in float64 with gradients."""

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.ops.dplr import dplr_kernel, dplr_real_system, readout_row, readout_times_power


def system(channels=3, pairs=4, *, rank=1, outputs=2):
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.complex(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)))

    A = torch.complex(-noise(channels, pairs).real.abs() - 0.1, 5 * noise(channels, pairs).real)
    dt = noise(channels, 1).real.abs() / 10 + 0.02
    tensors = [A, noise(rank, channels, pairs) / 2, noise(channels, pairs), noise(outputs, channels, pairs), dt]
    return [x.requires_grad_() for x in tensors]


def by_recurrence(A, P, B, C, dt, length):
    """Builds both conjugates of every pair, discretises them densely and runs the state."""
    A, P, B, C = (torch.cat([x, x.conj()], -1) for x in (A, P, B, C))
    full = torch.diag_embed(A) - torch.einsum("rhi,rhj->hij", P, P.conj())
    one, half = torch.eye(A.shape[-1], dtype=A.dtype), full * dt.unsqueeze(-1) / 2
    A_bar = torch.linalg.solve(one - half, one + half)
    state, found = torch.linalg.solve(one - half, (B * dt).unsqueeze(-1)).squeeze(-1), []
    for _ in range(length):
        found.append((C * state).sum(-1).real)
        state = (A_bar @ state.unsqueeze(-1)).squeeze(-1)
    return torch.stack(found, -1)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 63])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_kernel_is_the_impulse_response(rank, length):
    A, P, B, C, dt = leaves = system(rank=rank)
    A_bar, _ = dplr_real_system(A, P, B, dt)
    kernel = dplr_kernel(A, P, B, C - readout_times_power(C, A_bar, length), dt, length)
    expected = by_recurrence(*leaves, length)
    torch.testing.assert_close(kernel, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(kernel.shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((k * weights).sum(), leaves) for k in (kernel, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_real_coordinates_take_the_same_steps():
    A, P, B, C, dt = (x.detach() for x in system(rank=2))
    A_bar, B_bar = dplr_real_system(A, P, B, dt)
    row, state, found = readout_row(C), B_bar, []
    for _ in range(9):
        found.append(2 * torch.einsum("hms,hs->mh", row, state))
        state = torch.einsum("hij,hj->hi", A_bar, state)
    torch.testing.assert_close(torch.stack(found, -1), by_recurrence(A, P, B, C, dt, 9), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("exponent", [0, 1, 2, 13])
def test_powers_of_the_state_matrix(exponent):
    A, P, B, C, dt = (x.detach() for x in system())
    A_bar, _ = dplr_real_system(A, P, B, dt)
    row = readout_row(C) @ torch.linalg.matrix_power(A_bar, exponent)
    torch.testing.assert_close(readout_row(readout_times_power(C, A_bar, exponent)), row, rtol=1e-10, atol=1e-12)


def test_float32_follows_float64():
    A, P, B, C, dt = (x.detach() for x in system())
    narrow = [x.to(torch.complex64 if x.is_complex() else torch.float32) for x in (A, P, B, C, dt)]
    expected = dplr_kernel(A, P, B, C, dt, 50).float()
    torch.testing.assert_close(dplr_kernel(*narrow, 50), expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_has_a_length():
    with pytest.raises(ShapeError, match="one sample"):
        dplr_kernel(*system(), 0)
