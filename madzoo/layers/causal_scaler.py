"""Scaling of every step of a series by what was seen up to it, so that a causal model never meets units.

Axes: B series, L length; where a method says [...], any axes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

__all__ = ["CausalScaled", "CausalScaler", "ScalerState"]

# In units of the first move of a series; squares of more would overflow. A series that spans more saturates.
FURTHEST = 1e150


class CausalScaled(NamedTuple):
    """Holds steps without units, each scaled by itself and what came before it.

    Attributes:
        values: the step less the mean so far, over the population standard deviation so far; 0 where missing, and
            while all observations are equal. In the dtype of the series, at least float32.
        observed: True where a finite value was given.
        seen: True from the first observation on.
        location, scale: mean and deviation so far, in float64 and the units of the series; 0 before the first
            observation, and scale 0 while all are equal.
    """

    values: Tensor
    observed: Tensor
    seen: Tensor
    location: Tensor
    scale: Tensor


class ScalerState(NamedTuple):
    """Holds what the statistics of a series need to go on, in float64.

    Attributes:
        count: observations so far.
        first: half of the first one, from which all are measured.
        unit: half of the first distance from it that is not 0, in which all are measured; 0 before it.
        total: sum of the measured observations.
        squares: sum of their squared distances from their mean.
    """

    count: Tensor
    first: Tensor
    unit: Tensor
    total: Tensor
    squares: Tensor


class CausalScaler(nn.Module):
    """Standardises each step by the mean and the deviation of the observations up to it, itself included.

    Whatever is not finite counts as missing. Values are measured from the first observation, in units of the first
    move away from it, and squares are summed as distances from the mean so far: so there is no epsilon and no
    cancellation, a series of size 1e12 or 1e-12 is treated exactly like one of size 1, and a constant one has scale 0.
    All of it happens in float64, before any cast. (Only where a device has no float64, Apple's, it happens in float32.)

    Source: arXiv 2508.05287, section 3 (causal normalisation; there with an epsilon, and distances from the means of
    their own steps); the sum of squares is Welford's (Technometrics 4, 1962).

    Example:
        >>> scaled = CausalScaler()(torch.tensor([[torch.nan, 1e12, 3e12, 2e12]], dtype=torch.float64))
        >>> scaled.values.tolist()
        [[0.0, 0.0, 1.0, 0.0]]
        >>> scaled.location.tolist()
        [[0.0, 1000000000000.0, 2000000000000.0, 2000000000000.0]]
    """

    def forward(self, x: Tensor) -> CausalScaled:
        """Scales a batch of series.

        Shapes: x [B, L] -> see :class:`CausalScaled`, all [B, L].

        Cost: O(B L).
        """
        observed, half = _read(x)
        first = half.gather(-1, _first(observed))
        away = torch.where(observed, half - first, 0)
        unit = away.abs().gather(-1, _first(away != 0))
        measured = _measure(away, unit)
        count = observed.cumsum(-1).to(half.dtype)
        total = measured.cumsum(-1)
        mean_before = pad((total / count.clamp(min=1))[..., :-1], (1, 0))
        squares = _growth(measured, observed, mean_before, count).cumsum(-1)
        return _scaled(x, observed, measured, ScalerState(count, first, unit, total, squares))

    def init_state(self, shape: tuple[int, ...], *, device: torch.device) -> ScalerState:
        """Returns the state of series of which nothing was seen."""
        zero = torch.zeros(shape, dtype=_widest(device), device=device)
        return ScalerState(zero, zero, zero, zero, zero)

    def step(self, x_t: Tensor, state: ScalerState) -> tuple[CausalScaled, ScalerState]:
        """Scales one step.

        Shapes: x_t and the parts of the state [...] -> see :class:`CausalScaled`, all [...]; the next state.

        Cost: O(1) a series, whatever came before.
        """
        observed, half = _read(x_t)
        first = torch.where(observed & (state.count == 0), half, state.first)
        away = torch.where(observed, half - first, 0)
        unit = torch.where(state.unit > 0, state.unit, away.abs())
        measured = _measure(away, unit)
        count = state.count + observed
        mean_before = state.total / state.count.clamp(min=1)
        squares = state.squares + _growth(measured, observed, mean_before, count)
        state = ScalerState(count, first, unit, state.total + measured, squares)
        return _scaled(x_t, observed, measured, state), state

    def restore(self, y: Tensor, *, location: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Brings forecasts to units; the result is finite.

        Shapes: y [...], location and scale broadcast against it -> [...] in ``dtype``.
        """
        limit = torch.finfo(dtype).max
        return (location + scale * y.to(scale.dtype)).clamp(-limit, limit).to(dtype)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _read(x: Tensor) -> tuple[Tensor, Tensor]:
    # Halves, so that the distance between the two largest numbers of the dtype does not overflow.
    observed = torch.isfinite(x)
    return observed, 0.5 * torch.where(observed, x, 0).to(_widest(x.device))


def _first(true: Tensor) -> Tensor:
    return true.to(torch.uint8).argmax(-1, keepdim=True)


def _measure(away: Tensor, unit: Tensor) -> Tensor:
    return (away / torch.where(unit > 0, unit, 1)).clamp(-FURTHEST, FURTHEST)


def _growth(measured: Tensor, observed: Tensor, mean_before: Tensor, count: Tensor) -> Tensor:
    """By how much a step raises the sum of squared distances from the mean."""
    distance = torch.where(observed, measured - mean_before, 0)
    return distance.square() * ((count - 1) / count.clamp(min=1)).clamp(min=0)


def _scaled(x: Tensor, observed: Tensor, measured: Tensor, state: ScalerState) -> CausalScaled:
    kept, seen, count = torch.promote_types(x.dtype, torch.float32), state.count > 0, state.count.clamp(min=1)
    mean, deviation = state.total / count, (state.squares / count).sqrt()
    values = torch.where(observed, measured - mean, 0) / torch.where(deviation > 0, deviation, 1)
    limit = torch.finfo(kept).max
    # Before the first observation the parallel form knows it already; its answer must not.
    location = torch.where(seen, 2 * (state.first + state.unit * mean), 0).clamp(-limit, limit)
    # A deviation of 0 first: twice the largest number of the dtype is infinite.
    scale = (2 * (deviation * state.unit)).clamp(max=limit)
    return CausalScaled(values.to(kept), observed, seen, location, scale)
