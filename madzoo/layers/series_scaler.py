"""Scaling of a series by its own past, so that a model never meets units.

Axes: B series, L length, H horizon, Q quantiles.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["ScaledSeries", "SeriesScaler"]


class ScaledSeries(NamedTuple):
    """Holds a series without units.

    Attributes:
        values: [B, L], mean 0 and population standard deviation 1 over the observed steps, 0 where missing; in the
            dtype of the series, at least float32.
        observed: [B, L], True where a finite value was given.
        last: [B, 1], the last observed one of the values, 0 without any.
        location, scale: [B, 1] in float64, in the units of the series; scale is 0 for a constant series.
    """

    values: Tensor
    observed: Tensor
    last: Tensor
    location: Tensor
    scale: Tensor


class SeriesScaler(nn.Module):
    """Standardises each series over its observed steps, and brings forecasts back to its units.

    Whatever is not finite counts as missing. Statistics are taken after subtracting the last observed value and
    dividing by the largest magnitude left, so there is no epsilon: a series of size 1e12 or 1e-12 is treated
    exactly like one of size 1, a constant series has scale 0 and is forecast as that constant, a series without any
    observation as 0. All of it happens in float64, before any cast, so that a large offset costs no digits but those
    that the input has lost: hand the scaler a series in its own dtype, and cast the scaled values to the model's. (Only
    where a device has no float64, Apple's, it happens in float32.)
    The scaler sees the whole context, hence no model that uses it is causal.

    Source: arXiv 2111.14865 (reversible instance normalisation), without its learned affine map.

    Example:
        >>> scaler = SeriesScaler()
        >>> scaled = scaler(torch.tensor([[1e12, torch.nan, 3e12]]))
        >>> scaled.values
        tensor([[-1.,  0.,  1.]])
        >>> scaler.restore(torch.tensor([[0.5]]), scaled)
        tensor([[2.5000e+12]])
    """

    def forward(self, x: Tensor) -> ScaledSeries:
        """Scales a batch of series.

        Shapes: x [B, L] -> see :class:`ScaledSeries`.
        """
        observed = torch.isfinite(x)
        kept = torch.promote_types(x.dtype, torch.float32)
        x = torch.where(observed, x, 0).to(_widest(x))
        # Halves, so that the distance between the two largest numbers of the dtype does not overflow.
        where_last = _last(observed)
        half_anchor = 0.5 * x.gather(-1, where_last)
        shifted = torch.where(observed, 0.5 * x - half_anchor, 0)
        reach = shifted.abs().amax(-1, keepdim=True)
        unit = shifted / torch.where(reach > 0, reach, 1)
        count = observed.sum(-1, keepdim=True).clamp(min=1)
        mean = unit.sum(-1, keepdim=True) / count
        centred = torch.where(observed, unit - mean, 0)
        deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
        values = (centred / torch.where(deviation > 0, deviation, 1)).to(kept)
        # Doubled last: twice the reach of a series near the largest numbers is infinite, twice its deviation is not.
        location, scale = (_clamp(2 * x, kept) for x in (half_anchor + reach * mean, reach * deviation))
        return ScaledSeries(values, observed, values.gather(-1, where_last), location, scale)

    def restore(self, y: Tensor, scaled: ScaledSeries) -> Tensor:
        """Brings forecasts back to the units of their series; the result is finite.

        Shapes: y [B, H] or [B, H, Q] -> the same, in the dtype of the series.
        """
        shape = (-1, *[1] * (y.ndim - 1))
        location, scale = scaled.location.reshape(shape), scaled.scale.reshape(shape)
        dtype = scaled.values.dtype
        # In halves, so that a far location and a deviation the other way meet before either overflows.
        return _clamp(2 * (0.5 * location + 0.5 * scale * y.to(scale.dtype)), dtype).to(dtype)


def _widest(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _last(observed: Tensor) -> Tensor:
    steps = torch.arange(observed.shape[-1], device=observed.device)
    return torch.where(observed, steps, 0).argmax(-1, keepdim=True)


def _clamp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Keeps wide numbers among those that ``dtype`` has."""
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit)
