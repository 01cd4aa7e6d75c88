"""The selective scan by the compiled CPU kernel, as an operator of ``torch.library``: forward, backward, shapes.

B batch, D channels, G groups, L length, N states. The C side (csrc/) takes pointers and strides, so every layout is
read as it lies; it is quickest on channel-last memory, [B, L, D] seen as [B, D, L].
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from madzoo.ops.kernels.c_abi import Sequence, kernels_are_here, pointer, run, same_layout, sequence
from madzoo.ops.kernels.selective_scan_autograd import differentiate_by, save

__all__ = ["CHUNK", "SMALL", "Arguments", "cpu_selective_scan", "why_not_cpu"]

CHUNK = 16  # csrc/madzoo_kernels.h: positions between two kept states
TILE = 16  # the most channels that a vector holds
SLICED_UNITS = 8  # sums over channels are split until there are so many units of work
SMALL = 1 << 16  # state updates below which a second thread costs more than it brings


class _Vectors(ctypes.Structure):
    _strides = ("batch", "group", "state", "position")
    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in _strides)]


class Arguments(ctypes.Structure):
    """Mirrors ``madzoo_selective_scan_args``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batches", "channels", "groups", "length", "states", "slices")),
        *((name, ctypes.c_int32) for name in ("is_double", "reverse", "softplus", "threads")),
        *((name, Sequence) for name in ("u", "delta", "z", "out")),
        *((name, _Vectors) for name in ("B", "C")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "delta_bias", "last_state", "checkpoints")),
        *((name, Sequence) for name in ("grad_out", "grad_u", "grad_delta", "grad_z")),
        *((name, ctypes.c_void_p) for name in ("grad_last_state", "grad_A", "grad_D", "grad_bias")),
        *((name, _Vectors) for name in ("grad_B", "grad_C")),
        ("slice_stride", ctypes.c_int64),
    ]


def why_not_cpu(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Returns why the compiled kernel does not serve these inputs, or None when it does."""
    if u.device.type not in ("cpu", "meta"):
        return f"tensors on {u.device.type}"
    if A.is_complex():
        return "complex A"
    if B.dim() == 2 or C.dim() == 2:
        return "constant B or C"
    return None if kernels_are_here() else "a machine without the compiled kernels"


def cpu_selective_scan(
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
    """Scans with everything fused: step sizes, recurrence, output, skip and gate in one pass over memory.

    Args and shapes as :func:`madzoo.ops.selective_scan`, all of one dtype, float32 or float64.

    Cost: B D L N exponentials. Memory beyond inputs and outputs: B D N L / 16 for a backward, which recomputes
    the states between; nothing otherwise.

    Source: arXiv 2312.00752, section 3.3 (recomputation), algorithm 2.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    y, last_state, _ = torch.ops.madzoo.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, keep
    )
    return y, last_state


