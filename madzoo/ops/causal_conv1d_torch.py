"""The short causal convolution by PyTorch's operators: any dtype, any device, differentiable to any order.

B batch, D channels, L length, K taps.
"""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["causal_conv1d_by_torch"]


def causal_conv1d_by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    """Convolves as :func:`madzoo.ops.causal_conv1d` says.

    Shapes:
        x [B, D, L], weight [D, K], bias [D] -> [B, D, L].

    Cost: O(B D L K), and one pass over memory each for padding, convolution and SiLU.
    """
    taps, margin, length = weight.flip(-1) if reverse else weight, weight.shape[-1] - 1, x.shape[2]
    if x.stride(1) == 1:
        # Channel-last memory stays so in two dimensions (one of height 1) and would be copied in one: 2.5 times slower.
        taps_D11K = taps.unsqueeze(1).unsqueeze(2)
        y = F.conv2d(x.unsqueeze(2), taps_D11K, bias, padding=(0, margin), groups=len(weight)).squeeze(2)
        y = y.narrow(2, margin if reverse else 0, length)
    else:
        x = F.pad(x, (0, margin) if reverse else (margin, 0))
        y = F.conv1d(x, taps.unsqueeze(1), bias, groups=len(weight))
    return F.silu(y) if silu else y
