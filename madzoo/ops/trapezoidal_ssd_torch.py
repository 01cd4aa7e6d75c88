"""The trapezoidal scan as its recurrence is written, and in chunks: the reference, its fast form, and one step.

B batch, L length, K chunks, Q steps of a chunk, H heads, P headdim, N states.
Inside a chunk, j is the position that writes and i the position that reads.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["TrapezoidalState", "advance", "chunked_trapezoidal_ssd", "reference_trapezoidal_ssd"]


class TrapezoidalState(NamedTuple):
    """Holds what a trapezoidal scan remembers: the state [B, H, P, N] and the last x [B, H, P] and B [B, H, N]."""

    ssm: Tensor
    x: Tensor
    B: Tensor


def reference_trapezoidal_ssd(
    x: Tensor, dt: Tensor, A: Tensor, mix: Tensor, B: Tensor, C: Tensor, *, state: TrapezoidalState, chunk_size: int
) -> tuple[Tensor, TrapezoidalState]:
    """Scans one position at a time; no tensor is written in place, so every transform and derivative order works.

    Shapes:
        x [B, L, H, P], dt, A, mix [B, L, H], B, C [B, L, H, N] -> y [B, L, H, P], the last state.
    """
    outputs = []
    for now in zip(*(tensor.unbind(1) for tensor in (x, dt, A, mix, B, C)), strict=True):
        y_t, state = advance(state, *now)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


def advance(
    state: TrapezoidalState, x_t: Tensor, dt_t: Tensor, A_t: Tensor, mix_t: Tensor, B_t: Tensor, C_t: Tensor
) -> tuple[Tensor, TrapezoidalState]:
    """Computes one position: the step's integral is a mean of its two ends, weighted by mix.

    ``h = exp(dt A) (h + dt (1 - mix) x_before B_before^T) + dt mix x B^T``, ``y = h C``.

    Shapes:
        x_t [B, H, P], dt_t, A_t, mix_t [B, H], B_t, C_t [B, H, N] -> y_t [B, H, P], the next state.
    """
    decay, before, now = (w[..., None, None] for w in (torch.exp(dt_t * A_t), dt_t * (1 - mix_t), dt_t * mix_t))
    ssm = decay * (state.ssm + before * _outer(state.x, state.B)) + now * _outer(x_t, B_t)
    return (ssm * C_t.unsqueeze(-2)).sum(-1), TrapezoidalState(ssm, x_t, B_t)


def chunked_trapezoidal_ssd(
    x: Tensor, dt: Tensor, A: Tensor, mix: Tensor, B: Tensor, C: Tensor, *, state: TrapezoidalState, chunk_size: int
) -> tuple[Tensor, TrapezoidalState]:
    """Scans chunk after chunk by matrix products, in plain differentiable PyTorch.

    What position j writes is read with two weights: ``dt_j mix_j``, and from the next position on also
    ``dt_{j+1} (1 - mix_{j+1})``, both under the same decays. So it is one scan of x times the sum of the two, in which
    a position reads itself with the first weight only.

    Shapes:
        x [B, L, H, P], dt, A, mix [B, L, H], B, C [B, L, H, N] -> y [B, L, H, P], the last state.
    """
    length = x.shape[1]
    count = -(-length // chunk_size)
    size = -(-length // count)  # chunks of equal length: fewer padded steps than with chunks of chunk_size
    before_BLH, now_BLH = dt * (1 - mix), dt * mix
    both_BLH = now_BLH + pad(before_BLH[:, 1:], (0, 0, 0, 1))
    itself = x * (now_BLH * (B * C).sum(-1)).unsqueeze(-1)
    h = state.ssm + before_BLH[:, 0, :, None, None] * _outer(state.x, state.B)
    drive, B_BHKQN, C_BHKQN, a = (
        _split(part, count, size) for part in (x * both_BLH.unsqueeze(-1), B, C, (dt * A).unsqueeze(-1))
    )
    others, h = _scan_chunks(drive, B_BHKQN, C_BHKQN, a.squeeze(-1), h)
    return others[:, :, :length].transpose(1, 2) + itself, TrapezoidalState(h, x[:, -1], B[:, -1])


def _scan_chunks(drive: Tensor, B: Tensor, C: Tensor, a: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what all positions read from earlier ones, [B, H, K Q, P], and the state after the last."""
    between_ji, since_i = _decays(a)
    inner = (between_ji * (B @ C.mT).triu(1)).mT @ drive
    kept = (drive * between_ji[..., -1:]).mT
    chunks = zip(*(t.unbind(2) for t in (inner, kept, since_i.unsqueeze(-1), B, C)), strict=True)
    outputs = []
    for inner_BHQP, kept_BHPQ, since_BHQ1, B_BHQN, C_BHQN in chunks:
        outputs.append(torch.addcmul(inner_BHQP, C_BHQN @ h.mT, since_BHQ1))
        h = h * since_BHQ1[:, :, -1:] + kept_BHPQ @ B_BHQN
    return torch.cat(outputs, dim=2), h


def _decays(a: Tensor) -> tuple[Tensor, Tensor]:
    """Returns exp of the sum of a after j up to i (1 where i does not follow j), and from the chunk's edge up to i."""
    # A sum over just the steps between two positions, not a difference of longer sums: nothing cancels.
    later_ji = torch.ones(a.shape[-1], a.shape[-1], dtype=a.dtype, device=a.device).triu(1)
    return (a.unsqueeze(-2) * later_ji).cumsum(-1).exp(), a.cumsum(-1).exp()


def _split(tensor: Tensor, count: int, size: int) -> Tensor:
    # [B, L, H, .] -> [B, H, K, Q, .]. A padded step has a = 0 and writes nothing: it keeps the state.
    missing = count * size - tensor.shape[1]
    return pad(tensor.transpose(1, 2), (0, 0, 0, missing)).contiguous().unflatten(2, (count, size))


def _outer(x_BHP: Tensor, B_BHN: Tensor) -> Tensor:
    return x_BHP.unsqueeze(-1) * B_BHN.unsqueeze(-2)
