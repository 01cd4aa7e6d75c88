"""RLinear: one linear map from the normalised context to the horizon.

Axes: B series (batch times channels), C channels, L context, H horizon, Q quantiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import COLUMNS, vector_term
from madzoo.layers.linear import Linear
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.models.series.direct import (
    NINE_LEVELS,
    DirectConfig,
    DirectForecaster,
    horizon_adapter,
    register_forecasters,
)
from madzoo.stream_gauges import NormReader, zero_sum
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

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

    config: RLinearConfig
    head_names = ("Linear",)  # all there is, but for the gains and offsets of ``affine_channels``

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

    def symmetries(self) -> list[Symmetry]:
        """Declares what the scaled series, which sum to zero, do not show, and how offsets may be told otherwise."""
        rows, channels = self.Linear.out_features, self.config.affine_channels
        if channels > 1:
            return [from_terms("rlinear.offsets", 2, _offset_terms)]
        if channels:
            return [from_terms("rlinear.single_channel", 2 + rows, _single_channel_terms)]
        values = NormReader({"Linear.weight": COLUMNS}, centred=True)
        options = {"reader": "Linear.weight", "norm": values, "reader_bias": None}
        return [zero_sum("rlinear.series_zero_sum", rows, **options)] if self.config.instance_norm else []


def _offset_terms(params: Parameters) -> Iterator[Term]:
    """Offsets b enter as (b (W 1 - 1) + c) / gain: b may be shifted, and W 1 and b change units against each other.

    What is scaled sums to zero, so that W 1 may be anything: the same is added to all of a row.
    """
    weight, offsets = params["Linear.weight"], params["rev.affine_bias"]
    visible = weight.sum(1) - 1
    yield vector_term("rev.affine_bias", torch.stack([torch.ones_like(offsets), offsets]))
    yield vector_term("Linear.bias", torch.stack([-visible, torch.zeros_like(visible)]))
    yield _row_sums(weight, -visible, coefficients=torch.ones(len(weight), dtype=torch.long))


def _single_channel_terms(params: Parameters) -> Iterator[Term]:
    """One channel's gain and offset are taken up by the map, whose rows' sums are taken up by its bias."""
    weight, bias, rows = params["Linear.weight"], params["Linear.bias"], torch.arange(len(params["Linear.bias"]))
    gain, b = params["rev.affine_weight"], params["rev.affine_bias"]
    zeros, visible = torch.zeros(len(bias), len(bias), dtype=torch.float64), weight.sum(1) - 1
    # Generator 0: the gain; the map's gain a / (a + 1e-10) and the offsets' 1 / (a + 1e-10) follow.
    grown = gain / (gain + 1e-10)
    yield vector_term("rev.affine_weight", torch.stack([gain]))
    scaled = weight * (grown - 1)
    yield Term(
        parameter="Linear.weight",
        axis=0,
        rows=rows,
        coefficients=torch.zeros_like(rows),
        source=scaled,
        source_rows=rows,
        weights=torch.ones(len(rows), dtype=torch.float64),
    )
    offset_kept = grown * (bias + b * visible) - b * scaled.sum(1)
    # Generator 1: the offset; the others: sums of rows.
    yield vector_term(
        "Linear.bias", torch.cat([torch.stack([offset_kept, -visible]), zeros - b * torch.eye(len(bias))])
    )
    one = torch.ones(1, dtype=torch.float64)
    shifted = vector_term("rev.affine_bias", torch.stack([one * 0, one]))
    yield shifted
    yield _row_sums(weight, torch.ones(len(bias)), coefficients=2 + rows)


def _row_sums(weight: Tensor, amounts: Tensor, *, coefficients: Tensor) -> Term:
    """Adds to row i, all of it alike, so that its sum grows by amounts[i]."""
    rows = torch.arange(len(weight))
    source = torch.full((1, weight.shape[1]), 1 / weight.shape[1], dtype=torch.float64)
    where = {"rows": rows, "coefficients": coefficients, "source_rows": torch.zeros_like(rows)}
    return Term(parameter="Linear.weight", axis=0, source=source, weights=amounts.double(), **where)


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
