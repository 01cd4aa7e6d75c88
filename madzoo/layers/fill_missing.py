"""Filling of gaps in a series, for models that have no notion of a missing value.

Axes: B series, L length, C channels.
"""

import torch
from torch import Tensor

__all__ = ["fill_missing"]


def fill_missing(x: Tensor) -> Tensor:
    """Replaces what is not finite: a line between the neighbours of a gap, the nearest value at an end, 0 without any.

    Shapes:
        x [B, L, C] -> [B, L, C], finite; observed values are unchanged.

    Cost: O(B L C).

    Example:
        >>> fill_missing(torch.tensor([[[torch.nan], [1.0], [torch.nan], [3.0]]])).flatten().tolist()
        [1.0, 1.0, 2.0, 3.0]
    """
    observed = x.isfinite()
    x, length = torch.where(observed, x, 0), x.shape[1]
    step = torch.arange(length, device=x.device).view(1, -1, 1)
    before = torch.where(observed, step, -1).cummax(1).values
    after = torch.where(observed, step, length).flip(1).cummin(1).values.flip(1)
    left = torch.where(before < 0, after, before).clamp(max=length - 1)
    right = torch.where(after < length, after, left)
    share = (step - left).to(x.dtype) / (right - left).clamp(min=1)
    start, end = x.gather(1, left), x.gather(1, right)
    # Not start + share (end - start), which overflows; and between equal neighbours exactly their value.
    line = torch.where(start == end, start, start * (1 - share) + end * share)
    return torch.where(observed, x, line)
