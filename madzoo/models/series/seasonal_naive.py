"""Seasonal naive: the last season again, with normal quantiles that widen from season to season. It has no parameters.

``quantile_q(h) = y(last season at h) + z_q sigma sqrt(1 + floor(h / m))`` for h = 0, 1, ..., where m is the seasonality
and sigma the standard deviation of the differences between observations a season apart, within the context.

Axes: B series (batch times channels), L context, K seasons, m steps of a season, H horizon, Q quantiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.layers.forecaster import Forecaster
from madzoo.layers.series_scaler import SeriesScaler
from madzoo.models.series.direct import (
    NINE_LEVELS,
    DirectConfig,
    check_at_least_one,
    check_past_values,
    register_forecasters,
)

__all__ = ["SeasonalNaive", "SeasonalNaiveConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonalNaiveConfig(DirectConfig):
    """Describes one seasonal naive forecaster.

    Attributes:
        context_length, prediction_length, quantile_levels: see :class:`DirectConfig`.
        seasonality: steps of a season, m; 1 for the last value.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    seasonality: int

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        check_at_least_one(self, "seasonality")


class SeasonalNaive(Forecaster):
    """Repeats the last season.

    A step that was missing in the last season is taken from the season before, and so on; one that was never observed,
    as in a context shorter than a season, is the last observation; a series without any is 0. Where no two pairs of
    observations lie a season apart, sigma is that of differences between neighbours, and without two of those 0.

    Args:
        config: see :class:`SeasonalNaiveConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units, finite; any L.

    Source: the seasonal naive method of Hyndman and Athanasopoulos, Forecasting: principles and practice, section 5.5.

    Example:
        >>> config = SeasonalNaiveConfig(context_length=6, prediction_length=3, seasonality=2)
        >>> SeasonalNaive(config)(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])).flatten().tolist()
        [3.0, 4.0, 3.0]
    """

    task = "time-series-forecasting"
    short_is_padded = True

    def __init__(self, config: SeasonalNaiveConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.context_length
        self.prediction_length = config.prediction_length
        self.quantile_levels = config.quantile_levels
        self.seasonality = config.seasonality
        self.num_channels = None
        self.scaler = SeriesScaler()

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns quantiles, see the class.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], or L or C is 0.
        """
        channels = check_past_values(past_values, None)
        x_BL = past_values.mT.flatten(0, 1)[:, -self.context_length :]
        x_BL = x_BL.to(torch.promote_types(x_BL.dtype, torch.float32))
        steps_H = torch.arange(self.prediction_length, device=x_BL.device)
        seasons_H = (1 + steps_H // self.seasonality).to(x_BL.dtype).sqrt()
        levels = torch.tensor(self.quantile_levels, dtype=torch.float64)
        widths_HQ = seasons_H.unsqueeze(-1) * torch.special.ndtri(levels).to(x_BL)
        limit = torch.finfo(x_BL.dtype).max
        point_BH = self._last_season(x_BL)[:, steps_H % self.seasonality]
        y_BHQ = (point_BH.unsqueeze(-1) + self._spread(x_BL, widths_HQ)).clamp(-limit, limit)
        return y_BHQ.to(x_BL.dtype).unflatten(0, (-1, channels)).transpose(1, 2)

    def _last_season(self, x_BL: Tensor) -> Tensor:
        seasons_BKm = pad(x_BL, (-x_BL.shape[1] % self.seasonality, 0), value=torch.nan)
        seasons_BKm = seasons_BKm.unflatten(1, (-1, self.seasonality))
        return _last_observed(
            seasons_BKm, otherwise=_last_observed(x_BL, otherwise=torch.zeros_like(x_BL[:, 0]))[:, None]
        )

    def _spread(self, x_BL: Tensor, widths_HQ: Tensor) -> Tensor:
        scaled = self.scaler(x_BL)  # differences of the largest numbers of the dtype would overflow
        sigma_B1 = _deviation_of_differences(scaled.values, scaled.observed, 1, otherwise=0)
        sigma_B1 = _deviation_of_differences(scaled.values, scaled.observed, self.seasonality, otherwise=sigma_B1)
        return sigma_B1.unsqueeze(-1) * widths_HQ * scaled.scale.unsqueeze(-1)


def _last_observed(x: Tensor, *, otherwise: Tensor) -> Tensor:
    """The last finite value along axis 1."""
    observed = torch.isfinite(x)
    order = torch.arange(1, x.shape[1] + 1, device=x.device).reshape(-1, *[1] * (x.ndim - 2))
    last = (observed * order).argmax(1, keepdim=True)
    return torch.where(observed.any(1), x.gather(1, last).squeeze(1), otherwise)


def _deviation_of_differences(x_BL: Tensor, observed_BL: Tensor, lag: int, *, otherwise: Tensor | int) -> Tensor:
    """The standard deviation [B, 1] of x(t) - x(t - lag), where two of these were observed."""
    both = observed_BL[:, lag:] & observed_BL[:, :-lag]
    change = torch.where(both, x_BL[:, lag:] - x_BL[:, :-lag], 0)
    count = both.sum(-1, keepdim=True)
    mean = change.sum(-1, keepdim=True) / count.clamp(min=1)
    square = torch.where(both, change - mean, 0).square().sum(-1, keepdim=True)
    return torch.where(count > 1, (square / count.clamp(min=1)).sqrt(), otherwise)


# <seasonality>_<context>_<prediction>; the last three are the hourly, daily and weekly tasks of ETT in fev-bench.
register_forecasters(
    SeasonalNaive,
    "seasonal_naive",
    {
        f"{season}_{context}_{horizon}": SeasonalNaiveConfig(
            seasonality=season, context_length=context, prediction_length=horizon, quantile_levels=NINE_LEVELS
        )
        for season, context, horizon in ((24, 512, 96), (24, 672, 168), (7, 364, 28), (1, 104, 13))
    },
)
