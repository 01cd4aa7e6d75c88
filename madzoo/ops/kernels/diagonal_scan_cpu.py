"""The scan of a constant diagonal system by the compiled CPU kernel, as an operator of ``torch.library``.

B batch, H channels, L length, N conjugate pairs. The C side (csrc/diagonal_scan_tile.h) holds 16 channels side by side
and their states in registers, and reads every layout as it lies.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.ops.diagonal_scan_torch import diagonal_scan_by_convolution
from madzoo.ops.kernels.c_abi import (
    Sequence,
    kernels_are_here,
    pointer,
    run,
    same_layout,
    sequence,
)

__all__ = ["TILE", "cpu_diagonal_scan", "why_not_cpu"]

CHUNK = 32  # csrc/madzoo_kernels.h: positions between two kept states
TILE = 16  # csrc/madzoo_kernels.h: channels that lie side by side in its matrices
SLICED_UNITS = 16  # the batch is split until there are so many units of work
SMALL = 1 << 17  # state updates below which a second thread costs more than it brings


class _Arguments(ctypes.Structure):
    """Mirrors ``madzoo_diagonal_scan_args``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batches", "channels", "length", "states", "slices")),
        *((name, ctypes.c_int32) for name in ("is_double", "reverse", "threads")),
        *((name, Sequence) for name in ("u", "out")),
        *((name, ctypes.c_void_p) for name in ("poles", "residues", "D", "checkpoints")),
        *((name, Sequence) for name in ("grad_out", "grad_u")),
        ("sums", ctypes.c_void_p),
    ]


def why_not_cpu(u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None) -> str | None:
    """Returns why the compiled kernel does not serve these inputs, or None when it does."""
    tensors = (u, v, log_z) if D is None else (u, v, log_z, D)
    if any(tensor.device.type not in ("cpu", "meta") for tensor in tensors):
        return f"tensors on {u.device.type}"
    return None if kernels_are_here() else "a machine without the compiled kernels"


def cpu_diagonal_scan(u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None, reverse: bool) -> Tensor:
    """Scans with the states in registers and the skip added: one pass over memory.

    Shapes:
        u [B, H, L], v and log_z complex [H, N], D [H], all of float32 or all of float64 -> [B, H, L], as u lies.

    Cost: 6 B H L N multiply-adds. Memory beyond the result: B H L N / 16 for a backward, which recomputes the states
    between; nothing otherwise.
    """
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (u, v, log_z, D))
    return torch.ops.madzoo.diagonal_scan(u, v, log_z, D, reverse, keep)[0]


