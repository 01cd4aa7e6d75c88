"""The shortest way from Python to the compiled selective scan, for inference.

B batch, D channels, G groups, L length, N states. On a short sequence the way costs as much as the scan: every function
that is called, and every tensor that is made, is memory to be read, and other work has emptied the caches. So what
:func:`madzoo.ops.selective_scan` decides in a dozen functions is asked here in one, and every doubt is left to it.
"""

from ctypes import sizeof
from struct import Struct, calcsize

import torch
from torch import Tensor, nn

from madzoo.ops.kernels.c_abi import is_watched, kernels_are_here, run, same_layout
from madzoo.ops.kernels.selective_scan_cpu import SMALL, Arguments

__all__ = ["scan_directly"]

PLAIN = (Tensor, nn.Parameter)
# The fields of Arguments up to the last that a forward pass fills: sizes, switches, four sequences, B and C, five
# addresses. Packed at once they cost a quarter of what they cost one by one.
FILLED = "6q 4i 16q 10q 5q"
FIELDS = Struct(f"{FILLED} {sizeof(Arguments) - calcsize(FILLED)}x")
ABSENT = (0, 0, 0, 0)


def scan_directly(
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
) -> Tensor | None:
    """Returns the output of the scan, or None where anything about the inputs is not the simplest case.

    Simple are plain tensors of one dtype on the CPU, float32 or float64, of shapes that fit, with B and C per position
    and the small tensors contiguous, that nothing asks for derivatives or follows otherwise.

    Args and shapes as :func:`madzoo.ops.selective_scan`.

    Cost: as the kernel's, and some ten microseconds.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    if is_watched(u) or torch._C._are_functorch_transforms_active() or not kernels_are_here():
        return None
    if not _are_plain(tensors, dtype := u.dtype) or not _shapes_fit(*tensors):
        return None
    batch, channels, length = u.shape
    states, groups = A.shape[1], 1 if len(B.shape) == 3 else B.shape[1]
    if A.stride() != (states, 1) or any(x is not None and x.stride() != (1,) for x in (D, delta_bias)):
        return None
    y = same_layout(u)
    threads = 1 if batch * channels * length * states < SMALL else torch.get_num_threads()
    strides_B, strides_C = B.stride(), C.stride()
    if len(strides_B) == 3:  # no axis of groups
        strides_B, strides_C = (strides_B[0], 0, *strides_B[1:]), (strides_C[0], 0, *strides_C[1:])
    call = FIELDS.pack(
        batch, channels, groups, length, states, 1, dtype is torch.float64, reverse, delta_softplus, threads,
        u.data_ptr(), *u.stride(), delta.data_ptr(), *delta.stride(),
        *(ABSENT if z is None else (z.data_ptr(), *z.stride())), y.data_ptr(), *y.stride(),
        B.data_ptr(), *strides_B, C.data_ptr(), *strides_C,
        A.data_ptr(), 0 if D is None else D.data_ptr(), 0 if delta_bias is None else delta_bias.data_ptr(), 0, 0,
    )  # fmt: skip
    run("madzoo_selective_scan_forward", call)
    return y


def _are_plain(tensors: tuple[Tensor | None, ...], dtype: torch.dtype) -> bool:
    may_learn = torch.is_grad_enabled()
    for x in tensors:
        if x is None:
            continue
        if (
            x.dtype is not dtype
            or type(x) not in PLAIN
            or not x.is_cpu
            or x.is_neg()
            or (may_learn and x.requires_grad)
        ):
            return False
    return dtype is torch.float32 or dtype is torch.float64


def _shapes_fit(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> bool:
    shape = u.shape
    if len(shape) != 3 or len(A.shape) != 2 or len(B.shape) not in (3, 4):
        return False
    (batch, channels, length), states = shape, A.shape[1]
    groups = B.shape[1] if len(B.shape) == 4 else 1
    per_position = (batch, groups, states, length) if len(B.shape) == 4 else (batch, states, length)
    return (
        delta.shape == shape
        and B.shape == C.shape == per_position
        and A.shape == (channels, states)
        and (z is None or z.shape == shape)
        and (D is None or D.shape == (channels,))
        and (delta_bias is None or delta_bias.shape == (channels,))
        and 0 not in (*shape, *per_position)
        and channels % groups == 0
    )
