"""A linear map that takes oneDNN's kernels on a CPU where PyTorch's own choice is the slower one.

In float32 ``F.linear`` goes through MKL, which on AMD takes an AVX2 path: 100 GFLOP/s on a Zen 5 core where oneDNN's
AVX-512 kernels reach 220. Torch offers them as the operator ``mkldnn::_linear_pointwise``, which its own compiler
emits; called directly it needs no compiler on the user's machine.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.ops.kernels.c_abi import is_followed

__all__ = ["HAS_ONEDNN", "linear", "onednn_serves"]

HAS_ONEDNN = torch.backends.mkldnn.is_available()
# Multiply-adds below which F.linear wins: a oneDNN call costs some 15 microseconds before it computes.
SMALL_WORK = 2**20


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns ``x @ weight.T + bias``, by oneDNN where it serves, else by ``F.linear``.

    Shapes:
        x [..., I], weight [O, I], bias [O] -> [..., O].

    Cost: O(I O) per row of x.
    """
    if onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def onednn_serves(x: Tensor, weight: Tensor) -> bool:
    """Returns whether oneDNN's operator can compute ``F.linear(x, weight)`` here, and is worth its call.

    It has no derivative and no autocast, and stays out of graphs that are compiled, traced or exported. A weight that
    is a part of a larger tensor sends it into a plain loop, hundreds of times slower than F.linear.
    """
    # What follows operators comes first: an exported program would keep the other questions as bounds on its batch.
    return (
        not (is_followed(x) or is_followed(weight))
        and x.numel() * weight.shape[0] >= SMALL_WORK
        and x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and weight.is_cpu
        and x.dim() > 1
        and x.shape[-1] == weight.shape[1]
        and (weight.is_contiguous() or weight.t().is_contiguous())
        and HAS_ONEDNN
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch._C._are_functorch_transforms_active()
    )
