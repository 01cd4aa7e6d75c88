"""SeasonS4D: one token per season, mixed along the seasons by S4D; one checkpoint for every sampling rate.

The series is laid out on a grid on which a season has 24 steps whatever its frequency (:class:`SeasonGrid`), and the
network of :mod:`madzoo.models.series.patch_s4d` forecasts on that grid, a patch being a season. What the last season
held at each step is an anchor of the forecast, beside the last value. An architecture of this project.

Axes: B series (batch times channels), G steps of the grid, C channels, A anchors, H horizon, Q quantiles.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madzoo.layers.season_grid import SeasonGrid
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.models.series.direct import NINE_LEVELS, check_past_values, register_forecasters
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.models.series.patch_trunk import adapt_patch_weights
from madzoo.registry import PretrainedCfg

__all__ = ["SeasonS4D", "SeasonS4DConfig"]

WEEK = 7  # seasons


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonS4DConfig(PatchS4DConfig):
    """Describes one SeasonS4D; a season of the grid has ``patch_size`` steps.

    Attributes:
        context_length, prediction_length: steps of the grid, whole seasons.

    The other fields are those of :class:`PatchS4DConfig`.

    Raises:
        ConfigError: when a value lies outside its range.
    """


class SeasonS4D(PatchS4D):
    """Forecasts quantiles of series of any frequency, told by their seasonality.

    Args:
        config: see :class:`SeasonS4DConfig`.

    Attributes:
        seasonality: steps of the series in a season, 1 for none; the slots of the grid by default. It may be set at any
            time, and decides how many steps of the series context and forecast have.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Example:
        >>> model = SeasonS4D(SeasonS4DConfig(context_length=672, prediction_length=192, patch_size=24, patch_stride=24,
        ...     d_model=4, bottleneck=8, last_value_gate=True))
        >>> model.seasonality = 12
        >>> model(torch.randn(2, 60, 3)).shape
        torch.Size([2, 96, 3, 1])
    """

    config: SeasonS4DConfig

    def __init__(self, config: SeasonS4DConfig) -> None:
        super().__init__(config)
        self.seasonality = config.patch_size

    @property
    def seasonality(self) -> int:
        """Steps of the series in a season."""
        return self._seasonality

    @seasonality.setter
    def seasonality(self, value: int) -> None:
        config = self.config
        lengths = {"past": config.context_length, "future": config.prediction_length}
        self.grid = SeasonGrid(slots=config.patch_size, seasonality=value, **lengths)
        self.context_length, self.prediction_length = self.grid.context_length, self.grid.prediction_length
        self._seasonality = value

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns quantiles, see the class.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], or L or C is 0.
        """
        check_past_values(past_values, None)
        return self.grid.read(super().forward(self.grid.lay_out(past_values)))

    @staticmethod
    def num_anchors(config: Any) -> int:
        """Returns how many values :meth:`anchors` gives."""
        return 3

    def anchors(self, scaled: ScaledSeries) -> Tensor:
        """Returns the last value and, step by step, the last season and what was seven seasons ago, as last week.

        Shapes: -> [B, 3, H].
        """
        slots, horizon = self.config.patch_size, self.config.prediction_length
        seasons_BKS = scaled.values.unflatten(1, (-1, slots))
        observed_BKS = scaled.observed.unflatten(1, (-1, slots))
        order = torch.arange(1, seasons_BKS.shape[1] + 1, device=scaled.values.device).unsqueeze(-1)
        latest_B1S = (observed_BKS * order).argmax(1, keepdim=True)
        season_BS = seasons_BKS.gather(1, latest_B1S).squeeze(1)
        season_BS = torch.where(observed_BKS.any(1), season_BS, scaled.last)
        last_week = (slice(None), slice(-WEEK, None))
        week_BWS = torch.where(observed_BKS[last_week], seasons_BKS[last_week], season_BS.unsqueeze(1))
        repeats = -(-horizon // (WEEK * slots))
        week_BH = week_BWS.flatten(1).repeat(1, repeats)[:, :horizon]
        return torch.stack([scaled.last.expand(-1, horizon), season_BS.repeat(1, horizon // slots), week_BH], dim=1)


def _config(d_model: int, depth: int, bottleneck: int) -> SeasonS4DConfig:
    return SeasonS4DConfig(
        context_length=672, prediction_length=192, patch_size=24, patch_stride=24, quantile_levels=NINE_LEVELS,
        linear_skip=False, last_value_gate=True, final_norm=False, d_model=d_model, depth=depth, bottleneck=bottleneck,
    )  # fmt: skip


register_forecasters(
    SeasonS4D,
    "season_s4d",
    {"small_672_192": _config(64, 3, 128), "base_672_192": _config(96, 4, 160)},
    adapt_weights=adapt_patch_weights,
    weights={"base_672_192": {"zeroshot": PretrainedCfg(license="apache-2.0", dataset="synthetic-frequencies")}},
)