_library = torch.library.Library("madzoo", "FRAGMENT")
_library.define(
    "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias,"
    " bool delta_softplus, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "selective_scan_backward(Tensor grad_y, Tensor? grad_last_state, Tensor u, Tensor delta, Tensor A, Tensor B,"
    " Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor checkpoints, bool delta_softplus, bool reverse)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _outputs(u: Tensor, A: Tensor, B: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, length = u.shape
    groups, states = B.shape[1], A.shape[1]
    blocks = groups * _blocks(channels // groups, TILE)
    kept = (batch, blocks, _blocks(length, CHUNK), states, TILE) if keep else (0,)
    return same_layout(u), u.new_empty(batch, channels, states), u.new_empty(kept)


def _forward(
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, last_state, checkpoints = _outputs(u, A, B, keep)
    inputs = _Inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    call = inputs.call
    call.out, call.last_state = sequence(y), last_state.data_ptr()
    call.checkpoints = checkpoints.data_ptr() if keep else None
    run("madzoo_selective_scan_forward", call)
    return y, last_state, checkpoints


def _backward(
    grad_y: Tensor,
    grad_last_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    checkpoints: Tensor,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, ...]:
    inputs = _Inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    call = inputs.call
    if 1 not in grad_y.stride()[1:]:  # a broadcast gradient, as that of a sum
        grad_y = same_layout(u).copy_(grad_y)
    batch, channels, length = u.shape
    groups, states = B.shape[1], A.shape[1]
    grad_u, grad_delta = same_layout(u), same_layout(delta)
    grad_z = u.new_empty(0) if z is None else same_layout(z)
    grad_A = u.new_empty(batch, channels, states)
    grad_D = u.new_empty(batch, channels if D is not None else 0)
    grad_bias = u.new_empty(batch, channels if delta_bias is not None else 0)
    call.slices = _slices(batch * groups, channels // groups)
    sums_B, sums_C = (u.new_zeros(call.slices, batch, groups, length, states) for _ in range(2))
    grad_last_state = None if grad_last_state is None else grad_last_state.contiguous()
    call.grad_out, call.grad_u, call.grad_delta = (sequence(x) for x in (grad_y, grad_u, grad_delta))
    call.grad_z = sequence(None if z is None else grad_z)
    call.grad_last_state, call.grad_A = pointer(grad_last_state), grad_A.data_ptr()
    call.checkpoints = checkpoints.data_ptr()
    call.grad_D = None if D is None else grad_D.data_ptr()
    call.grad_bias = None if delta_bias is None else grad_bias.data_ptr()
    call.grad_B, call.grad_C = (_vectors(x[0].transpose(2, 3)) for x in (sums_B, sums_C))
    call.slice_stride = sums_B.stride(0)
    run("madzoo_selective_scan_backward", call)
    grad_B, grad_C = (x.sum(0).transpose(2, 3) if len(x) > 1 else x[0].transpose(2, 3) for x in (sums_B, sums_C))
    return grad_u, grad_delta, grad_A.sum(0), grad_B, grad_C, grad_D.sum(0), grad_z, grad_bias.sum(0)


def _backward_shapes(
    grad_y: Tensor,
    grad_last_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    batch, channels, length = u.shape
    grad_B, grad_C = (u.new_empty(batch, x.shape[1], length, x.shape[2]).transpose(2, 3) for x in (B, C))
    skip, bias = (u.new_empty(channels if x is not None else 0) for x in (D, delta_bias))
    grad_z = u.new_empty(0) if z is None else same_layout(z)
    return same_layout(u), same_layout(delta), u.new_empty(A.shape), grad_B, grad_C, skip, grad_z, bias


def _forward_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(u, A, B, rest[-1])


_library.impl("selective_scan", _forward, "CPU")
_library.impl("selective_scan_backward", _backward, "CPU")
torch.library.register_fake("madzoo::selective_scan", _forward_shapes, lib=_library)
torch.library.register_fake("madzoo::selective_scan_backward", _backward_shapes, lib=_library)
_gradients = differentiate_by(torch.ops.madzoo.selective_scan_backward)
torch.library.register_autograd("madzoo::selective_scan", _gradients, setup_context=save, lib=_library)


class _Inputs:
    """Fills the fields that both directions share, and keeps alive what they point to."""

    def __init__(
        self,
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
    ) -> None:
        self.rows = tuple(None if x is None else x.contiguous() for x in (A, D, delta_bias))
        self.call = call = Arguments()
        call.batches, call.channels, call.length = u.shape
        call.groups, call.states, call.slices = B.shape[1] if B.dim() == 4 else 1, A.shape[1], 1
        call.is_double, call.reverse, call.softplus = u.dtype == torch.float64, reverse, delta_softplus
        call.threads = 1 if u.numel() * A.shape[1] < SMALL else torch.get_num_threads()
        call.u, call.delta, call.z = sequence(u), sequence(delta), sequence(z)
        call.B, call.C = _vectors(B), _vectors(C)
        call.A, call.D, call.delta_bias = (pointer(x) for x in self.rows)


def _vectors(x: Tensor) -> _Vectors:
    batch, *group, state, position = x.stride()  # without groups: [B, N, L]
    return _Vectors(x.data_ptr(), batch, group[0] if group else 0, state, position)


def _slices(units: int, width: int) -> int:
    # A function of the shapes alone: gradients are the same bits on any number of threads.
    return min(_blocks(width, TILE), _blocks(SLICED_UNITS, units)) if units else 1


def _blocks(number: int, size: int) -> int:
    return -(-number // size)
