"""The selective scan of Mamba-1: one signature, one dispatcher, a reference and faster paths.

B batch, D channels, G groups, L length, N states.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, overload

import torch
from torch import Tensor

from madzoo.errors import BackendError, ShapeError, nearest
from madzoo.ops.kernels.selective_scan_cpu import cpu_selective_scan, why_not_cpu
from madzoo.ops.kernels.selective_scan_direct import scan_directly
from madzoo.ops.onnx_export import is_onnx_export
from madzoo.ops.scan_taps import current_taps
from madzoo.ops.selective_scan_lean import lean_selective_scan, why_not_lean
from madzoo.ops.selective_scan_onnx import selective_scan_for_onnx, why_not_onnx
from madzoo.ops.selective_scan_reference import selective_scan_by_reference, with_taps

__all__ = ["BACKENDS", "selective_scan", "use_backend"]

BACKENDS = ("auto", "reference", "torch", "cpu", "triton", "mamba_ssm")
READ_HALVES = ("triton", "mamba_ssm")  # they compute in float32 all the same
Scan = Callable[..., tuple[Tensor, Tensor]]
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
            ``A`` and per-position B and C), ``"cpu"`` (the compiled kernel, likewise), ``"triton"`` and ``"mamba_ssm"``
            (on a GPU, likewise), ``"auto"`` (the quickest that serves; :func:`use_backend` gives it another meaning).

    Shapes:
        u, delta, z: [B, D, L]. A: [D, N]. D, delta_bias: [D].
        B, C: [D, N], [B, N, L] or [B, G, N, L]; with complex A the last axis is 2 L, real and imaginary parts in turn.
        returns [B, D, L], and [B, D, N] for the last state.

    Raises:
        ShapeError: when shapes do not fit.
        BackendError: when the backend is unknown or does not serve these inputs.

    Cost: B D L N exponentials. Memory beyond inputs and output: B D N L / 16 for the backward of "cpu", nothing for its
    forward; B D N for the forward of "torch", B D N (L / 8 + 16) for its backward; B D L N for the backward of
    "reference".

    Source: arXiv 2312.00752, Algorithm 2 and equation 1; signature of mamba_ssm's ``selective_scan_fn``.

    Example:
        >>> import torch
        >>> u = torch.ones(1, 2, 3)
        >>> y = selective_scan(u, u, -torch.ones(2, 4), torch.ones(1, 4, 3), torch.ones(1, 4, 3))
        >>> y.shape
        torch.Size([1, 2, 3])
    """
    asked = _default if backend == "auto" else backend
    taps = current_taps()
    if asked in ("auto", "cpu") and not return_last_state and taps is None:
        direct = scan_directly(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
        if direct is not None:
            return direct
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    chosen = _choose(asked, u, delta, A, B, C, return_last_state)
    scan, _ = _backend(chosen)
    scan = scan if taps is None else with_taps(scan, taps)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    as_read = u.dtype if chosen in READ_HALVES else dtype
    with _without_autocast(u.device.type):
        B, C = _grouped(*(_promote(x, as_read, A.is_complex()) for x in (B, C)))
        A = _promote(A, dtype, A.is_complex())
        sequences = (_cast(x, as_read) for x in (u, delta))
        gate = None if z is None else _cast(z, as_read)
        skip, bias = (None if x is None else _cast(x, dtype) for x in (D, delta_bias))
        y, state = scan(*sequences, A, B, C, skip, gate, bias, delta_softplus, reverse)
    y = _cast(y, u.dtype)
    return (y, state) if return_last_state else y


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    # Entered only where it changes something: an exported graph would keep it as a graph within the graph.
    active = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type=device_type, enabled=False) if active else nullcontext()


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    # Not even asked of torch where it is so already: for a short sequence every call counts.
    return x if x.dtype == dtype else x.to(dtype)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Makes ``backend="auto"`` mean another backend for a while, in every thread of this process.

    Raises:
        BackendError: when the backend is unknown; and from a scan that it does not serve.
    """
    global _default
    _check_name(name)
    before, _default = _default, name
    try:
        yield
    finally:
        _default = before


_default = "auto"


def _choose(backend: str, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, return_last_state: bool) -> str:
    """Returns the name of the backend that serves; ``"onnx"`` is one that nobody can ask for."""
    _check_name(backend)
    if backend != "auto":
        lacking = _lacking(backend, u, A, B, C)
        if lacking:
            raise BackendError(f"backend {backend!r} does not serve {lacking}.", asked=backend, todo="backend='auto'")
        return backend
    if is_onnx_export() and not why_not_onnx(A, B, C):
        return "onnx"
    if u.is_cuda and (kernel := _gpu_kernel(u, delta, A, B, C, return_last_state)):
        return kernel
    for name in ("cpu", "torch"):
        lacking = _lacking(name, u, A, B, C)
        if not lacking:
            return name
    if lacking not in _told:
        _told.add(lacking)
        _log.info("selective_scan: %s is served by the reference loop", lacking)
    return "reference"


def _lacking(name: str, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Returns what keeps a backend from serving these inputs."""
    _, why_not = _backend(name)
    # Fast paths write in place or know no derivative but the first: function transforms (vmap, jvp, jacrev) need more.
    if name != "reference" and torch._C._are_functorch_transforms_active():
        return "torch.func transforms"
    return why_not(u, A, B, C)


