"""The root mean square norm by the compiled CPU kernel, as an operator of ``torch.library``. D is the last axis."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from madzoo.ops.kernels.c_abi import is_watched, run

__all__ = ["cpu_rms_norm"]

PANEL = 64  # csrc/madzoo_kernels.h: rows of one unit of work
SMALL = 1 << 15  # numbers below which a second thread costs more than it brings


class _Arguments(ctypes.Structure):
    """Mirrors ``madzoo_rms_norm_args``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "width")),
        *((name, ctypes.c_int32) for name in ("is_double", "threads")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "out", "grad_out", "grad_x", "sums")),
    ]


def cpu_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Computes ``x / sqrt(mean(x ** 2) + eps) * weight`` in one pass over memory.

    Shapes:
        x [..., D], weight [D], both float32 or both float64 -> [..., D].

    Cost: O(D) per row; the inputs are kept for the backward.
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return torch.ops.madzoo.rms_norm(x, weight, eps) if wanted or is_watched(x) else _forward(x, weight, eps)


_library = torch.library.Library("madzoo", "FRAGMENT")
_library.define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
_library.define("rms_norm_backward(Tensor grad, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")


def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    call = _describe(x, weight, eps)
    call.out = out.data_ptr()
    run("madzoo_rms_norm_forward", call)
    return out


def _backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    grad_x = torch.empty_like(x)
    call = _describe(x, weight, eps)
    sums = x.new_zeros(-(-call.rows // PANEL), call.width)
    call.grad_out, call.grad_x, call.sums = grad.data_ptr(), grad_x.data_ptr(), sums.data_ptr()
    run("madzoo_rms_norm_backward", call)
    return grad_x, sums.sum(0)


def _describe(x: Tensor, weight: Tensor, eps: float) -> _Arguments:
    width = len(weight)
    threads = 1 if x.numel() < SMALL else torch.get_num_threads()
    is_double = x.dtype == torch.float64
    return _Arguments(x.numel() // width, width, is_double, threads, eps, x.data_ptr(), weight.data_ptr())


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return *torch.ops.madzoo.rms_norm_backward(grad, x, weight, ctx.eps), None
    # create_graph=True: a second derivative is wanted
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + ctx.eps)
    weighted = grad * weight
    grad_x = scale * weighted - scale**3 * (weighted * x).mean(-1, keepdim=True) * x
    return grad_x, (grad * x * scale).flatten(0, -2).sum(0) if x.dim() > 1 else grad * x * scale, None


def _same_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library.impl("rms_norm", _forward, "CPU")
_library.impl("rms_norm_backward", _backward, "CPU")
torch.library.register_fake("madzoo::rms_norm", lambda x, weight, eps: _same_shape(x), lib=_library)
torch.library.register_fake(
    "madzoo::rms_norm_backward", lambda grad, x, weight, eps: (_same_shape(x), _same_shape(weight)), lib=_library
)
torch.library.register_autograd("madzoo::rms_norm", _differentiate, setup_context=_save, lib=_library)
