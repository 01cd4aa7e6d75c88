"""The short causal convolution by the compiled CPU kernel, as an operator of ``torch.library``.

B batch, D channels, L length, K taps. The C side (csrc/conv1d_tile.h) reads every layout as it lies; it is quickest on
channel-last memory, [B, L, D] seen as [B, D, L], gaps between the positions included.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from madzoo.ops.causal_conv1d_torch import causal_conv1d_by_torch
from madzoo.ops.kernels.c_abi import Sequence, kernels_are_here, pointer, run, same_layout, sequence

__all__ = ["MOST_TAPS", "cpu_causal_conv1d", "why_not_cpu"]

MOST_TAPS = 16  # csrc/madzoo_kernels.h
PANEL = 64  # csrc/madzoo_kernels.h: positions of a unit of work
SMALL = 1 << 15  # numbers below which a second thread costs more than it brings


class _Arguments(ctypes.Structure):
    """Mirrors ``madzoo_conv1d_args``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batches", "channels", "length", "taps")),
        *((name, ctypes.c_int32) for name in ("is_double", "reverse", "silu", "threads")),
        *((name, Sequence) for name in ("x", "out")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int64) for name in ("weight_channel", "weight_tap")),
        *((name, Sequence) for name in ("grad_out", "grad_x")),
        ("sums", ctypes.c_void_p),
    ]


def why_not_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Returns why the compiled kernel does not serve these inputs, or None when it does."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if any(tensor.device.type not in ("cpu", "meta") for tensor in tensors):
        return f"tensors on {x.device.type}"
    if x.dtype not in (torch.float32, torch.float64) or any(tensor.dtype != x.dtype for tensor in tensors):
        return f"tensors of {', '.join(str(tensor.dtype) for tensor in tensors)}"
    if not 1 <= weight.shape[1] <= MOST_TAPS:
        return f"{weight.shape[1]} taps"
    return None if kernels_are_here() else "a machine without the compiled kernels"


def cpu_causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    """Convolves, adds the bias and applies SiLU in one pass over memory.

    Shapes:
        x [B, D, L], weight [D, K], bias [D], all float32 or all float64 -> [B, D, L], channel-last where x is.

    Cost: B D L (K multiplications and one exponential), nothing kept for the backward, which computes the convolution
    again.
    """
    return torch.ops.madzoo.causal_conv1d(x, weight, bias, silu, reverse)


_library = torch.library.Library("madzoo", "FRAGMENT")
_library.define("causal_conv1d(Tensor x, Tensor weight, Tensor? bias, bool silu, bool reverse) -> Tensor")
_library.define(
    "causal_conv1d_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, bool silu, bool reverse)"
    " -> (Tensor, Tensor, Tensor)"
)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    y = same_layout(x)
    if y.numel():
        bias = None if bias is None else bias.contiguous()
        call = _describe(x, weight, bias, silu, reverse)
        call.out = sequence(y)
        run("madzoo_conv1d_forward", call)
    return y


def _backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, length = x.shape
    taps = weight.shape[1]
    grad_x = same_layout(x)
    sums = x.new_empty(batch, -(-length // PANEL), taps + 1, channels)
    if x.numel():
        if 1 not in grad_y.stride()[1:]:  # a broadcast gradient, as that of a sum
            grad_y = same_layout(x).copy_(grad_y)
        bias = None if bias is None else bias.contiguous()
        call = _describe(x, weight, bias, silu, reverse)
        call.grad_out, call.grad_x, call.sums = sequence(grad_y), sequence(grad_x), sums.data_ptr()
        run("madzoo_conv1d_backward", call)
    # The panels are a function of the shapes alone: the sums are the same bits on any number of threads.
    total = sums.sum((0, 1))
    return grad_x, total[:taps].t(), total[taps].clone()


def _describe(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> _Arguments:
    call = _Arguments()
    call.batches, call.channels, call.length = x.shape
    call.taps, call.is_double, call.reverse, call.silu = weight.shape[1], x.dtype == torch.float64, reverse, silu
    call.threads = 1 if x.numel() < SMALL else torch.get_num_threads()
    call.x, call.weight, call.bias = sequence(x), weight.data_ptr(), pointer(bias)
    call.weight_channel, call.weight_tap = weight.stride()
    return call


def _forward_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    return same_layout(x)


def _backward_shapes(grad_y: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    channels, taps = weight.shape
    return same_layout(x), x.new_empty(taps, channels).t(), x.new_empty(channels)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: a second derivative is wanted
        # Seen through a view each: where one was computed from another, that way is not to be followed as well.
        x, weight, bias = x.view_as(x), weight.view_as(weight), None if bias is None else bias.view_as(bias)
        y = causal_conv1d_by_torch(x, weight, bias, ctx.silu, ctx.reverse)
        wanted = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=True))
        grads = [next(found) if t is not None and t.requires_grad else None for t in (x, weight, bias)]
    else:
        grads = torch.ops.madzoo.causal_conv1d_backward(grad_y, x, weight, bias, ctx.silu, ctx.reverse)
    return grads[0], grads[1], None if bias is None else grads[2], None, None


_library.impl("causal_conv1d", _forward, "CPU")
_library.impl("causal_conv1d_backward", _backward, "CPU")
torch.library.register_fake("madzoo::causal_conv1d", _forward_shapes, lib=_library)
torch.library.register_fake("madzoo::causal_conv1d_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("madzoo::causal_conv1d", _differentiate, setup_context=_save, lib=_library)
