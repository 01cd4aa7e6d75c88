# pyright: reportMissingImports=false
"""The selective scan by the published CUDA kernel, where ``mamba_ssm`` is installed with it.

What it asks for (state-spaces/mamba: csrc/selective_scan/selective_scan.cpp, ops/selective_scan_interface.py): u,
delta, z, B and C of one dtype, float32, float16 or bfloat16, contiguous along L (its Python side copies what is not);
A, D and delta_bias in float32; as many groups in B as in C; at most 256 states. It has no reverse direction, gives the
last state no gradient, and knows first derivatives only. Since version 2.3 it is built on request alone.
"""

from functools import reduce
from math import lcm
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import BackendError

try:
    from mamba_ssm.ops import selective_scan_interface as interface
except (ImportError, AttributeError, OSError, RuntimeError):  # not there, or there for another torch
    interface: Any = None

__all__ = ["cuda_selective_scan", "why_not_cuda"]

MAX_STATES = 256


def why_not_cuda(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Returns why the published CUDA kernel does not serve these inputs, or None when it does."""
    if interface is None:
        return "a machine without mamba_ssm"
    if getattr(interface, "selective_scan_cuda", None) is None:
        return "a mamba_ssm without its CUDA kernel (MAMBA_KEEP_CUDA_BUILD=TRUE builds it)"
    if u.device.type != "cuda":
        return f"tensors on {u.device.type}"
    if A.is_complex():
        return "complex A"
    if B.dim() == 2 or C.dim() == 2:
        return "constant B or C"
    if torch.float64 in (u.dtype, A.dtype, B.dtype, C.dtype):
        return "float64"
    return None if A.shape[1] <= MAX_STATES else f"{A.shape[1]} states (at most {MAX_STATES})"


def cuda_selective_scan(
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
    """Scans with ``selective_scan_fn``; a reversed scan is a scan of reversed copies.

    Args and shapes as :func:`madzoo.ops.selective_scan`. The last state is float32.

    Raises:
        BackendError: when a gradient of the last state or a second derivative is asked for, in the backward pass.

    Cost: a copy of every sequence that is not contiguous along L, and of all of them when reversed.
    """
    B, C = _same_groups(B, C)
    sequences = (u, delta, B, C, *(() if z is None else (z,)))
    dtype = reduce(torch.promote_types, (x.dtype for x in sequences))
    sequences = [x.to(dtype).flip(-1) if reverse else x.to(dtype) for x in sequences]
    weights = [None if x is None else x.to(torch.float32) for x in (A, D, delta_bias)]
    y, last_state = _FirstOrder.apply(*_published(sequences, weights, delta_softplus))
    return (y.flip(-1) if reverse else y).to(u.dtype), last_state


def _same_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    groups = lcm(B.shape[1], C.shape[1])
    B, C = (x if x.shape[1] == groups else x.repeat_interleave(groups // x.shape[1], dim=1) for x in (B, C))
    return B, C


def _published(sequences: list[Tensor], weights: list[Tensor | None], delta_softplus: bool) -> tuple[Tensor, Tensor]:
    u, delta, B, C, *gate = sequences
    A, D, delta_bias = weights
    z = gate[0] if gate else None
    return interface.selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=True)


class _FirstOrder(torch.autograd.Function):
    """Passes values and first gradients on, and says what would otherwise be silently wrong."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, last_state: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return y.view_as(y), last_state.view_as(last_state)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        grad_y, grad_last = grads
        if grad_last is not None:
            raise BackendError("mamba_ssm gives the last state no gradient.", todo="backend='triton' or 'torch'")
        if torch.is_grad_enabled():
            raise BackendError("mamba_ssm has no second derivative.", todo="backend='triton' or 'torch'")
        return grad_y, None
