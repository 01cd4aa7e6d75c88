"""The selective scan by two Triton kernels, as an operator of ``torch.library``: forward, backward, shapes.

B batch, D channels, G groups, L length, N states. The kernels take strides, so every layout is read as it lies; they
are quickest on channel-last memory, [B, L, D] seen as [B, D, L]. Half-precision tensors are read and written as they
are and computed in float32.
"""

import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from math import lcm
from typing import Any

import torch
from torch import Tensor

from madzoo.ops.kernels.selective_scan_autograd import differentiate_by, save
from madzoo.ops.kernels.selective_scan_triton_backward import backward_kernel
from madzoo.ops.kernels.selective_scan_triton_forward import forward_kernel
from madzoo.ops.kernels.triton_functions import TERMS, tl, triton

__all__ = ["triton_selective_scan", "why_not_triton"]

MAX_STATES = 256
MANY_WARPS = 512  # one for each scheduler of a large GPU


def why_not_triton(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Returns why the Triton kernels do not serve these inputs, or None when they do."""
    if triton is None:
        return "a machine without triton"
    if A.is_complex():
        return "complex A"
    if B.dim() == 2 or C.dim() == 2:
        return "constant B or C"
    if not 1 <= A.shape[1] <= MAX_STATES:
        return f"{A.shape[1]} states (at most {MAX_STATES})"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms"
    if _interpreted():
        return None
    return _why_not_device(u.device)


def triton_selective_scan(
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

    Args and shapes as :func:`madzoo.ops.selective_scan`. The tensors may differ in dtype; the last state has the
    dtype of the computation, at least float32.

    Cost: B D L N exponentials forward and twice as many backward. Memory beyond inputs and outputs: B D N L / 8 of
    states kept for a backward pass, and B D N L / 8 (small work: / 4) of partial sums while it runs; nothing otherwise.
    A gradient that is differentiated again goes through the reference loop. Kernels are compiled at first use, once
    for every dtype, N and distance between positions (the strides along L): seconds each.

    Source: arXiv 2312.00752, section 3.3 (recomputation), algorithm 2.
    """
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    y, last_state, _ = torch.ops.madzoo.selective_scan_triton(*tensors, delta_softplus, reverse, keep)
    return y, last_state


def _interpreted() -> bool:
    return not isinstance(forward_kernel, triton.runtime.JITFunction)


@torch.compiler.assume_constant_result  # so that a tracing compiler does not follow the search for a C compiler
def _why_not_device(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"tensors on {device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "GPUs before compute capability 8.0"
    return None if _has_compiler() else "a machine without a C compiler, which triton needs"


@cache
def _has_compiler() -> bool:
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Says how the work is cut: programs, and what one of them holds."""

    programs: int
    sizes: dict[str, int]
    constants: dict[str, Any]
    kept: tuple[int, ...]
    partial: tuple[int, ...]
    dtype: torch.dtype


def _plan(u: Tensor, A: Tensor, B: Tensor, C: Tensor, delta_softplus: bool) -> _Plan:
    (batch, channels, length), states = u.shape, A.shape[1]
    groups = lcm(B.shape[1], C.shape[1])
    group_channels = channels // groups
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    block_n = _power_of_two(states)
    # More threads than states: then a lane holds 4 states of a channel (8 lanes' channels to a warp) and B and C are
    # read as they are needed. With 16 channels in a block a lane holds two; with 8 there are twice as many programs.
    warps = max(1, block_n // 16)
    few = batch * channels * warps < 16 * MANY_WARPS
    block_d = 32 if block_n <= 4 else 16 if block_n == 8 or not few else 8
    # What fits into registers. Not float64: smaller programs are compiled in a reasonable time.
    chunk = 8 if block_n <= 128 and dtype == torch.float32 else 4
    block_d = min(block_d if dtype == torch.float32 else 8, _power_of_two(group_channels))
    blocks_per_group = -(-group_channels // block_d)
    blocks = groups * blocks_per_group
    return _Plan(
        programs=batch * blocks,
        sizes={
            "channels": channels,
            "length": length,
            "states": states,
            "blocks": blocks,
            "blocks_per_group": blocks_per_group,
            "group_channels": group_channels,
            "B_channels": channels // B.shape[1],
            "C_channels": channels // C.shape[1],
        },
        constants={
            "SOFTPLUS": delta_softplus,
            "TERMS": TERMS[dtype.itemsize],
            "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
            "BLOCK_D": block_d,
            "BLOCK_N": block_n,
            "CHUNK": chunk,
            "num_warps": warps,
            "enable_fp_fusion": True,
        },
        kept=(batch, -(-length // chunk), channels, states),
        partial=(batch, blocks, length, states),
        dtype=dtype,
    )


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


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
    *,
    launch: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    plan = _plan(u, A, B, C, delta_softplus)
    y, last_state = torch.empty_like(u), u.new_empty(*plan.kept[::2], plan.kept[3], dtype=plan.dtype)
    kept = u.new_empty(plan.kept if keep else (0,), dtype=plan.dtype)
    if launch:
        walked = _walks(reverse, u=u, delta=delta, z=z, y=y, B=B, C=C)
        rows = _rows(A, D, delta_bias)
        _launch(forward_kernel, plan, u.device, **walked, **rows, last=last_state, kept=kept if keep else None)
    return y, last_state, kept


def _backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    kept: Tensor,
    delta_softplus: bool,
    reverse: bool,
    *,
    launch: bool = True,
) -> tuple[Tensor, ...]:
    plan = _plan(u, A, B, C, delta_softplus)
    (batch, channels, _), states = u.shape, A.shape[1]
    grad_u, grad_delta, grad_z = (None if x is None else torch.empty_like(x) for x in (u, delta, z))
    grad_A = kept.new_empty(batch, channels, states)
    grad_D, grad_bias = (None if x is None else kept.new_empty(batch, channels) for x in (D, delta_bias))
    grad_B, grad_C = (kept.new_empty(plan.partial).transpose(2, 3) for _ in range(2))
    if launch:
        walked = _walks(reverse, grad_y=grad_y, u=u, delta=delta, z=z, B=B, C=C)
        walked |= _walks(reverse, grad_u=grad_u, grad_delta=grad_delta, grad_z=grad_z, grad_B=grad_B, grad_C=grad_C)
        grad_BC_step = walked["grad_B_step"]
        walked = {name: x for name, x in walked.items() if not name.startswith(("grad_B_", "grad_C_"))}
        others = _rows(A, D, delta_bias) | {"grad_A": grad_A, "grad_D": grad_D, "grad_bias": grad_bias, "kept": kept}
        others["grad_last"] = None if grad_last is None else grad_last.contiguous()
        ahead = 2 if plan.constants["BLOCK_D"] <= 8 else 1  # where few programs wait, loads must run ahead
        _launch(backward_kernel, plan, u.device, **walked, **others, grad_BC_step=grad_BC_step, AHEAD=ahead)
    of_B, of_C = (total.unflatten(1, (x.shape[1], -1)).sum(2) for total, x in ((grad_B, B), (grad_C, C)))
    of_A, of_D, of_bias = (None if x is None else x.sum(0) for x in (grad_A, grad_D, grad_bias))
    pairs: Any = zip(
        (grad_u, grad_delta, of_A, of_B, of_C, of_D, grad_z, of_bias),
        (u, delta, A, B, C, D, z, delta_bias),
        strict=True,
    )
    return tuple(u.new_empty(0) if grad is None else grad.to(x.dtype) for grad, x in pairs)


def _launch(kernel: Any, plan: _Plan, device: torch.device, **arguments: Any) -> None:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if plan.programs:
            kernel[(plan.programs,)](**arguments, **plan.sizes, **plan.constants)


def _walks(reverse: bool, **tensors: Tensor | None) -> dict[str, Any]:
    """Returns each tensor from its first position on, its strides, and the step of the scan."""
    walked: dict[str, Any] = {}
    for name, x in tensors.items():
        if x is None:
            walked |= {name: None, f"{name}_strides": (0, 0), f"{name}_step": 0}
        else:
            *strides, step = x.stride()
            walked |= {name: x[..., -1:] if reverse else x, f"{name}_strides": tuple(strides)}
            walked |= {f"{name}_step": -step if reverse else step}
    return walked


def _rows(A: Tensor, D: Tensor | None, delta_bias: Tensor | None) -> dict[str, Any]:
    D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
    return {"A": A, "A_strides": A.stride(), "D": D, "bias": delta_bias}


_library = torch.library.Library("madzoo", "FRAGMENT")
_library.define(
    "selective_scan_triton(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z,"
    " Tensor? delta_bias, bool delta_softplus, bool reverse, bool keep) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "selective_scan_triton_backward(Tensor grad_y, Tensor? grad_last, Tensor u, Tensor delta, Tensor A, Tensor B,"
    " Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, Tensor kept, bool delta_softplus, bool reverse)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
for _name, _function in (("selective_scan_triton", _forward), ("selective_scan_triton_backward", _backward)):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"madzoo::{_name}", partial(_function, launch=False), lib=_library)
_gradients = differentiate_by(torch.ops.madzoo.selective_scan_triton_backward)
torch.library.register_autograd("madzoo::selective_scan_triton", _gradients, setup_context=save, lib=_library)
