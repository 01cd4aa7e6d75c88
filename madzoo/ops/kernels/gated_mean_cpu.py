"""The gated mean by the compiled CPU kernel, as an operator of ``torch.library``.

B batch, D channels, L length. The C side (csrc/gate_tile.h) reads every layout as it lies.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.ops.kernels.c_abi import Sequence, is_watched, run, same_layout, sequence

__all__ = ["cpu_gated_mean"]

SMALL = 1 << 15  # numbers below which a second thread costs more than it brings


class _Arguments(ctypes.Structure):
    """Mirrors ``madzoo_gate_args``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batches", "channels", "length")),
        *((name, ctypes.c_int32) for name in ("is_double", "threads")),
        *((name, Sequence) for name in ("x", "y", "z", "out", "grad_out", "grad_x", "grad_z")),
    ]


def cpu_gated_mean(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Computes ``(x + y) / 2 * silu(z)`` in one pass over memory.

    Shapes:
        x, y, z [B, D, L], all float32 or all float64 -> [B, D, L], channel-last where x is.

    Cost: O(B D L); the inputs are kept for the backward.
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or z.requires_grad)
    return torch.ops.madzoo.gated_mean(x, y, z) if wanted or is_watched(x) else _forward(x, y, z)


_library = torch.library.Library("madzoo", "FRAGMENT")
_library.define("gated_mean(Tensor x, Tensor y, Tensor z) -> Tensor")
_library.define("gated_mean_backward(Tensor grad, Tensor x, Tensor y, Tensor z) -> (Tensor, Tensor)")


def _forward(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    out = same_layout(x)
    call = _describe(x, y, z)
    call.out = sequence(out)
    run("madzoo_gated_mean_forward", call)
    return out


def _backward(grad: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    if 1 not in grad.stride()[1:]:  # a broadcast gradient, as that of a sum
        grad = same_layout(x).copy_(grad)
    grad_x, grad_z = same_layout(x), same_layout(z)
    call = _describe(x, y, z)
    call.grad_out, call.grad_x, call.grad_z = (sequence(t) for t in (grad, grad_x, grad_z))
    run("madzoo_gated_mean_backward", call)
    return grad_x, grad_z


def _describe(x: Tensor, y: Tensor, z: Tensor) -> _Arguments:
    threads = 1 if x.numel() < SMALL else torch.get_num_threads()
    call = _Arguments(*x.shape, x.dtype == torch.float64, threads)
    call.x, call.y, call.z = sequence(x), sequence(y), sequence(z)
    return call


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: a second derivative is wanted
        sigmoid = torch.sigmoid(z)
        grad_x = grad * F.silu(z) / 2
        return grad_x, grad_x, grad * torch.lerp(x, y, 0.5) * sigmoid * (1 + z * (1 - sigmoid))
    grad_x, grad_z = torch.ops.madzoo.gated_mean_backward(grad, x, y, z)
    return grad_x, grad_x, grad_z


_library.impl("gated_mean", _forward, "CPU")
_library.impl("gated_mean_backward", _backward, "CPU")
torch.library.register_fake("madzoo::gated_mean", lambda x, y, z: same_layout(x), lib=_library)
torch.library.register_fake(
    "madzoo::gated_mean_backward", lambda grad, x, y, z: (same_layout(x), same_layout(z)), lib=_library
)
torch.library.register_autograd("madzoo::gated_mean", _differentiate, setup_context=_save, lib=_library)
