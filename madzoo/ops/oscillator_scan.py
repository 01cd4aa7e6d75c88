"""Forced harmonic oscillators stepped through a sequence: a loop as reference, a convolution as fast path.

``x'' = -A x + f`` becomes a recurrence of velocity z and position x. Positions alone obey
``x_t = trace x_{t-1} - det x_{t-2} + gain f_t``, so their impulse response is ``gain U_k`` with
``U_0 = 1``, ``U_k = trace U_{k-1} - det U_{k-2}``.

Axes: P oscillators, L length, ``...`` any batch axes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.long_conv import long_conv
from madzoo.ops.scan_taps import refuse_taps

__all__ = ["DISCRETIZATIONS", "oscillator_response", "oscillator_scan", "oscillator_step"]

DISCRETIZATIONS = ("IM", "IMEX")
BACKENDS = ("auto", "reference", "torch")


class _Step(NamedTuple):
    """The recurrence ``z' = zz z + zx x + zf f``, ``x' = xz z + xx x + xf f``, each coefficient [P]."""

    zz: Tensor
    zx: Tensor
    zf: Tensor
    xz: Tensor
    xx: Tensor
    xf: Tensor


def oscillator_scan(
    f: Tensor, A: Tensor, dt: Tensor, *, discretization: str = "IM", reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """Returns the positions of oscillators at rest that are forced by a sequence.

    Args:
        f: the forces.
        A: squared frequencies, at least 0.
        dt: step sizes, above 0.
        discretization: ``"IM"`` (implicit: oscillations decay) or ``"IMEX"`` (implicit in the velocity, explicit in the
            position: they neither decay nor grow as long as dt^2 A < 4).
        reverse: from the last position to the first.
        backend: ``"reference"`` (the recurrence in a loop), ``"torch"`` (the convolution), ``"auto"`` (the latter).

    Shapes:
        f [..., P, L], real; A, dt [P] -> [..., P, L].

    Raises:
        ShapeError: when the shapes do not fit, or L is 0.
        BackendError: on an unknown backend or discretization.

    Cost: that of :func:`madzoo.ops.long_conv`, and O(P L) for its kernel.

    Source: arXiv 2410.03943, equations 3 to 5 (IM) and 6 (IMEX).

    Example:
        >>> f = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> oscillator_scan(f, torch.tensor([1.0]), torch.tensor([1.0]), discretization="IMEX")
        tensor([[ 1.,  1.,  0., -1.]])
    """
    _check(f, A, dt, discretization, backend)
    refuse_taps("oscillator_scan")
    if backend == "reference":
        f = f.flip(-1) if reverse else f
        x_PL = _by_loop(f, A, dt, discretization)
        return x_PL.flip(-1) if reverse else x_PL
    return long_conv(f, oscillator_response(A, dt, f.shape[-1], discretization=discretization), reverse=reverse)


def oscillator_response(A: Tensor, dt: Tensor, length: int, *, discretization: str = "IM") -> Tensor:
    """Returns the positions after a unit force at the first step.

    The length is doubled by ``U_{n+k} = U_n U_k - det U_{n-1} U_{k-1}``: no root of the characteristic polynomial is
    taken, so that a resting oscillator (A = 0), whose roots meet, is like any other.

    Shapes: A, dt [P] -> [P, length], in float32 at least.

    Cost: O(P length), in log2(length) steps.
    """
    dtype = torch.promote_types(A.dtype, torch.float32)
    A, dt = A.to(dtype), dt.to(dtype)
    stiffness = dt.square() * A
    if discretization == "IM":
        det = 1 / (1 + stiffness)
        trace, gain = 2 * det, dt.square() * det
    else:
        det = torch.ones_like(stiffness)
        trace, gain = 2 - stiffness, dt.square()
    det, trace = det.unsqueeze(-1), trace.unsqueeze(-1)
    padded = torch.cat([torch.zeros_like(det), torch.ones_like(det), trace], dim=-1)  # U_{-1}, U_0, U_1
    while padded.shape[-1] <= length:
        before, here = padded[:, :-1], padded[:, 1:]
        following = trace * padded[:, -1:] - det * padded[:, -2:-1]
        padded = torch.cat([padded, following * here - det * padded[:, -1:] * before], dim=-1)
    return gain.unsqueeze(-1) * padded[:, 1 : length + 1]


def oscillator_step(
    f_t: Tensor, z: Tensor, x: Tensor, A: Tensor, dt: Tensor, *, discretization: str = "IM"
) -> tuple[Tensor, Tensor]:
    """Returns velocity and position after one step.

    Shapes: f_t, z, x [..., P]; A, dt [P] -> z, x [..., P].
    """
    step = _coefficients(A, dt, discretization)
    return step.zz * z + step.zx * x + step.zf * f_t, step.xz * z + step.xx * x + step.xf * f_t


def _coefficients(A: Tensor, dt: Tensor, discretization: str) -> _Step:
    if discretization == "IM":
        share = 1 / (1 + dt.square() * A)
        return _Step(share, -dt * A * share, dt * share, dt * share, share, dt.square() * share)
    return _Step(torch.ones_like(A), -dt * A, dt, dt, 1 - dt.square() * A, dt.square())


def _by_loop(f: Tensor, A: Tensor, dt: Tensor, discretization: str) -> Tensor:
    z = x = torch.zeros_like(f[..., 0])
    positions = []
    for f_t in f.unbind(-1):
        z, x = oscillator_step(f_t, z, x, A, dt, discretization=discretization)
        positions.append(x)
    return torch.stack(positions, dim=-1)


def _check(f: Tensor, A: Tensor, dt: Tensor, discretization: str, backend: str) -> None:
    if discretization not in DISCRETIZATIONS or backend not in BACKENDS:
        looked = f"{', '.join(DISCRETIZATIONS)}; {', '.join(BACKENDS)}"
        raise BackendError("unknown discretization or backend.", asked=f"{discretization}, {backend}", looked=looked)
    if f.dim() < 2 or f.is_complex() or 0 in f.shape[-2:] or not A.shape == dt.shape == f.shape[-2:-1]:
        asked = f"f {list(f.shape)} {f.dtype}, A {list(A.shape)}, dt {list(dt.shape)}"
        raise ShapeError("oscillator_scan takes real f [..., P, L] and A, dt [P].", asked=asked)