def _backend(name: str) -> tuple[Scan, Callable[..., str | None]]:
    """Returns the function of a backend, and the one that says why it does not serve."""
    if name == "triton":
        from madzoo.ops.kernels.selective_scan_triton import triton_selective_scan, why_not_triton

        return triton_selective_scan, why_not_triton
    if name == "mamba_ssm":
        from madzoo.ops.kernels.selective_scan_cuda import cuda_selective_scan, why_not_cuda

        return cuda_selective_scan, why_not_cuda
    return _BACKENDS[name]


_BACKENDS: dict[str, tuple[Scan, Callable[..., str | None]]] = {
    "cpu": (cpu_selective_scan, why_not_cpu),
    "torch": (lean_selective_scan, why_not_lean),
    "onnx": (selective_scan_for_onnx, lambda u, A, B, C: why_not_onnx(A, B, C)),
    "reference": (selective_scan_by_reference, lambda u, A, B, C: None),
}


def _gpu_kernel(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, return_last_state: bool) -> str | None:
    if torch._C._are_functorch_transforms_active():
        return None
    from madzoo.ops.kernels.selective_scan_gpu import choose_gpu_backend

    last_state_needs_grad = return_last_state and torch.is_grad_enabled()
    return choose_gpu_backend(u, delta, A, B, C, last_state_needs_grad=last_state_needs_grad)


def _check_name(backend: str) -> None:
    if backend not in BACKENDS:
        raise BackendError(
            f"unknown backend {backend!r}.", asked=backend, looked=", ".join(BACKENDS), todo=nearest(backend, BACKENDS)
        )


def _grouped(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Gives both an axis of groups, of one length; constant ones, and two without groups, stay as they are."""
    if B.dim() == 2 or C.dim() == 2 or B.dim() == C.dim() == 3:
        return B, C
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    groups = math.lcm(B.shape[1], C.shape[1])
    B, C = (x if x.shape[1] == groups else x.repeat_interleave(groups // x.shape[1], dim=1) for x in (B, C))
    return B, C


def _promote(x: Tensor, dtype: torch.dtype, complex_A: bool) -> Tensor:
    if not complex_A:
        return _cast(x, dtype)
    if x.is_complex() or x.dim() == 2:
        return x.to(dtype.to_complex())
    return torch.view_as_complex(x.to(dtype).unflatten(-1, (-1, 2)).contiguous())


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Tensor | None) -> None:
    if u.dim() != 3 or not u.is_floating_point():
        raise ShapeError("selective_scan: u must be a floating tensor [B, D, L].", asked=f"u {u.dtype} {_shape(u)}")
    batch, channels, length = shape = u.shape
    if length == 0:
        raise ShapeError("selective_scan: the sequence is empty.", asked=f"u {_shape(u)}")
    skip, gate, bias = rest
    if delta.shape != shape or (gate is not None and gate.shape != shape):
        name, tensor = ("delta", delta) if delta.shape != shape else ("z", gate)
        raise ShapeError(f"selective_scan: {name} does not fit u.", asked=_shape(tensor), todo=f"{list(shape)}")
    for name, tensor in (("D", skip), ("delta_bias", bias)):
        if tensor is not None and tensor.shape != (channels,):
            raise ShapeError(f"selective_scan: {name} does not fit u.", asked=_shape(tensor), todo=f"[{channels}]")
    if A.dim() != 2 or A.shape[0] != channels:
        raise ShapeError("selective_scan: A does not fit u.", asked=_shape(A), todo=f"[{channels}, N]")
    states, positions = A.shape[1], 2 * length if A.is_complex() else length
    for name, x in (("B", B), ("C", C)):
        if not _fits(x.shape, batch, channels, states, positions):
            options = f"[{channels}, {states}], [{batch}, {states}, {positions}] or [{batch}, G, {states}, {positions}]"
            raise ShapeError(f"selective_scan: {name} does not fit u and A.", asked=_shape(x), todo=options)


def _fits(shape: torch.Size, batch: int, channels: int, states: int, positions: int) -> bool:
    """Returns whether B or C is constant, shared by all channels, or grouped."""
    if len(shape) == 4:
        groups = shape[1]
        return shape == (batch, groups, states, positions) and groups > 0 and channels % groups == 0
    # Lengths first: comparing tuples compares their numbers first, and an export would keep "batch is not channels".
    return shape == ((channels, states) if len(shape) == 2 else (batch, states, positions))


def _shape(x: Tensor | None) -> str:
    return str(None if x is None else list(x.shape))
