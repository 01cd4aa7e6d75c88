"""SeasonS4D: one token per season, mixed along the seasons by S4D; one checkpoint for every sampling rate.

The series is laid out on a grid on which a season has 24 steps whatever its frequency (:class:`SeasonGrid`), and the
network of :mod:`madzoo.models.series.patch_s4d` forecasts on that grid, a patch being a season. What the last season
held at each step is an anchor of the forecast, beside the last value; a larger form also has means of many seasons for
anchors, and averages the forecasts of a series and of its mirror image. An architecture of this project.

Axes: B series (batch times channels), G steps of the grid, C channels, A anchors, H horizon, Q quantiles, K seasons,
S slots (steps of the grid in a season).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.errors import CheckpointError, ConfigError
from madzoo.gauges import Slices, offset
from madzoo.layers.quantile_levels import check_symmetric
from madzoo.layers.season_grid import SeasonGrid
from madzoo.layers.series_reading import whole_number
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.models.series.direct import NINE_LEVELS, check_past_values, register_forecasters
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.models.series.patch_trunk import adapt_patch_weights
from madzoo.registry import PretrainedCfg, register_alias
from madzoo.symmetry import Symmetry

__all__ = ["SeasonS4D", "SeasonS4DConfig"]

WEEK = 7  # seasons
SHUT = -4.0  # bias of a new anchor's gate: it begins nearly shut


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonS4DConfig(PatchS4DConfig):
    """Describes one SeasonS4D; a season of the grid has ``patch_size`` steps.

    Attributes:
        context_length: steps of the grid, whole seasons.
        prediction_length: steps of the grid.
        mean_anchors: three more anchors, the mean season of the last seven, of all, and of every seventh, as the same
            day of the week.
        sign_average: outside training, average with the mirrored forecast of the mirrored series, at twice the cost;
            so the forecast of -x is exactly the mirror image of the forecast of x.

    The other fields are those of :class:`PatchS4DConfig`.

    Raises:
        ConfigError: when a value lies outside its range, the context does not hold whole seasons, or sign_average meets
            levels not symmetric around 0.5.
    """

    mean_anchors: bool = False
    sign_average: bool = False

    def __post_init__(self) -> None:
        PatchS4DConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        seasons, left_over = divmod(self.context_length, self.patch_size)
        if left_over:
            whole = self.patch_size * max(1, seasons)
            raise ConfigError(
                "the context holds whole seasons.",
                asked=f"context_length={self.context_length}",
                looked=f"a season has patch_size={self.patch_size} steps",
                todo=f"context_length={whole} or {whole + self.patch_size}",
            )
        if self.sign_average:
            check_symmetric(self.quantile_levels)


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
    asks_season = True

    def __init__(self, config: SeasonS4DConfig) -> None:
        super().__init__(config)
        self.seasonality = config.patch_size

    @property
    def seasonality(self) -> int:
        """Steps of the series in a season."""
        return self._seasonality

    @seasonality.setter
    def seasonality(self, value: int) -> None:
        value, config = whole_number("seasonality", value), self.config
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

    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the sorted quantiles of scaled series, averaged with the mirror image's where the model does so.

        Shapes: values and observed [B, L] -> [B, H, Q].
        """
        y_BHQ = super().forecast_scaled(scaled, channels)
        if self.training or not self.config.sign_average:
            return y_BHQ
        mirrored = scaled._replace(values=-scaled.values, last=-scaled.last)
        return 0.5 * (y_BHQ - super().forecast_scaled(mirrored, channels).flip(-1))

    def symmetries(self) -> list[Symmetry]:
        """Declares, beside the trunk's, that the mirror image hides a shift of all quantiles of a step."""
        found = super().symmetries()
        if self.config.sign_average:
            up = {"head.projection.bias": Slices(block=len(self.config.quantile_levels))}
            found.append(offset("season.mirrored_shift", self.config.prediction_length, up=up, down={}))
        return found

    @staticmethod
    def num_anchors(config: Any) -> int:
        """Returns how many values :meth:`anchors` gives."""
        return 6 if config.mean_anchors else 3

    def anchors(self, scaled: ScaledSeries) -> Tensor:
        """Returns the last value and, step by step, the last season and what was seven seasons ago, as last week.

        With ``mean_anchors`` also the mean of the last seven seasons, of every seventh one, and of all; each counts
        what was observed, and is the anchor before it where nothing was.

        Shapes: -> [B, A, H].
        """
        slots, horizon = self.config.patch_size, self.config.prediction_length
        seasons_BKS = scaled.values.unflatten(1, (-1, slots))
        observed_BKS = scaled.observed.unflatten(1, (-1, slots))
        season_BS = _latest(seasons_BKS, observed_BKS, otherwise=scaled.last)
        last_week = (slice(None), slice(-WEEK, None))
        week_BWS = torch.where(observed_BKS[last_week], seasons_BKS[last_week], season_BS.unsqueeze(1))
        found = [season_BS, week_BWS.flatten(1)]
        if self.config.mean_anchors:
            recent_BS = _mean(seasons_BKS[last_week], observed_BKS[last_week], otherwise=season_BS)
            same_BWS = _mean(*map(_by_weekday, (seasons_BKS, observed_BKS)), otherwise=week_BWS)
            found += [recent_BS, same_BWS.flatten(1), _mean(seasons_BKS, observed_BKS, otherwise=recent_BS)]
        return torch.stack([scaled.last.expand(-1, horizon), *(_repeat(x, horizon) for x in found)], dim=1)


