"""The past that a forecaster is given: which tensors are one, and how it is brought to the length a model reads.

Axes: B series, L context, C channels.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.errors import ShapeError

__all__ = ["check_past_values", "fit_context"]


def check_past_values(past_values: Tensor, num_channels: int | None) -> int:
    """Returns the number of channels.

    Raises:
        ShapeError: when past_values has other axes than [B, L, C], L or C is 0, or C is not ``num_channels``.

    Example:
        >>> check_past_values(torch.zeros(2, 10, 3), None)
        3
    """
    found = f"{list(past_values.shape)} {past_values.dtype}"
    if past_values.ndim != 3 or 0 in past_values.shape[1:] or not past_values.is_floating_point():
        raise ShapeError("past_values is a floating-point tensor [B, L, C] with L, C >= 1.", asked=found)
    if num_channels not in (None, past_values.shape[2]):
        raise ShapeError(f"the model is made for {num_channels} channels.", asked=f"past_values {found}")
    return past_values.shape[2]


def fit_context(x: Tensor, length: int, *, dim: int) -> Tensor:
    """Returns the last steps of a past along an axis; a past that is too short begins with missing ones.

    Shapes:
        any L along ``dim`` -> ``length`` along it.

    Example:
        >>> fit_context(torch.tensor([[1.0, 2.0]]), 3, dim=1)
        tensor([[nan, 1., 2.]])
    """
    x = x.narrow(dim, max(0, x.shape[dim] - length), min(length, x.shape[dim]))
    behind = x.ndim - 1 - dim % x.ndim
    return pad(x, (0, 0) * behind + (length - x.shape[dim], 0), value=torch.nan)
