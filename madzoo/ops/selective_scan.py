"""The selective scan of Mamba-1: one signature, one dispatcher, a reference and a lean path.

B batch, D channels, G groups, L length, N states.
"""

import logging
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.errors import BackendError, ShapeError, nearest
from madzoo.ops.selective_scan_lean import lean_scan
from madzoo.ops.selective_scan_reference import reference_scan

__all__ = ["BACKENDS", "selective_scan"]

BACKENDS = ("auto", "reference", "torch")
_log = logging.getLogger(__name__)
_told: set[str] = set()


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs the recurrence ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t``, ``y_t = C_t h_t + D u_t`` of every channel.

    With ``z`` the output is gated, ``y_t * silu(z_t)``. With complex ``A`` the output is ``2 Re(C_t h_t)``.
    Half-precision inputs are computed in float32; the output has the dtype of ``u``.

    Args:
        u: the sequence.
        delta: step sizes dt, before ``delta_bias`` and softplus.
        A: the diagonal of the continuous-time state matrix.
        B, C: input and output vectors, constant or one per position (shared by the D/G channels of a group).
        D: skip weights.
        z: gate.
        delta_bias: added to ``delta``.
        delta_softplus: applies softplus to the step sizes.
        return_last_state: also returns the state after the last step.
        reverse: scans from the last position to the first.
        backend: ``"reference"`` (plain loop, differentiable to any order, any ``A``), ``"torch"`` (lean loop, real
            ``A`` and per-position B and C), ``"auto"`` (the quickest that serves).

    Shapes:
        u, delta, z: [B, D, L]. A: [D, N]. D, delta_bias: [D].
        B, C: [D, N], [B, N, L] or [B, G, N, L]; with complex A the last axis is 2 L, real and imaginary parts in turn.
        returns [B, D, L], and [B, D, N] for the last state.

    Raises:
        ShapeError: when shapes do not fit.
        BackendError: when the backend is unknown or does not serve these inputs.

    Cost: B D L N exponentials. Memory beyond the inputs: B D N for the forward of "torch", B D N (L / 8 + 16) for its
    backward; B D L N for the backward of "reference".

    Source: arXiv 2312.00752, Algorithm 2 and equation 1; signature of mamba_ssm's ``selective_scan_fn``.

    Example:
        >>> import torch
        >>> u = torch.ones(1, 2, 3)
        >>> y = selective_scan(u, u, -torch.ones(2, 4), torch.ones(1, 4, 3), torch.ones(1, 4, 3))
        >>> y.shape
        torch.Size([1, 2, 3])
    """
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    dtype = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(device_type=u.device.type, enabled=False):
        dt = delta.to(dtype) if delta_bias is None else delta.to(dtype) + delta_bias.to(dtype)[:, None]
        dt = F.softplus(dt) if delta_softplus else dt
        scan = _choose(A, B, C, backend)
        A, B, C = (_promote(x, dtype, A.is_complex()) for x in (A, B, C))
        y, state = scan(u.to(dtype), dt, A, B, C, reverse=reverse)
        y = y if D is None else y + u.to(dtype) * D.to(dtype)[:, None]
        y = y if z is None else y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, state) if return_last_state else y


def _choose(A: Tensor, B: Tensor, C: Tensor, backend: str):  # noqa: ANN202 - one of two functions of one signature
    if backend not in BACKENDS:
        raise BackendError(
            f"unknown backend {backend!r}.", asked=backend, looked=", ".join(BACKENDS), todo=nearest(backend, BACKENDS)
        )
    lacking = _why_not_lean(A, B, C)
    if backend == "torch" and lacking:
        raise BackendError(f"backend 'torch' does not serve {lacking}.", asked=backend, todo="backend='auto'")
    if backend == "auto" and lacking and lacking not in _told:
        _told.add(lacking)
        _log.info("selective_scan: %s is served by the reference loop", lacking)
    return reference_scan if lacking or backend == "reference" else lean_scan


def _why_not_lean(A: Tensor, B: Tensor, C: Tensor) -> str | None:
    if A.is_complex():
        return "complex A"
    if B.dim() == 2 or C.dim() == 2:
        return "constant B or C"
    # The lean path writes in place, which function transforms (vmap, jvp, jacrev) cannot follow.
    return "torch.func transforms" if torch._C._are_functorch_transforms_active() else None


def _promote(x: Tensor, dtype: torch.dtype, complex_A: bool) -> Tensor:
    if not complex_A:
        return x.to(dtype)
    if x.is_complex() or x.dim() == 2:
        return x.to(dtype.to_complex())
    return torch.view_as_complex(x.to(dtype).unflatten(-1, (-1, 2)).contiguous())


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Tensor | None) -> None:
    if u.dim() != 3 or not u.is_floating_point():
        raise ShapeError("selective_scan: u must be a floating tensor [B, D, L].", asked=f"u {u.dtype} {_shape(u)}")
    batch, channels, length = u.shape
    if length == 0:
        raise ShapeError("selective_scan: the sequence is empty.", asked=f"u {_shape(u)}")
    skip, gate, bias = rest
    like_u = {"delta": delta, "z": gate}
    per_channel = {"D": skip, "delta_bias": bias}
    for name, tensor in (like_u | per_channel).items():
        shape = u.shape if name in like_u else (channels,)
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(f"selective_scan: {name} does not fit u.", asked=_shape(tensor), todo=f"{list(shape)}")
    if A.dim() != 2 or A.shape[0] != channels:
        raise ShapeError("selective_scan: A does not fit u.", asked=_shape(A), todo=f"[{channels}, N]")
    states, positions = A.shape[1], 2 * length if A.is_complex() else length
    for name, x in (("B", B), ("C", C)):
        constant = x.shape == (channels, states)
        shared = x.shape == (batch, states, positions)
        grouped = (
            x.dim() == 4
            and (x.shape[0], *x.shape[2:]) == (batch, states, positions)
            and x.shape[1] > 0
            and channels % x.shape[1] == 0
        )
        if not (constant or shared or grouped):
            options = f"[{channels}, {states}], [{batch}, {states}, {positions}] or [{batch}, G, {states}, {positions}]"
            raise ShapeError(f"selective_scan: {name} does not fit u and A.", asked=_shape(x), todo=options)


def _shape(x: Tensor) -> str:
    return str(list(x.shape))
