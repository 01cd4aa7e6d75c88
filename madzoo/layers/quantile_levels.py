"""Quantile levels asked for, quantiles at other levels than a model's, and quantiles of a mixture of forecasts.

Q known quantiles, M asked ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.errors import ConfigError

__all__ = [
    "NINE_LEVELS", "central_level", "check_levels", "check_symmetric", "interpolate_quantiles", "mixture_quantiles",
    "usual_levels",
]  # fmt: skip

NINE_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SLACK = 1e-9  # 0.1 + 0.2 is asked for, 0.3 is meant


def check_levels(known: Sequence[float], asked: Sequence[float]) -> tuple[float, ...]:
    """Returns the levels asked for.

    Raises:
        ConfigError: when there is none, one is no number, or one lies outside the known ones.
    """
    try:
        levels = tuple(float(level) for level in asked)
    except (TypeError, ValueError) as error:
        todo = "quantile_levels=(0.1, 0.5, 0.9), for instance"
        raise ConfigError("quantile_levels are a sequence of numbers.", asked=repr(asked), todo=todo) from error
    if not levels or not all(known[0] - SLACK <= level <= known[-1] + SLACK for level in levels):
        raise ConfigError(
            "a quantile level lies outside the model's range, or none was given.",
            asked=list(levels),
            looked=f"the model's levels: {list(known)}",
            todo=f"quantile_levels={[known[0]] if len(known) == 1 else [known[0], 0.5, known[-1]]}, for instance",
        )
    return levels


def usual_levels(known: Sequence[float]) -> tuple[float, ...]:
    """Returns the levels of a forecast that asks for none: 0.1 to 0.9 where they lie between the known, else the known.

    Example:
        >>> usual_levels((0.5,)), usual_levels((0.05, 0.5, 0.95)) == NINE_LEVELS
        ((0.5,), True)
    """
    covered = known[0] - SLACK <= NINE_LEVELS[0] and NINE_LEVELS[-1] <= known[-1] + SLACK
    return NINE_LEVELS if covered else tuple(known)


def central_level(known: Sequence[float]) -> float:
    """Returns the level of a forecast's one number: 0.5, or the end of the known levels that is nearest to it.

    Example:
        >>> central_level((0.1, 0.9)), central_level((0.7, 0.9))
        (0.5, 0.7)
    """
    return min(max(0.5, known[0]), known[-1])


def check_symmetric(levels: Sequence[float]) -> None:
    """Checks that levels are symmetric around 0.5, so that the mirrored quantiles of a series are those of its mirror.

    Raises:
        ConfigError: when they are not.
    """
    if any(abs(low + high - 1) > SLACK for low, high in zip(levels, reversed(levels), strict=True)):
        raise ConfigError("sign_average mirrors the quantile levels, which must be symmetric.", asked=list(levels))


def interpolate_quantiles(quantiles: Tensor, known: Sequence[float], asked: Sequence[float]) -> Tensor:
    """Interpolates linearly between neighbouring levels; the result rises with the level, whatever the rounding.

    Shapes: quantiles [..., Q], sorted -> [..., M], in the order asked.

    Raises:
        ConfigError: see :func:`check_levels`.

    Example:
        >>> interpolate_quantiles(torch.tensor([0.0, 1.0, 3.0]), (0.1, 0.5, 0.9), (0.7, 0.5)).tolist()
        [2.0, 1.0]
    """
    levels = torch.tensor(check_levels(known, asked), dtype=torch.float64)
    if tuple(asked) == tuple(known):
        return quantiles
    order = levels.argsort()
    cells = torch.tensor(known, dtype=torch.float64)
    upper = torch.searchsorted(cells, levels[order]).clamp(max=len(cells) - 1)
    lower = (upper - 1).clamp(min=0)
    share = ((levels[order] - cells[lower]) / (cells[upper] - cells[lower]).clamp(min=SLACK)).clamp(0, 1)
    upper, lower, share = upper.to(quantiles.device), lower.to(quantiles.device), share.to(quantiles)
    between = _between(quantiles[..., lower], quantiles[..., upper], share)
    return between.cummax(-1).values[..., order.argsort().to(quantiles.device)]


def mixture_quantiles(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Returns the quantiles of a mixture of Q forecasts, each weighed by what its own level stands for.

    A level stands for the probability up to half way to its neighbours, in all 1. The weighed points of all forecasts
    are sorted, and each level's quantile is averaged over a stretch of probability around it that ends before the
    neighbours' do: so a mixture of one forecast with itself has that forecast's quantiles, the result moves
    continuously with every point, and levels cannot cross.

    Shapes: quantiles [..., Q forecasts, Q levels] -> [..., Q levels].

    Cost: a sort of Q squared points.
    """
    known = torch.tensor(levels, dtype=torch.float64)
    edges = torch.cat([known.new_zeros(1), (known[1:] + known[:-1]) / 2, known.new_ones(1)])
    masses, reach = edges.diff(), torch.minimum(known - edges[:-1], edges[1:] - known)
    points, order = quantiles.flatten(-2).sort(-1)
    # Halves of distances, which neither overflow nor lose the digits that an offset would cost.
    anchor = points[..., points.shape[-1] // 2, None]
    away = 0.5 * points - 0.5 * anchor
    weight = torch.outer(masses, masses).flatten().to(points)[order]
    reached = pad(weight.cumsum(-1), (1, 0))
    area = pad((weight * away).cumsum(-1), (1, 0))
    ends = torch.stack([known - reach, known + reach]).to(points).expand(*points.shape[:-1], 2, -1).flatten(-2)
    where = (torch.searchsorted(reached, ends.contiguous()) - 1).clamp(0, points.shape[-1] - 1)
    below = area.gather(-1, where) + (ends - reached.gather(-1, where)) * away.gather(-1, where)
    first, last = below.unflatten(-1, (2, -1)).unbind(-2)
    mean = (last - first) / (2 * reach).to(points)
    held = mean.clamp(away[..., :1], away[..., -1:])
    return (2 * (0.5 * anchor + held)).clamp(points[..., :1], points[..., -1:]).cummax(-1).values


def _between(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    # Not low + share * (high - low), which overflows; and held between both, which rounding may leave.
    return torch.minimum(torch.maximum(low * (1 - share) + high * share, low), high)
