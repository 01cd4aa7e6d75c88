"""The gated mean of the two directions of a bidirectional block, in one pass over memory where that is possible.

Axes: B batch, D channels, L length.
"""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.errors import ShapeError
from madzoo.ops.kernels.c_abi import Sequence, is_watched, kernels_are_here, run, same_layout, sequence

__all__ = ["gated_mean"]


def gated_mean(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Returns ``(x + y) / 2 * silu(z)``.

    Three passes of PyTorch's operators, or one of the compiled kernel where no derivative is wanted and nobody traces.

    Shapes:
        x, y, z [B, D, L] in any layout -> [B, D, L], channel-last where x is.

    Raises:
        ShapeError: when the shapes differ or the axes are not three.

    Cost: O(B D L).

    Source: arXiv 2401.09417, algorithm 1.
    """
    if x.dim() != 3 or not x.shape == y.shape == z.shape:
        raise ShapeError("gated_mean takes three tensors [B, D, L].", asked=[list(t.shape) for t in (x, y, z)])
    return _by_kernel(x, y, z) if _kernel_serves(x, y, z) else torch.lerp(x, y, 0.5) * F.silu(z)


class _Arguments(ctypes.Structure):
    """Mirrors ``madzoo_gate_args``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batches", "channels", "length")),
        *((name, ctypes.c_int32) for name in ("is_double", "threads")),
        *((name, Sequence) for name in ("x", "y", "z", "out")),
    ]


def _kernel_serves(*tensors: Tensor) -> bool:
    dtype = tensors[0].dtype
    return (
        not any(is_watched(t) or (t.requires_grad and torch.is_grad_enabled()) for t in tensors)
        and not torch._C._are_functorch_transforms_active()
        and dtype in (torch.float32, torch.float64)
        and all(t.dtype == dtype and t.is_cpu for t in tensors)
        and tensors[0].numel() > 0
        and kernels_are_here()
    )


def _by_kernel(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    out = same_layout(x)
    call = _Arguments(*x.shape, x.dtype == torch.float64, torch.get_num_threads())
    call.x, call.y, call.z, call.out = (sequence(t) for t in (x, y, z, out))
    run("madzoo_gated_mean", call)
    return out
