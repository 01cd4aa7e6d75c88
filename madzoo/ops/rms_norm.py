"""The root mean square norm, in one pass over memory where that is possible."""

import torch
from torch import Tensor

from madzoo.errors import ShapeError
from madzoo.ops.kernels.c_abi import why_not_cpu
from madzoo.ops.kernels.rms_norm_cpu import cpu_rms_norm

__all__ = ["rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Returns ``x / sqrt(mean(x ** 2) + eps) * weight``, the mean over the last axis.

    Four passes of PyTorch's operators, or one of the compiled kernel, which serves float32 and float64 on the CPU where
    nobody traces. Its first derivative is one pass as well. Statistics are taken in at least float32; the output has
    x's dtype.

    Shapes:
        x [..., D], weight [D] -> [..., D].

    Raises:
        ShapeError: when the weight does not fit x.

    Cost: O(D) per row.

    Source: arXiv 1910.07467, equation 4.
    """
    if x.dim() < 1 or weight.shape != x.shape[-1:]:
        raise ShapeError("the weight does not fit x.", asked=[list(x.shape), list(weight.shape)], todo="[..., D], [D]")
    if why_not_cpu(x, weight) is None:
        return cpu_rms_norm(x, weight, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.to(wide.dtype)).to(x.dtype)
