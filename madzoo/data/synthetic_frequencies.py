"""Synthetic series of every frequency, on one grid: what the zero-shot forecaster of any sampling rate learns from.

A batch holds series of several kinds in fixed proportions: hourly, finer, daily, monthly, quarterly, and without a
season (yearly, weekly), each of a few lengths, made by the generator of :mod:`madzoo.data.synthetic` at its own rate
and laid out by :class:`madzoo.layers.season_grid.SeasonGrid`. Trends and shifts thus belong to the length of a series,
and a series of 20 years is as curved as one of 60 weeks.

Axes: N series, T steps, L and H steps of the grid before and after the present.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.data.synthetic import Draw, Ingredients, make_series, with_gaps
from madzoo.layers.season_grid import SeasonGrid

__all__ = ["FINE", "KINDS", "LONG_KINDS", "SLOTS", "Kind", "frequency_windows", "lay_out_pairs"]

SLOTS = 24
FURTHEST = 20.0  # deviations; a rare explosion further out would own the gradient
LEAST_UNIT = 0.1  # deviations; the errors of a series that repeats itself exactly would weigh without limit
ODD_SEASON = 0.1  # of the series of a kind have another season than its own, or two
NEAR = 0.7
RANDOM_PERIODS = (3.0, 300.0)


class Kind(NamedTuple):
    """Describes series of one frequency and length.

    Attributes:
        share: of a batch.
        seasonality: m, which lays it out; periods of ``"finer"`` kinds are drawn from a list.
        companion: period of a longer cycle, in steps.
        past: steps at most.
        near: steps that most forecasts of this kind are asked for; in NEAR of the series, later ones do not count.
        ingredients: what the series are made of.
        weight: divides the unit of errors; for kinds whose errors grow with the horizon.
    """

    share: float
    seasonality: int
    companion: float
    past: int
    near: int
    ingredients: Ingredients
    weight: float = 1.0


FINE = Ingredients()
_DAILY = Ingredients(season=0.8, trend=0.35, shifts=0.2)
_MONTHLY = Ingredients(season=0.8, trend=0.65, shifts=0.2, flip=0.2)
_QUARTERLY = Ingredients(season=0.7, trend=0.7, shifts=0.2, flip=0.2)
_SEASONLESS = Ingredients(season=0.15, trend=0.7, trend_size=1.5, shifts=0.2, flip=0.2)
_REGULAR = Ingredients(noise=0.15)
_MONTHLY_REGULAR = Ingredients(season=1.0, noise=0.2, trend=0.65, shifts=0.1, flip=0.1)
KINDS = (
    Kind(0.32, 24, 168, 672, 192, FINE),
    Kind(0.05, 24, 168, 168, 192, FINE),
    Kind(0.06, 24, 168, 672, 96, _REGULAR),
    Kind(0.06, 96, 0, 672, 192, FINE),
    Kind(0.08, 7, 365.25, 196, 56, _DAILY),
    Kind(0.05, 7, 30.44, 70, 28, _DAILY),
    Kind(0.07, 12, 60, 144, 24, _MONTHLY),
    Kind(0.05, 12, 48, 60, 24, _MONTHLY),
    Kind(0.05, 12, 60, 240, 24, _MONTHLY_REGULAR),
    Kind(0.06, 4, 24, 40, 12, _QUARTERLY),
    Kind(0.02, 4, 32, 112, 12, _QUARTERLY),
    Kind(0.06, 1, 10, 24, 8, _SEASONLESS, 2.0),
    Kind(0.04, 1, 20, 50, 12, _SEASONLESS, 2.0),
    Kind(0.03, 1, 52.18, 168, 16, _SEASONLESS, 2.0),
)

# For contexts of six weeks of hours. Hourly recordings of grids, houses and weather hold less of the week, and levels
# that wander for days, which the mixture above shows too rarely; and no series has an upside.
_EITHER_WAY = Ingredients(flip=0.5)
_WANDERING = Ingredients(season=0.92, noise=1.0, trend=0.25, flip=0.5, week=0.3, memory=400.0)
LONG_KINDS = (
    Kind(0.12, 24, 168, 1008, 192, _EITHER_WAY),
    Kind(0.60, 24, 168, 1008, 192, _WANDERING),
    Kind(0.04, 24, 168, 336, 192, _EITHER_WAY),
    Kind(0.06, 24, 168, 1008, 96, Ingredients(noise=0.15, flip=0.5)),
    Kind(0.06, 96, 0, 1008, 192, _EITHER_WAY),
    *KINDS[4:],
)
FINER_PERIODS = (48.0, 96.0, 144.0, 288.0)


def frequency_windows(
    count: int, *, context_length: int, prediction_length: int, seed: int, kinds: Sequence[Kind] = KINDS
) -> tuple[Tensor, Tensor]:
    """Returns training pairs on the grid, of all kinds: pasts with gaps and late beginnings, and their futures.

    Both are in units of the mean absolute change from one season to the next in the past (at least a tenth of its
    standard deviation), so that a loss in these units is nearly the scaled quantile loss. Steps of the grid that a
    series does not have are NaN.

    Shapes: -> past [count, L, 1], future [count, H, 1], float32, in steps of the grid.

    Raises:
        ConfigError: when count is below 1.

    Example:
        >>> past, future = frequency_windows(32, context_length=672, prediction_length=192, seed=0)
        >>> past.shape, future.shape
        (torch.Size([32, 672, 1]), torch.Size([32, 192, 1]))
    """
    parts = []
    for place, (kind, size) in enumerate(zip(kinds, _sizes(count, kinds), strict=True)):
        if size:
            parts.append(_windows(kind, Draw(size, seed + place), context_length, prediction_length))
    pasts, futures = (torch.cat(part).unsqueeze(-1) for part in zip(*parts, strict=True))
    return pasts, futures


def _sizes(count: int, kinds: Sequence[Kind]) -> list[int]:
    """Splits a count in proportion to the shares."""
    ends = torch.tensor([kind.share for kind in kinds], dtype=torch.float64).cumsum(0)
    ends = (count * ends / ends[-1]).round().long()
    return ends.diff(prepend=ends.new_zeros(1)).tolist()


def _windows(kind: Kind, draw: Draw, past: int, future: int) -> tuple[Tensor, Tensor]:
    grid = SeasonGrid(slots=SLOTS, past=past, future=future, seasonality=kind.seasonality)
    length = min(kind.past, grid.context_length) + grid.prediction_length
    return lay_out_pairs(make_series(draw, length, kind.ingredients, *_periods(kind, draw)), kind, draw, grid)


def lay_out_pairs(series: Tensor, kind: Kind, draw: Draw, grid: SeasonGrid) -> tuple[Tensor, Tensor]:
    """Cuts complete series before the grid's future, brings them to their units, and lays them out, with gaps.

    Shapes: series [N, T], T = known steps + grid.prediction_length -> past [N, L], future [N, H], on the grid.
    """
    before, after = series.split([series.shape[1] - grid.prediction_length, grid.prediction_length], dim=1)
    unit = kind.weight * _unit(before, kind.seasonality)
    location, deviation = before.mean(1, keepdim=True), before.std(1, correction=0, keepdim=True)
    after = torch.clamp(after, location - FURTHEST * deviation, location + FURTHEST * deviation)
    before, after = (before - location) / unit, (after - location) / unit
    laid = grid.lay_out(with_gaps(draw, before).unsqueeze(-1)).squeeze(-1)
    laid = pad(laid, (grid.past - laid.shape[1], 0), value=torch.nan)
    ahead = after.new_full((len(after), grid.future), torch.nan)
    late = torch.arange(grid.prediction_length) >= kind.near
    ahead[:, grid.ahead] = after.masked_fill(late & draw.chance(NEAR), torch.nan)
    return laid, ahead


def _periods(kind: Kind, draw: Draw) -> tuple[Tensor, Tensor]:
    low, high = (math.log(x) for x in RANDOM_PERIODS)
    free = torch.exp(draw.uniform(low, high))
    ratio = torch.exp(draw.uniform(math.log(2.0), math.log(15.0)))
    own = torch.full_like(free, float(kind.seasonality))
    if kind.companion == 0:
        own = torch.tensor(FINER_PERIODS)[(draw.uniform(0, 1) * len(FINER_PERIODS)).long().clamp(max=3)]
    elif kind.seasonality == 1:  # what season there is, is long
        own = torch.full_like(free, kind.companion)
    odd = draw.chance(ODD_SEASON)
    companion = torch.full_like(free, kind.companion) if kind.companion else 7 * own
    return torch.where(odd, free, own), torch.where(odd, free * ratio, companion)


def _unit(before: Tensor, seasonality: int) -> Tensor:
    lag = min(seasonality, SLOTS, before.shape[1] - 1)
    change = (before[:, lag:] - before[:, :-lag]).abs().mean(1, keepdim=True)
    unit = torch.maximum(change, LEAST_UNIT * before.std(1, correction=0, keepdim=True))
    return torch.where(unit > 1e-3, unit, 1)
