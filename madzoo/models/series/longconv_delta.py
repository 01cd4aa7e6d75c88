"""LongConvDelta: long convolutions and DeltaNet layers in turn, read out by queries that stand for the horizon.

A small recurrent network after the idea of Reverso (arXiv 2602.17634): convolutions with free kernels as long as the
context see periods and trends, associative memories between them see what followed what, and a learned query for every
piece of the horizon gathers its forecast from all of the context. Different from it: nine quantiles instead of a point;
series scaled by mean and deviation instead of to [0, 1]; tokens and queries of a few steps, with a mask of the observed
ones; norms before the layers; positions; and everything runs on a plain CPU. An architecture of this project; no
published weights fit it.

Axes: B series (batch times channels), L context, T tokens, P steps of a token, D d_model, H horizon, F = ceil(H / P)
tokens of the horizon, Q quantiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from madzoo.errors import ConfigError
from madzoo.gauges import rows_of
from madzoo.layers.attention_symmetries import attention_symmetries
from madzoo.layers.delta_net import DeltaNet
from madzoo.layers.linear import Linear
from madzoo.layers.long_conv import LongConv
from madzoo.layers.mlp import mlp
from madzoo.layers.quantile_levels import check_symmetric
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.layers.weight_decay import named_by_layers
from madzoo.models.series.direct import (
    NINE_LEVELS,
    DirectConfig,
    DirectForecaster,
    check_at_least_one,
    horizon_adapter,
    register_forecasters,
)
from madzoo.registry import MAX_DEPTH
from madzoo.shift_gauges import unseen
from madzoo.symmetry import Symmetry

__all__ = ["AttentionReadOut", "LongConvDelta", "LongConvDeltaBlock", "LongConvDeltaConfig"]

HORIZON_TENSORS = ("head.positions", "head.time_map.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class LongConvDeltaConfig(DirectConfig):
    """Describes one LongConvDelta.

    Attributes:
        context_length, prediction_length: see :class:`DirectConfig`.
        quantile_levels: see :class:`DirectConfig`; here nine by default.
        patch_size: steps in a token, P, of the context and of the horizon; 1 for raw points.
        d_model: channels of a token, D.
        depth: number of blocks; the first, third, ... mix by a long convolution, the others by DeltaNet.
        expand: hidden width of the feed-forward parts, in multiples of d_model.
        num_heads: heads of every DeltaNet and of the read-out, which divide d_model.
        state_weaving: add the last token to the first before every DeltaNet, whose memory then begins with a summary of
            the whole context.
        sign_average: in evaluation mode, average the forecast with the mirrored one of the mirrored series, so that
            a series turned upside down has its forecast turned upside down; twice the time.
        dropout: probability of dropping an activation.

    Raises:
        ConfigError: when a value lies outside its range, or sign_average meets levels not symmetric around 0.5.
    """

    quantile_levels: tuple[float, ...] = NINE_LEVELS
    patch_size: int
    d_model: int
    depth: int = 4
    expand: int = 4
    num_heads: int = 4
    state_weaving: bool = True
    sign_average: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        check_at_least_one(self, "patch_size", "d_model", "depth", "expand", "num_heads")
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth below ten")
        if self.patch_size > self.context_length or not 0 <= self.dropout < 1:
            raise ConfigError("patch_size <= context_length and 0 <= dropout < 1 are needed.", asked=str(self))
        if self.d_model % self.num_heads:
            raise ConfigError("the heads do not divide the width.", asked=f"{self.num_heads} of {self.d_model}")
        if self.sign_average:
            check_symmetric(self.quantile_levels)

    @property
    def num_tokens(self) -> int:
        """Number of tokens T; the context is padded on the left so that the last one ends at the last step."""
        return -(-self.context_length // self.patch_size)

    @property
    def num_future_tokens(self) -> int:
        """Number of queries F; what the last one gives beyond the horizon is cut off."""
        return -(-self.prediction_length // self.patch_size)


class LongConvDeltaBlock(nn.Module):
    """Mixes tokens along time by a long convolution or DeltaNet, then channels by a feed-forward part; both residual.

    The norms have no gain: the maps that follow them would only repeat it.

    Args:
        config: see :class:`LongConvDeltaConfig`.
        delta: mix by DeltaNet, not by a long convolution.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def __init__(self, config: LongConvDeltaConfig, *, delta: bool) -> None:
        super().__init__()
        width = config.d_model
        self.weave = delta and config.state_weaving
        self.norm1 = nn.RMSNorm(width, eps=1e-5, elementwise_affine=False)
        self.mixer = (
            DeltaNet(width, num_heads=config.num_heads) if delta else LongConv(width, kernel_size=config.num_tokens)
        )
        self.norm2 = nn.RMSNorm(width, eps=1e-5, elementwise_affine=False)
        self.feed_forward = mlp(width, config.expand * width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Returns the mixed tokens."""
        woven = torch.cat([x_BTD[:, :1] + x_BTD[:, -1:], x_BTD[:, 1:]], dim=1) if self.weave else x_BTD
        x_BTD = x_BTD + self.dropout(self.mixer(self.norm1(woven)))
        return x_BTD + self.feed_forward(self.norm2(x_BTD))


class AttentionReadOut(nn.Module):
    """Lets every piece of the horizon query all tokens, and gives the quantiles of its steps, which never cross.

    A query begins as a learned combination of the tokens along time and a learned position, which are also the part of
    the forecast that attention adds to. Nothing here is normalised but what is compared, so the size of the tokens
    reaches the forecast. The steps of a piece are told apart by the last map alone: a token that a query finds holds as
    many of them.

    Args:
        config: see :class:`LongConvDeltaConfig`.

    Cost: F T + F D + D (4 D + P Q) parameters and O(B F T D) operations.
    """

    def __init__(self, config: LongConvDeltaConfig) -> None:
        super().__init__()
        width = config.d_model
        self.num_heads = config.num_heads
        self.norm = nn.RMSNorm(width, eps=1e-5, elementwise_affine=False)
        self.shape = (config.prediction_length, len(config.quantile_levels))
        self.time_map = Linear(config.num_tokens, config.num_future_tokens, bias=False)
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_future_tokens, width))
        # A bias of the keys would not be seen by the softmax, and one of the values be repeated by the quantiles' own.
        self.query_proj = Linear(width, width)
        self.key_proj = Linear(width, width, bias=False)
        self.value_proj = Linear(width, width, bias=False)
        self.out_proj = Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.quantiles = Linear(width, config.patch_size * self.shape[1])

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Returns sorted quantiles.

        Shapes: [B, T, D] -> [B, H, Q].
        """
        horizon, levels = self.shape
        start_BFD = self.time_map(x_BTD.mT).mT + self.positions
        keys = self.key_proj(self.norm(x_BTD))
        read_BFD = self._attend(self.query_proj(self.norm(start_BFD)), keys, self.value_proj(x_BTD))
        y = self.quantiles(self.dropout(start_BFD + self.out_proj(read_BFD)))
        return y.unflatten(-1, (-1, levels)).flatten(1, 2)[:, :horizon].sort(dim=-1).values

    def symmetries(self) -> list[Symmetry]:
        """Declares the coordinates of each head, and what of its reading the quantiles do not show."""
        width, outputs = self.quantiles.in_features, self.quantiles.out_features
        writers = {"out_proj.weight": width}
        silent = unseen("read_out.unseen", width, writers=writers, reader="quantiles.weight", outputs=outputs)
        return ([silent] if silent.dimension else []) + attention_symmetries(
            "read_out",
            heads=self.num_heads,
            size=self.query_proj.out_features // self.num_heads,
            query=rows_of("query_proj.weight", bias=True),
            key=rows_of("key_proj.weight", bias=False),
            value=rows_of("value_proj.weight", bias=False),
            out="out_proj.weight",
            out_bias=None,
        )

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
        # Written out: torch's fused form has no rule for vmap, by which per-sample derivatives are taken.
        weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class LongConvDelta(DirectForecaster):
    """Forecasts quantiles of every channel from its own past.

    Args:
        config: see :class:`LongConvDeltaConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Source: arXiv 2602.17634, with the differences that stand at the top of this file.

    Example:
        >>> config = LongConvDeltaConfig(context_length=48, prediction_length=12, patch_size=4, d_model=8)
        >>> LongConvDelta(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 9])
    """

    config: LongConvDeltaConfig

    def __init__(self, config: LongConvDeltaConfig) -> None:
        super().__init__(config)
        # The position embedding contains the bias; a second one would be redundant.
        self.patch_embed = Linear(2 * config.patch_size, config.d_model, bias=False)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(config.num_tokens, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(LongConvDeltaBlock(config, delta=i % 2 == 1) for i in range(config.depth))
        self.head = AttentionReadOut(config)

    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the sorted quantiles of scaled series, each from its own past.

        Shapes: values and observed [B, L] -> [B, H, Q].
        """
        y_BHQ = self.head(self.encode(scaled.values, scaled.observed))
        if self.training or not self.config.sign_average:
            return y_BHQ
        mirrored_BHQ = -self.head(self.encode(-scaled.values, scaled.observed)).flip(-1)
        return 0.5 * (y_BHQ + mirrored_BHQ)

    def encode(self, values_BL: Tensor, observed_BL: Tensor) -> Tensor:
        """Returns the tokens of scaled series.

        Shapes: values [B, L] (0 where missing), observed [B, L] -> [B, T, D].
        """
        pair_B2L = torch.stack([values_BL, observed_BL.to(values_BL.dtype)], dim=1)
        tokens, size = self.config.num_tokens, self.config.patch_size
        pair_B2L = pad(pair_B2L, (tokens * size - self.config.context_length, 0))
        patches = pair_B2L.unflatten(-1, (tokens, size)).transpose(1, 2).flatten(2)
        x_BTD = self.dropout(self.patch_embed(patches) + self.pos_embed)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return x_BTD

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort: positions, and what the layers name."""
        return {"pos_embed", "head.positions"} | named_by_layers(self)


register_forecasters(
    LongConvDelta,
    "longconv_delta",
    {
        f"{size}_{context}_96": LongConvDeltaConfig(
            context_length=context, prediction_length=96, patch_size=patch_size, d_model=d_model
        )
        for size, d_model in {"small": 56, "base": 96}.items()
        for context, patch_size in {512: 4, 2048: 8}.items()
    },
    adapt_weights=horizon_adapter(HORIZON_TENSORS, ("prediction_length", "dropout", "sign_average")),
)