_library = torch.library.Library("madzoo", "FRAGMENT")
_library.define(
    "diagonal_scan(Tensor u, Tensor v, Tensor log_z, Tensor? D, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "diagonal_scan_backward(Tensor grad_y, Tensor u, Tensor v, Tensor z, Tensor? D, Tensor checkpoints, bool reverse)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def _outputs(u: Tensor, v: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    batch, channels, length = u.shape
    kept = (batch, _blocks(channels, TILE), _blocks(length, CHUNK), v.shape[1], 2, TILE) if keep else (0,)
    return same_layout(u), u.new_empty(kept)


def _forward(
    u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    (y, checkpoints), z = _outputs(u, v, keep), torch.exp(log_z)
    if u.numel():
        inputs = _Inputs(u, v, z, D, reverse)
        call = inputs.call
        call.out, call.checkpoints = (
            sequence(y),
            checkpoints.data_ptr() if keep else None,
        )
        run("madzoo_diagonal_scan_forward", call)
    return y, checkpoints, z


def _backward(
    grad_y: Tensor,
    u: Tensor,
    v: Tensor,
    z: Tensor,
    D: Tensor | None,
    checkpoints: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, grad_u, (channels, states) = (
        _Inputs(u, v, z, D, reverse),
        same_layout(u),
        v.shape,
    )
    call, width = inputs.call, _blocks(channels, TILE) * TILE
    if u.numel():
        if 1 not in grad_y.stride()[1:]:  # a broadcast gradient, as that of a sum
            grad_y = same_layout(u).copy_(grad_y)
        sums = u.new_empty(call.slices, 4 * states + 1, width)
        call.grad_out, call.grad_u = sequence(grad_y), sequence(grad_u)
        call.checkpoints, call.sums = checkpoints.data_ptr(), sums.data_ptr()
        run("madzoo_diagonal_scan_backward", call)
    else:
        sums = u.new_zeros(1, 4 * states + 1, width)
    # sum_t q_t h_{t-1} and sum_t grad_y_t h_t; the slices are a function of the shapes alone.
    by_z, by_v, by_D = sums.sum(0)[:, :channels].split([2 * states, 2 * states, 1])
    grad_log_z = (2 * v * z * _to_complex(by_z)).conj_physical()
    grad_v = 2 * _to_complex(by_v).conj_physical()
    return grad_u, grad_v, grad_log_z, u.new_empty(0) if D is None else by_D[0].clone()


def _forward_shapes(
    u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return *_outputs(u, v, keep), torch.empty_like(log_z)


def _backward_shapes(
    grad_y: Tensor,
    u: Tensor,
    v: Tensor,
    z: Tensor,
    D: Tensor | None,
    checkpoints: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        same_layout(u),
        v.new_empty(v.shape),
        v.new_empty(v.shape),
        u.new_empty(0 if D is None else D.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.reverse, _ = inputs
    _, checkpoints, z = output
    ctx.mark_non_differentiable(checkpoints, z)
    ctx.set_materialize_grads(False)  # zeros as large as the checkpoints would be written for nobody
    ctx.save_for_backward(*tensors, checkpoints, z)


def _differentiate(ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    u, v, log_z, D, checkpoints, z = ctx.saved_tensors
    if grad_y is None:
        return (None,) * 6
    if torch.is_grad_enabled():  # create_graph=True: a second derivative is wanted
        # Seen through a view each: where one was computed from another, that way is not to be followed as well.
        tensors = u, v, log_z, D = u.view_as(u), v.view_as(v), log_z.view_as(log_z), None if D is None else D.view_as(D)
        y = diagonal_scan_by_convolution(u, v, log_z, D, ctx.reverse)
        wanted = [x for x in tensors if x is not None and x.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=True))
        grads = [next(found) if x is not None and x.requires_grad else None for x in tensors]
    else:
        grads = torch.ops.madzoo.diagonal_scan_backward(grad_y, u, v, z, D, checkpoints, ctx.reverse)
    return *grads[:3], None if D is None else grads[3], None, None


_library.impl("diagonal_scan", _forward, "CPU")
_library.impl("diagonal_scan_backward", _backward, "CPU")
torch.library.register_fake("madzoo::diagonal_scan", _forward_shapes, lib=_library)
torch.library.register_fake("madzoo::diagonal_scan_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("madzoo::diagonal_scan", _differentiate, setup_context=_save, lib=_library)


class _Inputs:
    """Fills the fields that both directions share, and keeps alive what they point to."""

    def __init__(self, u: Tensor, v: Tensor, z: Tensor, D: Tensor | None, reverse: bool) -> None:
        self.rows = (
            _side_by_side(z),
            _side_by_side(2 * v),
            None if D is None else D.contiguous(),
        )
        self.call = call = _Arguments()
        call.batches, call.channels, call.length = u.shape
        call.states, call.slices = v.shape[1], _slices(u.shape[0], u.shape[1])
        call.is_double, call.reverse = u.dtype == torch.float64, reverse
        call.threads = 1 if u.numel() * v.shape[1] < SMALL else torch.get_num_threads()
        call.u = sequence(u)
        call.poles, call.residues, call.D = (pointer(x) for x in self.rows)


def _side_by_side(x: Tensor) -> Tensor:
    """Lays a complex matrix [H, N] out as [N, 2, H], H rounded up."""
    channels = x.shape[0]
    parts_N2H = torch.view_as_real(x.resolve_conj()).permute(1, 2, 0)
    return F.pad(parts_N2H, (0, _blocks(channels, TILE) * TILE - channels)).contiguous()


def _to_complex(rows: Tensor) -> Tensor:
    """Reads rows [2 N, H] as a complex matrix [H, N]."""
    return torch.complex(rows[0::2], rows[1::2]).t().contiguous()


def _slices(batch: int, channels: int) -> int:
    return max(1, min(batch, _blocks(SLICED_UNITS, max(1, _blocks(channels, TILE)))))


def _blocks(number: int, size: int) -> int:
    return -(-number // size)
