"""RLinear: one linear map from the normalised context to the horizon.

Axes: B series (batch times channels), C channels, L context, H horizon, Q quantiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.layers.linear import Linear
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.models.series.direct import (
    NINE_LEVELS,
    DirectConfig,
    DirectForecaster,
    horizon_adapter,
    register_forecasters,
)

__all__ = ["RLinear", "RLinearConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RLinearConfig(DirectConfig):
    """Describes one RLinear.

    Attributes:
        context_length, prediction_length, quantile_levels: see :class:`DirectConfig`.
        affine_channels: number of channels with a gain and an offset of their own behind the normalisation, taken back
            behind the map, as published; 0 for none, which serves any number of channels.
        norm_eps: added to a window's variance, in squared units of the input. The published code adds 1e-5 to that of
            z-scored data; with 0 the forecast keeps the units of any series.
        instance_norm: normalise; False for data that were scaled beforehand (published: ``rev``).
        dropout: probability of dropping a step of the context.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    affine_channels: int = 0
    norm_eps: float = 0.0
    instance_norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        if self.affine_channels < 0 or not 0 <= self.norm_eps < 1 or not 0 <= self.dropout < 1:
            raise ConfigError("affine_channels >= 0 and norm_eps, dropout in [0, 1) are needed.", asked=str(self))
        if self.affine_channels and not self.instance_norm:
            raise ConfigError("gains and offsets belong to the normalisation.", asked=str(self))


class ChannelAffine(nn.Module):
    """Gives every channel a gain and an offset, and takes them back.

    As published, 1e-10 is added to the gain that is divided by.

    Source: arXiv 2111.14865 (reversible instance normalisation).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BL: Tensor) -> Tensor:
        """Applies it: [B, L] -> [B, L], the channels of a sample one after the other."""
        return self._by_channel(x_BL) * self.affine_weight.view(-1, 1) + self.affine_bias.view(-1, 1)

    def inverse(self, y_BH: Tensor) -> Tensor:
        """Takes it back: [B, H] -> [B, H]."""
        y = (self._by_channel(y_BH) - self.affine_bias.view(-1, 1)) / (self.affine_weight.view(-1, 1) + 1e-10)
        return y.flatten(0, 1)

    def _by_channel(self, x_BL: Tensor) -> Tensor:
        return x_BL.unflatten(0, (-1, len(self.affine_weight)))


class RLinear(DirectForecaster):
    """Forecasts quantiles of every channel from its own past, linearly but for the scaling.

    Args:
        config: see :class:`RLinearConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Source: arXiv 2305.10721, section 4; names of plumprc/RTSF, models/RLinear.py.

    Example:
        >>> RLinear(RLinearConfig(context_length=48, prediction_length=12))(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    def __init__(self, config: RLinearConfig) -> None:
        super().__init__(config, instance_norm=config.instance_norm, norm_eps=config.norm_eps)
        self.num_channels = config.affine_channels or None
        self.rev = ChannelAffine(config.affine_channels) if config.affine_channels else None
        self.dropout = nn.Dropout(config.dropout)
        self.Linear = Linear(config.context_length, config.prediction_length * len(config.quantile_levels))

    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the sorted quantiles of scaled series.

        Shapes: values [B, L] -> [B, H, Q].
        """
        x_BL = scaled.values if self.rev is None else self.rev(scaled.values).flatten(0, 1)
        y = self.Linear(self.dropout(x_BL))
        y = y if self.rev is None else self.rev.inverse(y)
        return y.unflatten(-1, (self.prediction_length, -1)).sort(-1).values


register_forecasters(
    RLinear,
    "rlinear",
    {
        f"{context}_{horizon}": RLinearConfig(context_length=context, prediction_length=horizon)
        for context, horizon in ((96, 96), (336, 96), (512, 96), (512, 192), (512, 336), (512, 720))
    }
    | {"672_168": RLinearConfig(context_length=672, prediction_length=168, quantile_levels=NINE_LEVELS)},
    adapt_weights=horizon_adapter(("Linear.weight", "Linear.bias"), ("prediction_length", "dropout", "norm_eps")),
    paper="2305.10721",
)
