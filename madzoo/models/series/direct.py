"""What direct forecasters share: a context of fixed length, scaled by itself, to all quantiles of the horizon at once.

Axes: B series (batch times channels), L context, C channels, H horizon, Q quantiles.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import CheckpointError, ConfigError
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.past_values import check_past_values, fit_context
from madzoo.layers.series_scaler import ScaledSeries, SeriesScaler
from madzoo.registry import ModelSpec, PretrainedCfg, register_model

__all__ = [
    "NINE_LEVELS",
    "DirectConfig",
    "DirectForecaster",
    "KeepUnits",
    "check_at_least_one",
    "check_past_values",
    "horizon_adapter",
    "register_forecasters",
]

NINE_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# What may differ between a configuration and the one its weights were trained with, unless a family says more.
ADAPTABLE = ("prediction_length", "dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectConfig:
    """Describes what every direct forecaster has.

    Attributes:
        context_length: steps of the past, L.
        prediction_length: steps of the future, H.
        quantile_levels: strictly increasing levels; ``(0.5,)`` for a point forecast of the median.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    context_length: int
    prediction_length: int
    quantile_levels: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        check_at_least_one(self, "context_length", "prediction_length")
        levels = self.quantile_levels
        if not levels or sorted(set(levels)) != list(levels) or not 0 < levels[0] <= levels[-1] < 1:
            raise ConfigError("quantile_levels increase strictly inside (0, 1).", asked=levels)


class DirectForecaster(Forecaster, ABC):
    """Scales every series by its own past, hands it to :meth:`forecast_scaled`, and restores the units.

    Args:
        config: a family's configuration.
        instance_norm: False leaves the values in their units, see :class:`KeepUnits`.
        norm_eps: added to each series' variance, in squared units of the input; above 0 the units matter.

    Attributes:
        channels_meet: whether the forecast of a channel depends on the others.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units. Any L: cropped to
        the last context_length steps, or padded with NaN on the left. The scaling is done in the wider of the input's
        and the parameters' dtype, which is also the output's; everything between in the parameters' dtype.
    """

    task = "time-series-forecasting"
    channels_meet: bool = False
    short_is_padded = True

    def __init__(self, config: DirectConfig, *, instance_norm: bool = True, norm_eps: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.context_length
        self.prediction_length = config.prediction_length
        self.quantile_levels = config.quantile_levels
        self.num_channels = None
        self.scaler = SeriesScaler() if instance_norm else KeepUnits()
        self.norm_eps = norm_eps if instance_norm else 0.0

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns quantiles, see the class.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], L or C is 0, or C does not fit the model.
        """
        channels = check_past_values(past_values, self.num_channels)
        dtype = next(self.parameters()).dtype
        x_BL = past_values.mT.flatten(0, 1).to(torch.promote_types(past_values.dtype, dtype))
        scaled = self.scaler(fit_context(x_BL, self.config.context_length, dim=1))
        scaled = _flatten_small(scaled, self.norm_eps) if self.norm_eps else scaled
        narrow = scaled._replace(values=scaled.values.to(dtype), last=scaled.last.to(dtype))
        y_BHQ = self.forecast_scaled(narrow, channels)
        return self.scaler.restore(y_BHQ, scaled).unflatten(0, (-1, channels)).transpose(1, 2)

    @abstractmethod
    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the quantiles of scaled series, sorted; what a family writes.

        Args:
            scaled: series without units, the channels of a sample one after the other.
            channels: C, for a family that mixes them.

        Shapes: values and observed [B, L] -> [B, H, Q].
        """


class KeepUnits(nn.Module):
    """Stands in for the scaler where a model takes the values as they are; missing ones become the series' mean.

    For data that were scaled beforehand, as in the published experiments of models without instance normalisation.

    Example:
        >>> KeepUnits()(torch.tensor([[1.0, torch.nan, 3.0]])).values
        tensor([[1., 2., 3.]])
    """

    def forward(self, x: Tensor) -> ScaledSeries:
        """Fills a batch of series.

        Shapes: x [B, L] -> see :class:`ScaledSeries`; location is 0 and scale 1.
        """
        observed = torch.isfinite(x)
        known = torch.where(observed, x, 0)
        count = observed.sum(-1, keepdim=True).clamp(min=1)
        values = torch.where(observed, x, (known / count).sum(-1, keepdim=True))
        last = (observed * torch.arange(1, x.shape[-1] + 1, device=x.device)).argmax(-1, keepdim=True)
        zero = torch.zeros_like(x[:, :1])
        return ScaledSeries(values, observed, values.gather(-1, last), zero, torch.ones_like(zero))

    def restore(self, y: Tensor, scaled: ScaledSeries) -> Tensor:
        """Returns forecasts as they are, in the dtype of the series, and finite."""
        y = y.to(scaled.scale.dtype)
        limit = torch.finfo(y.dtype).max
        return y.clamp(-limit, limit)


def check_at_least_one(config: Any, *names: str) -> None:
    """Checks fields that count something.

    Raises:
        ConfigError: when one of them is below 1.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is at least 1.", asked=f"{name}={getattr(config, name)}")


def horizon_adapter(
    tensors: Collection[str], adaptable: Collection[str] = ADAPTABLE
) -> Callable[[dict[str, Tensor], Any, Any], dict[str, Tensor]]:
    """Returns an ``adapt_weights`` that drops the tensors of another horizon and refuses every other change.

    Args:
        tensors: names of the tensors whose shape holds the horizon; they start anew.
        adaptable: fields that weights do not depend on, and ``prediction_length``.
    """

    def adapt_weights(state: Mapping[str, Tensor], source: Any, target: Any) -> dict[str, Tensor]:
        names = [field.name for field in fields(source) if field.name not in adaptable]
        changed = [
            f"{name}: {getattr(source, name)} -> {getattr(target, name)}"
            for name in names
            if getattr(source, name) != getattr(target, name)
        ]
        if changed:
            raise CheckpointError(
                "these weights fit no other configuration.",
                asked="; ".join(changed),
                todo="only prediction_length (the head starts anew) and dropout can change with weights; "
                "pretrained=False for anything else",
            )
        if source.prediction_length == target.prediction_length:
            return dict(state)
        return {name: tensor for name, tensor in state.items() if name not in tensors}

    return adapt_weights


def register_forecasters(
    build: Callable[[Any], nn.Module],
    family: str,
    configs: Mapping[str, Any],
    *,
    adapt_weights: Callable[[dict[str, Tensor], Any, Any], dict[str, Tensor]] | None = None,
    remap_keys: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    paper: str | None = None,
    weights: Mapping[str, Mapping[str, PretrainedCfg]] | None = None,
) -> None:
    """Registers a family's table of configurations.

    Args:
        build: makes the module of a configuration.
        family: first part of every name.
        configs: rest of the name -> configuration.
        adapt_weights, remap_keys: see :class:`madzoo.registry.ModelSpec`.
        paper: arXiv id.
        weights: rest of the name -> tag -> weights.
    """
    for rest, config in configs.items():
        register_model(
            ModelSpec(
                name=f"{family}_{rest}",
                family=family,
                task=DirectForecaster.task,
                config=config,
                build=build,
                paper=paper,
                weights=(weights or {}).get(rest, {}),
                remap_keys=remap_keys,
                adapt_weights=adapt_weights,
            )
        )


def _flatten_small(scaled: ScaledSeries, eps: float) -> ScaledSeries:
    scale = (scaled.scale.square() + eps).sqrt()
    share = (scaled.scale / scale).to(scaled.values.dtype)
    return scaled._replace(values=scaled.values * share, last=scaled.last * share, scale=scale)
