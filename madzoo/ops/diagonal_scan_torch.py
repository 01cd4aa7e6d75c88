"""The scan of a constant diagonal system by PyTorch's operators: as a loop, and as a long convolution.

B batch, H channels, L length, N conjugate pairs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from madzoo.ops.long_conv import long_conv
from madzoo.ops.scan_taps import ScanTaps, untapped
from madzoo.ops.vandermonde import vandermonde

__all__ = ["diagonal_scan_by_convolution", "diagonal_scan_by_reference", "tapped_diagonal_scan"]

NO_TAPS = ScanTaps()


def diagonal_scan_by_reference(
    u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None, reverse: bool, taps: ScanTaps = NO_TAPS
) -> Tensor:
    """Runs the recurrence of :func:`madzoo.ops.diagonal_scan` position by position.

    Shapes:
        u [B, H, L], v and log_z complex [H, N], D [H] -> [B, H, L].

    Cost: L steps of B H N complex multiplications; B H L N memory for a backward.
    """
    z_HN, steps = taps.before_step(torch.exp(log_z)), u.flip(-1).unbind(-1) if reverse else u.unbind(-1)
    h_BHN, found = z_HN.new_zeros(*u.shape[:-1], z_HN.shape[-1]), []
    for u_BH in steps:
        h_BHN = taps.after_step(z_HN * h_BHN + u_BH.unsqueeze(-1))
        found.append(2 * (v * h_BHN).sum(-1).real)
    y = torch.stack(found[::-1] if reverse else found, -1) if found else torch.zeros_like(u)
    return y if D is None else y + D.unsqueeze(-1) * u


def tapped_diagonal_scan(
    serve: Callable[..., Tensor],
    taps: ScanTaps,
    u: Tensor,
    v: Tensor,
    log_z: Tensor,
    D: Tensor | None,
    reverse: bool,
) -> Tensor:
    """Lets taps read u and runs the loop where they need it, else the given way.

    Shapes:
        u [B, H, L], v and log_z complex [H, N], D [H] -> [B, H, L].
    """
    (u,) = taps.start(u=u)
    if taps.need_loop:
        return diagonal_scan_by_reference(u, v, log_z, D, reverse, taps)
    with untapped():
        return serve(u, v, log_z, D, reverse)


def diagonal_scan_by_convolution(
    u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None, reverse: bool, method: str = "auto"
) -> Tensor:
    """Convolves with the impulse response of the system, by the given method of :func:`madzoo.ops.long_conv`.

    Shapes:
        u [B, H, L], v and log_z complex [H, N], D [H] -> [B, H, L].

    Cost: H L N complex multiplications for the response, and the convolution.
    """
    y = long_conv(u, vandermonde(v, log_z, u.shape[-1]), reverse=reverse, method=method)
    return y if D is None else y + D.unsqueeze(-1) * u
