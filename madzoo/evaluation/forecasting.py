"""Forecast errors over every window of a split, the same number for any batch size.

Axes: B windows, L context, H horizon, C channels, Q quantiles, N all windows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from madzoo.errors import ConfigError, DataError
from madzoo.evaluation.shard import ALONE, Shard
from madzoo.layers.forecaster import Forecaster

__all__ = ["ForecastScores", "ForecastWindows", "block_bootstrap_interval", "evaluate_ltsf"]

SEED = 0  # of the bootstrap
DRAWS = 1000
INTERVAL_80 = (0.1, 0.9)


class ForecastWindows(Protocol):
    """What is evaluated on: ``windows[index]`` is (past [B, L, C], future [B, H, C]); see ``madzoo.data.windows``."""

    @property
    def prediction_length(self) -> int:
        """Steps of the future, H."""
        ...

    def __len__(self) -> int:
        """Number of windows N."""
        ...

    def __getitem__(self, index: Tensor, /) -> tuple[Tensor, Tensor]:
        """The windows at some indices."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastScores:
    """Holds what a forecaster achieved.

    Attributes:
        n: number of windows, all of them.
        metrics: ``mse`` of the mean and ``mae`` of the median, in the units of the windows (LTSF: z-scores); with
            more than one quantile also ``wql``, the weighted quantile loss over the model's levels, and where these
            reach from 0.1 to 0.9 ``coverage_80``, the fraction of targets between the two.
        intervals: 95 % block bootstrap intervals of mse and mae, for this one trained model.
    """

    n: int
    metrics: dict[str, float]
    intervals: dict[str, list[float]]


def evaluate_ltsf(
    model: Forecaster, windows: ForecastWindows, *, batch_size: int, shard: Shard = ALONE
) -> ForecastScores:
    """Measures a forecaster on every window: none is dropped, whatever the batch size.

    Each error is taken of the point forecast that makes it least, as GIFT-Eval's MSE[mean] and MAE[0.5] are: squared
    errors of the mean, absolute ones of the median. A point model has one forecast for both. The average runs over
    windows, steps and channels alike. Errors and sums are float64; missing targets do not count.
    The horizon is the windows', which the model cuts or rolls out to.

    Args:
        model: any forecaster.
        windows: z-scored by the training rows for the numbers of the literature.
        batch_size: windows at a time, of memory and speed alone.
        shard: the processes that share the batches.

    Raises:
        ConfigError: when batch_size is below 1, or the model has no median.
        DataError: when the windows hold no target, or a forecast is not finite.

    Cost: one forward pass a batch (more if the horizon is longer than the model's).
    """
    if batch_size < 1:
        raise ConfigError("batch_size is at least 1.", asked=batch_size)
    batches = torch.arange(len(windows)).split(batch_size)
    parts = shard.map(lambda index: _window_sums(model, *windows[index], windows.prediction_length), batches)
    squared, absolute, pinball, size, inside, count = torch.cat(parts).unbind(1)
    if not count.sum() > 0:
        raise DataError("the windows hold no observed target.")
    metrics = {"mse": float(squared.sum() / count.sum()), "mae": float(absolute.sum() / count.sum())}
    if len(model.quantile_levels) > 1:
        metrics["wql"] = float(pinball.sum() / size.sum())
    if _has_80(model):
        metrics["coverage_80"] = float(inside.sum() / count.sum())
    block = 2 * windows.prediction_length
    intervals = {
        "mse": block_bootstrap_interval(squared, count, block=block),
        "mae": block_bootstrap_interval(absolute, count, block=block),
    }
    return ForecastScores(n=len(windows), metrics=metrics, intervals=intervals)


def block_bootstrap_interval(total_N: Tensor, count_N: Tensor, *, block: int) -> list[float]:
    """Returns a 95 % interval of sum(total) / sum(count) for neighbours that depend on each other.

    Circular blocks of ``block`` consecutive windows are drawn with replacement (1,000 draws, fixed seed), because
    windows that share hours are not independent; the interval is of the test period, not of the training seed.

    Source: Politis and Romano (1992), A circular block-resampling procedure for stationary data.
    """
    n = len(total_N)
    block = min(block, n)
    generator = torch.Generator().manual_seed(SEED)
    starts = torch.randint(n, (DRAWS, -(-n // block)), generator=generator)

    def block_sums(x: Tensor) -> Tensor:
        ahead = torch.cat([x.new_zeros(1), torch.cat([x, x[: block - 1]]).cumsum(0)])
        return ahead[block:] - ahead[:-block]

    ratios = block_sums(total_N)[starts].sum(1) / block_sums(count_N)[starts].sum(1)
    return torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()


def _has_80(model: Forecaster) -> bool:
    return model.quantile_levels[0] <= INTERVAL_80[0] and INTERVAL_80[1] <= model.quantile_levels[-1]


def _window_sums(model: Forecaster, past: Tensor, future: Tensor, horizon: int) -> Tensor:
    """Returns [B, 6]: squared, absolute and quantile error, size, hits of the interval and number of the targets."""
    levels = tuple(model.quantile_levels)
    more = INTERVAL_80 if _has_80(model) else (0.5, 0.5)
    quantiles, mean = model.predict(past, prediction_length=horizon, quantile_levels=(*levels, *more, 0.5))
    if not quantiles.isfinite().all():
        raise DataError("the model returned NaN or inf.", asked="finite quantiles")
    quantiles, mean, target = quantiles.cpu().double(), mean.cpu().double(), future.double().nan_to_num()
    observed = future.isfinite().double()
    squared = (target - mean).square() * observed
    absolute = (target - quantiles[..., -1]).abs() * observed
    spread = target.unsqueeze(-1) - quantiles[..., :-3]
    level_Q = torch.tensor(levels, dtype=torch.float64)
    pinball = 2 * torch.maximum(level_Q * spread, (level_Q - 1) * spread).mean(-1) * observed
    inside = ((quantiles[..., -3] <= target) & (target <= quantiles[..., -2])) * observed
    parts = (squared, absolute, pinball, target.abs() * observed, inside, observed)
    return torch.stack([part.flatten(1).sum(1) for part in parts], dim=1)
