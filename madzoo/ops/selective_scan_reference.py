"""The selective scan as its recurrence is written: the reference every faster path is held against."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.ops.scan_taps import ScanTaps

__all__ = ["around_scan", "reference_scan", "selective_scan_by_reference", "with_taps"]

NO_TAPS = ScanTaps()
Scan = Callable[..., tuple[Tensor, Tensor]]


def reference_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, reverse: bool, taps: ScanTaps = NO_TAPS
) -> tuple[Tensor, Tensor]:
    """Scans one position at a time; no tensor is written in place, so every transform and derivative order works.

    Shapes:
        u, dt: [B, D, L]. A: [D, N], real or complex. B, C: [D, N], [B, N, L] or [B, G, N, L] in A's dtype.
        returns y [B, D, L] (real) and the last state [B, D, N].
    """
    state = u.new_zeros(u.shape[0], *A.shape).to(A.dtype)
    outputs: list[Tensor] = [state.real] * u.shape[-1]
    for t in reversed(range(u.shape[-1])) if reverse else range(u.shape[-1]):
        dt_BD1 = dt[..., t].unsqueeze(-1)
        drive = dt_BD1 * u[..., t].unsqueeze(-1) * _at(B, t, u.shape[1])
        state = taps.after_step(taps.before_step(torch.exp(dt_BD1 * A)) * state + drive)
        y_BD = (state * _at(C, t, u.shape[1])).sum(-1)
        outputs[t] = 2 * y_BD.real if y_BD.is_complex() else y_BD
    return torch.stack(outputs, dim=-1), state


def selective_scan_by_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Does all of :func:`madzoo.ops.selective_scan`, the scan itself by :func:`reference_scan`."""
    return around_scan(reference_scan, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)


def with_taps(scan: Scan, taps: ScanTaps) -> Scan:
    """Returns a scan of the same arguments that lets taps read first; the plain loop where they need it."""

    def tapped(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        u, dt, B, C = taps.start(u=u, delta=_step_sizes(delta, delta_bias, delta_softplus), B=B, C=C)
        if taps.need_loop:
            return around_scan(partial(reference_scan, taps=taps), u, dt, A, B, C, D, z, None, False, reverse)
        return scan(u, dt, A, B, C, D, z, None, False, reverse)

    return tapped


def around_scan(
    scan: Scan,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Puts step sizes before a bare scan, and skip and gate after it."""
    y, state = scan(u, _step_sizes(delta, delta_bias, delta_softplus), A, B, C, reverse=reverse)
    y = y if D is None else y + u * D[:, None]
    return (y if z is None else y * F.silu(z)), state


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    dt = delta if bias is None else delta + bias[:, None]
    return F.softplus(dt) if softplus else dt


def _at(x: Tensor, t: int, channels: int) -> Tensor:
    if x.dim() == 2:
        return x
    x_BGN = x[..., t].unsqueeze(1) if x.dim() == 3 else x[..., t]
    return x_BGN.repeat_interleave(channels // x_BGN.shape[1], dim=1)
