"""Systems whose state matrix is diagonal plus low rank (S4): their convolution kernel, and the matrices of a step.

A state is complex, one of each conjugate pair; its matrix is ``diag(A) - P P*`` on the pairs, and its discrete form is
bilinear. The ``C`` of a truncated system is ``C (1 - A_bar^L)``: with it, the first L samples of the kernel have a
generating function of low rank, which is what S4 learns.

Axes: H channels, N conjugate pairs, R rank, M outputs per channel, L length, F = L // 2 + 1 frequencies, S = 2 N real
coordinates of a state: its real parts, then its imaginary ones.
"""

import math

import torch
from torch import Tensor

from madzoo.errors import ShapeError

__all__ = ["dplr_kernel", "dplr_real_system", "readout_row", "readout_times_power"]


def dplr_kernel(A: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor, length: int) -> Tensor:
    """Returns the impulse response from the truncated output vectors, sampled at the roots of unity.

    Args:
        A: diagonal part, real parts at most 0.
        P: factors of the low-rank part.
        B: input vectors.
        C: output vectors, truncated for this length, see :func:`readout_times_power`.
        dt: steps.
        length: number of samples L.

    Shapes:
        A, B [H, N], P [R, H, N], C [M, H, N], all complex; dt [H, 1] -> [M, H, L], real.

    Raises:
        ShapeError: when length is below 1.

    Cost: O(H N L) reciprocals and as much memory, O(H (M + R) (1 + R) N L) products.

    Source: arXiv 2111.00396 (S4), algorithm 1 and appendix C.3, with numerator and denominator multiplied by 1 + omega:
    so that the frequency -1, where the bilinear node is infinite, is no exception.

    Example:
        >>> A, one = torch.tensor([[-1.0 + 0j]]), torch.ones(1, 1, dtype=torch.complex64)
        >>> dplr_kernel(A, torch.zeros(1, 1, 1) + 0j, one, one[None], torch.ones(1, 1), 4).shape
        torch.Size([1, 1, 4])
    """
    if length < 1:
        raise ShapeError("a kernel has at least one sample.", asked=f"length {length}")
    turn_F = torch.arange(length // 2 + 1, device=A.device, dtype=A.real.dtype) * (-2 * math.pi / length)
    omega_F = torch.polar(torch.ones_like(turn_F), turn_F)
    near_F, far_F = 2 * (1 - omega_F), 1 + omega_F
    into = torch.cat([B.unsqueeze(0), P]) * dt
    out = torch.cat([C, P.conj()])
    sums = _pair_sums(into.unsqueeze(1) * out, A * dt, near_F, far_F)
    outputs = len(C)
    low, corner = far_F * sums[:1, outputs:], far_F * sums[1:, outputs:]
    k_1MHF = sums[:1, :outputs] - _apply(low, _invert(corner, sums[1:, :outputs]))
    return torch.fft.irfft(2 * k_1MHF[0], n=length)


def dplr_real_system(A: Tensor, P: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretises by the bilinear rule, in real coordinates.

    Shapes:
        A, B [H, N], P [R, H, N], complex; dt [H, 1] -> A_bar [H, S, S], B_bar [H, S], real.

    Cost: O(H S^3).

    Source: arXiv 2111.00396 (S4), equation 3.
    """
    p_RHS = torch.cat([P.real, P.imag], -1)
    rotation, decay = torch.diag_embed(A.imag), torch.diag_embed(A.real)
    full_HSS = torch.cat([torch.cat([decay, -rotation], -1), torch.cat([rotation, decay], -1)], -2)
    full_HSS = full_HSS - 2 * torch.einsum("rhi,rhj->hij", p_RHS, p_RHS)
    half = full_HSS * (dt / 2).unsqueeze(-1)
    one = torch.eye(full_HSS.shape[-1], dtype=half.dtype, device=half.device)
    b_HS1 = (torch.cat([B.real, B.imag], -1) * dt).unsqueeze(-1)
    solved = torch.linalg.solve(one - half, torch.cat([one + half, b_HS1], -1))
    return solved[..., :-1], solved[..., -1]


def readout_row(C: Tensor) -> Tensor:
    """Returns output vectors [M, H, N] as rows [H, M, S] over real coordinates: twice the product is ``2 Re(C x)``."""
    return torch.cat([C.real, -C.imag], -1).transpose(0, 1)


def readout_times_power(C: Tensor, A_bar: Tensor, exponent: int) -> Tensor:
    """Returns ``C A_bar^exponent``, for truncating output vectors and for going on from a truncation.

    Shapes:
        C [M, H, N], complex; A_bar [H, S, S], real -> [M, H, N], complex.

    Cost: O(H S^3 log exponent).
    """
    row, power = readout_row(C), A_bar
    while exponent:
        row = row @ power if exponent % 2 else row
        exponent //= 2
        power = power @ power if exponent else power
    real, imag = row.transpose(0, 1).chunk(2, -1)
    return torch.complex(real, -imag)


def _pair_sums(v_XYHN: Tensor, w_HN: Tensor, near_F: Tensor, far_F: Tensor) -> Tensor:
    """Sums v / (near - w far) over conjugate pairs: a pair is one fraction, whose denominator all sums share."""
    even = (2 * v_XYHN.real).flatten(0, 1).transpose(0, 1)
    odd = (2 * (v_XYHN * w_HN.conj()).real).flatten(0, 1).transpose(0, 1)
    w_HN1 = w_HN.unsqueeze(-1)
    one_HNF = ((near_F - w_HN1 * far_F) * (near_F - w_HN1.conj() * far_F)).reciprocal()
    both = torch.cat([even, odd], 1).to(one_HNF.dtype) @ one_HNF
    even, odd = both.chunk(2, 1)
    return (near_F * even - far_F * odd).transpose(0, 1).unflatten(0, v_XYHN.shape[:2])


def _invert(corner_RRHF: Tensor, right_RMHF: Tensor) -> Tensor:
    rank = len(corner_RRHF)
    if rank == 1:
        return right_RMHF / (1 + corner_RRHF)
    one = torch.eye(rank, dtype=corner_RRHF.dtype, device=corner_RRHF.device)
    solved = torch.linalg.solve(one + corner_RRHF.permute(2, 3, 0, 1), right_RMHF.permute(2, 3, 0, 1))
    return solved.permute(2, 3, 0, 1)


def _apply(left_1RHF: Tensor, right_RMHF: Tensor) -> Tensor:
    return (left_1RHF.transpose(0, 1) * right_RMHF).sum(0, keepdim=True)
