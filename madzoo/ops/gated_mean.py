"""The gated mean of the two directions of a bidirectional block, in one pass over memory where that is possible.

Axes: B batch, D channels, L length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.errors import ShapeError
from madzoo.ops.kernels.c_abi import why_not_cpu
from madzoo.ops.kernels.gated_mean_cpu import cpu_gated_mean

__all__ = ["gated_mean"]


def gated_mean(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Returns ``(x + y) / 2 * silu(z)``.

    Three passes of PyTorch's operators, or one of the compiled kernel, which serves float32 and float64 on the CPU
    where nobody traces. Its first derivative is one pass as well.

    Shapes:
        x, y, z [B, D, L] in any layout -> [B, D, L], channel-last where x is.

    Raises:
        ShapeError: when the shapes differ or the axes are not three.

    Cost: O(B D L).

    Source: arXiv 2401.09417, algorithm 1.
    """
    if x.dim() != 3 or not x.shape == y.shape == z.shape:
        raise ShapeError("gated_mean takes three tensors [B, D, L].", asked=[list(t.shape) for t in (x, y, z)])
    if z.dtype != x.dtype and x.dtype == torch.float32:  # under autocast the scans give float32
        z = z.float() if z.dtype.itemsize < 4 else z
    return torch.lerp(x, y, 0.5) * F.silu(z) if why_not_cpu(x, y, z) else cpu_gated_mean(x, y, z)