def _latest(x_BKS: Tensor, observed_BKS: Tensor, *, otherwise: Tensor) -> Tensor:
    """The last observed value of every slot."""
    order = torch.arange(1, x_BKS.shape[1] + 1, device=x_BKS.device).unsqueeze(-1)
    latest_B1S = (observed_BKS * order).argmax(1, keepdim=True)
    return torch.where(observed_BKS.any(1), x_BKS.gather(1, latest_B1S).squeeze(1), otherwise)


def _mean(x: Tensor, observed: Tensor, *, otherwise: Tensor) -> Tensor:
    """The mean of what was observed along the first axis behind the batch; missing values are 0 in x."""
    count = observed.sum(1)
    return torch.where(count > 0, x.sum(1) / count.clamp(min=1), otherwise)


def _by_weekday(x_BKS: Tensor) -> Tensor:
    """Cuts seasons into weeks that end with the last one, [B, weeks, 7, S]; what a first week lacks is missing."""
    lacking = -x_BKS.shape[1] % WEEK
    return pad(x_BKS, (0, 0, lacking, 0)).unflatten(1, (-1, WEEK))


def _repeat(x_BT: Tensor, horizon: int) -> Tensor:
    return x_BT.repeat(1, -(-horizon // x_BT.shape[1]))[:, :horizon]


def adapt_season_weights(state: Mapping[str, Tensor], source: Any, target: Any) -> dict[str, Tensor]:
    """Fits weights to another horizon, a longer context and new anchors; the network begins near the function it was.

    A step beyond the old horizon begins as the step a week before it. Seasons before the old context reach the head by
    weights of 0, and new anchors by gates that are nearly shut; what changes is what the state space systems remember
    of the older seasons, and the scale.

    Raises:
        CheckpointError: on any other change but of dropout, a shorter context or anchors that vanish.
    """
    seasons, left_over = divmod(target.context_length - source.context_length, source.patch_size)
    anchors = [SeasonS4D.num_anchors(config) for config in (source, target)]
    if seasons < 0 or left_over or anchors[1] < anchors[0]:
        raise CheckpointError(
            "these weights fit a longer context of whole seasons, and more anchors, only.",
            asked=f"context_length={target.context_length}, mean_anchors={target.mean_anchors}",
            looked=f"context_length={source.context_length}, mean_anchors={source.mean_anchors}",
        )
    grown = dict(state)
    grown["pos_embed"] = torch.cat([state["pos_embed"][:1].expand(seasons, -1), state["pos_embed"]])
    reader = next(name for name in ("head.bottleneck.0.weight", "head.projection.weight") if name in state)
    grown[reader] = pad(grown[reader], (seasons * source.d_model, 0))
    horizons, week = (source.prediction_length, target.prediction_length), WEEK * source.patch_size
    for name in ("head.projection.weight", "head.projection.bias"):
        grown[name] = _other_horizon(grown[name].unflatten(0, (horizons[0], -1)), horizons[1], week).flatten(0, 1)
    for name in ("head.gate.weight", "head.gate.bias"):
        gates_HA = _other_horizon(grown[name].unflatten(0, (anchors[0], -1)).transpose(0, 1), horizons[1], week)
        new = gates_HA.new_full(
            (horizons[1], anchors[1] - anchors[0], *gates_HA.shape[2:]), SHUT if name.endswith("bias") else 0.0
        )
        grown[name] = torch.cat([gates_HA, new], dim=1).transpose(0, 1).flatten(0, 1)
    free = ("context_length", "prediction_length", "mean_anchors", "sign_average")
    return adapt_patch_weights(grown, replace(source, **{name: getattr(target, name) for name in free}), target)


def _other_horizon(rows: Tensor, horizon: int, week: int) -> Tensor:
    """Cuts what belongs to the steps of a horizon, or goes on with the rows of a week before."""
    while len(rows) < horizon:
        rows = torch.cat([rows, rows[-week:][: horizon - len(rows)]])
    return rows[:horizon]


def _config(size: dict[str, int], context_length: int = 672, **more: bool) -> SeasonS4DConfig:
    return SeasonS4DConfig(
        context_length=context_length, prediction_length=192, patch_size=24, patch_stride=24,
        quantile_levels=NINE_LEVELS, linear_skip=False, last_value_gate=True, final_norm=False, **size, **more,
    )  # fmt: skip


SMALL = {"d_model": 64, "depth": 3, "bottleneck": 128}
BASE = {"d_model": 96, "depth": 4, "bottleneck": 160}

register_forecasters(
    SeasonS4D,
    "season_s4d",
    {
        "small_672_192": _config(SMALL),
        "base_672_192": _config(BASE),
        "base_1008_192": _config(BASE, 1008, mean_anchors=True, sign_average=True),
    },
    adapt_weights=adapt_season_weights,
    weights={
        "base_1008_192": {
            "zeroshot": PretrainedCfg(license="apache-2.0", dataset="synthetic-frequencies-long+citylearn"),
            "ett1h": PretrainedCfg(license="apache-2.0", dataset="fev-ett-1h"),
        },
    },
)
register_alias("forecast-default", "season_s4d_base_1008_192.zeroshot")
