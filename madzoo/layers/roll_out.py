"""Forecasts beyond a model's horizon: every quantile path goes on as a past of its own.

B series, L context, H the model's horizon, C channels, Q quantiles.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from madzoo.layers.quantile_levels import mixture_quantiles

__all__ = ["roll_out"]


def roll_out(
    forward: Callable[[Tensor], Tensor],
    past: Tensor,
    *,
    horizon: int,
    context_length: int,
    levels: Sequence[float],
) -> Tensor:
    """Forecasts any number of steps with a model that gives H at a time.

    The first block is the model's own forecast. From each of its Q quantiles, taken as a path through the block, the
    model forecasts again; the next block holds the quantiles of the mixture of these Q forecasts, weighed by the
    probability that each path stands for. A mixture is at least as wide as its parts are on average, so uncertainty
    of earlier blocks reaches later ones; a model with a single quantile continues its one path.

    Two properties hold by construction: quantiles never cross, and on each side of the median the outermost quantile
    is, averaged over a block, never nearer to it than in the block before.

    Args:
        forward: the model, [B, L, C] -> sorted or unsorted quantiles [B, H, C, Q].
        past: [B, L, C], NaN = missing.
        horizon: steps to forecast.
        context_length: steps of the past the model looks at.
        levels: of the model's quantiles.

    Returns:
        Sorted quantiles [B, horizon, C, Q].

    Cost: one forward pass, and Q more for every further block.
    """
    blocks = [forward(past).sort(-1).values]
    size = blocks[0].shape[1]
    past = past.to(torch.promote_types(past.dtype, blocks[0].dtype))[:, -context_length:]
    paths = [past] * len(levels)
    while len(blocks) * size < horizon:
        steps = blocks[-1].to(past.dtype).unbind(-1)
        paths = [torch.cat([path, step], dim=1)[:, -context_length:] for path, step in zip(paths, steps, strict=True)]
        forecasts = torch.stack([forward(path) for path in paths], dim=-2)
        mixed = mixture_quantiles(forecasts, levels) if len(levels) > 1 else forecasts.squeeze(-2)
        blocks.append(_no_narrower(mixed, blocks[-1], _middle(levels)))
    return torch.cat(blocks, dim=1)[:, :horizon]


def _no_narrower(block: Tensor, before: Tensor, middle: int) -> Tensor:
    """Widens each side of the median to the mean width of the block before, where it is narrower."""
    centre, centre_before = block[..., middle : middle + 1], before[..., middle : middle + 1]
    away, away_before = block - centre, before - centre_before
    sides = []
    for part, outermost in ((slice(0, middle), 0), (slice(middle + 1, None), -1)):
        width = away[..., outermost].abs().mean(1)[:, None, :, None]
        least = away_before[..., outermost].abs().mean(1)[:, None, :, None]
        factor = torch.where(width > 0, least / torch.where(width > 0, width, 1), 1).clamp(min=1)
        profile = away_before[..., part].mean(1, keepdim=True)  # for a block without any width
        sides.append(torch.where(width > 0, factor * away[..., part], profile.expand_as(away[..., part])))
    wider = centre + torch.cat([sides[0], torch.zeros_like(centre), sides[1]], dim=-1)
    # The distance between the largest numbers of the dtype overflows; such a block stays as it is.
    return torch.where(wider.isfinite().all(-1, keepdim=True), wider, block).sort(-1).values


def _middle(levels: Sequence[float]) -> int:
    return min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))
