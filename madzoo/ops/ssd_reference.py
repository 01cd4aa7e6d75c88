"""State space duality as its recurrence is written: the reference the chunked form is held against, and one step of it.

B batch, L length, H heads, P headdim, G groups, N states.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from madzoo.ops.scan_taps import ScanTaps

__all__ = ["advance", "reference_ssd", "tapped_ssd"]

NO_TAPS = ScanTaps()
Scan = Callable[..., tuple[Tensor, Tensor]]


def reference_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    state: Tensor,
    reverse: bool,
    chunk_size: int,
    taps: ScanTaps = NO_TAPS,
) -> tuple[Tensor, Tensor]:
    """Scans one position at a time; no tensor is written in place, so every transform and derivative order works.

    Shapes:
        x [B, L, H, P], dt [B, L, H], A [H], B, C [B, L, G, N], state [B, H, P, N] -> y [B, L, H, P], the last state.
    """
    steps = list(zip(*(tensor.unbind(1) for tensor in (x, dt, B, C)), strict=True))
    outputs = []
    for x_t, dt_t, B_t, C_t in reversed(steps) if reverse else steps:
        y_t, state = advance(state, x_t, dt_t, A, B_t, C_t, taps)
        outputs.append(y_t)
    return torch.stack(outputs[::-1] if reverse else outputs, dim=1), state


def tapped_ssd(
    scan: Scan, taps: ScanTaps, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[tuple[Tensor, ...], Scan]:
    """Lets taps read the sequences of a scan; returns its arguments, and the plain loop where the taps need it."""
    x, dt, B, C = taps.start(u=x, delta=dt, B=B, C=C)
    return (x, dt, A, B, C), partial(reference_ssd, taps=taps) if taps.need_loop else scan


def advance(
    state: Tensor, x_t: Tensor, dt_t: Tensor, A: Tensor, B_t: Tensor, C_t: Tensor, taps: ScanTaps = NO_TAPS
) -> tuple[Tensor, Tensor]:
    """Computes one position: ``h = exp(dt A) h + dt x B^T``, ``y = h C``.

    Shapes:
        state [B, H, P, N], x_t [B, H, P], dt_t [B, H], A [H], B_t, C_t [B, G, N] -> y_t [B, H, P], the next state.
    """
    heads = x_t.shape[1] // B_t.shape[1]
    B_BHN, C_BHN = (tensor.repeat_interleave(heads, dim=1) for tensor in (B_t, C_t))
    drive_BHP = x_t * dt_t.unsqueeze(-1)
    decay_BH11 = taps.before_step(torch.exp(dt_t * A))[..., None, None]
    state = taps.after_step(decay_BH11 * state + drive_BHP.unsqueeze(-1) * B_BHN.unsqueeze(-2))
    return (state * C_BHN.unsqueeze(-2)).sum(-1), state
