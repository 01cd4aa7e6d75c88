"""PatchS4D: patches of a scaled series, mixed along time by S4D convolutions, to quantiles of the future.

A small linear state space forecaster. Each channel is forecast on its own by the same network: scaled by its own
past, cut into overlapping patches, mixed by bidirectional (or causal) S4D blocks, and read out for the whole horizon
at once beside a linear map of the scaled context. An architecture of this project; patches and channel independence
are PatchTST's (arXiv 2211.14730), the mixing is S4D's (arXiv 2206.11893), the linear skip is DLinear's idea
(arXiv 2205.13504).

Axes: B series (batch times channels), L context, P patch, T tokens, D d_model, H horizon, C channels, Q quantiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from madzoo.errors import CheckpointError, ConfigError, ShapeError
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.linear import Linear
from madzoo.layers.quantile_head import QuantileHead
from madzoo.layers.s4d import S4DKernel
from madzoo.layers.series_scaler import SeriesScaler
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_alias, register_model

__all__ = ["PatchS4D", "PatchS4DBlock", "PatchS4DConfig"]

NINE_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchS4DConfig:
    """Describes one PatchS4D.

    Attributes:
        context_length: steps of the past, L.
        prediction_length: steps of the future, H.
        patch_size, patch_stride: steps in a patch, and between two patches.
        d_model: channels of a token, D.
        d_state: real state size of each channel's system, per direction.
        depth: number of blocks.
        expand: hidden width of the feed-forward part, in multiples of d_model.
        bidirectional: also mix from the future to the past (within the context); False: causal mixing.
        dt_min, dt_max: range of the initial time steps, in patches.
        quantile_levels: strictly increasing levels; ``(0.5,)`` for a point forecast of the median.
        linear_skip: add a linear map of the scaled context, shared by the quantiles (L H parameters, zero at first).
        bottleneck: hidden width of the head; 0 for one linear map.
        last_value_gate: add the last observed value, weighed by a learned gate per step (see :class:`QuantileHead`).
        final_norm: normalise the tokens before the head; without it their size reaches the head.
        dropout: probability of dropping an activation, in blocks and head.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    context_length: int
    prediction_length: int
    patch_size: int
    patch_stride: int
    d_model: int
    d_state: int = 32
    depth: int = 2
    expand: int = 2
    bidirectional: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1
    quantile_levels: tuple[float, ...] = (0.5,)
    linear_skip: bool = True
    bottleneck: int = 0
    last_value_gate: bool = False
    final_norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("context_length", "prediction_length", "patch_size", "patch_stride", "d_model", "depth", "expand")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1.", asked=f"{name}={getattr(self, name)}")
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth below ten")
        if not self.patch_stride <= self.patch_size <= self.context_length:
            raise ConfigError("patch_stride <= patch_size <= context_length is needed.", asked=str(self))
        levels = self.quantile_levels
        if not levels or sorted(set(levels)) != list(levels) or not 0 < levels[0] <= levels[-1] < 1:
            raise ConfigError("quantile_levels increase strictly inside (0, 1).", asked=levels)
        if self.bottleneck < 0 or not 0 <= self.dropout < 1:
            raise ConfigError("bottleneck >= 0 and 0 <= dropout < 1 are needed.", asked=str(self))

    @property
    def num_tokens(self) -> int:
        """Number of patches T; the context is padded on the left so that the last one ends at the last step."""
        return -(-(self.context_length - self.patch_size) // self.patch_stride) + 1


class PatchS4D(Forecaster):
    """Forecasts quantiles of every channel from its own past.

    Args:
        config: see :class:`PatchS4DConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units. Any L: cropped to
        the last context_length steps, or padded with NaN on the left. The scaling is done in the wider of the input's
        and the parameters' dtype, which is also the output's; everything between in the parameters' dtype.

    Example:
        >>> config = PatchS4DConfig(context_length=48, prediction_length=12, patch_size=8, patch_stride=8, d_model=4)
        >>> PatchS4D(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    task = "time-series-forecasting"

    def __init__(self, config: PatchS4DConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.context_length
        self.prediction_length = config.prediction_length
        self.quantile_levels = config.quantile_levels
        self.num_channels = None
        self.scaler = SeriesScaler()
        # The position embedding contains the bias; a second one would be redundant.
        self.patch_embed = Linear(2 * config.patch_size, config.d_model, bias=False)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(config.num_tokens, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(PatchS4DBlock(config) for _ in range(config.depth))
        norm = nn.RMSNorm(config.d_model, eps=1e-5, elementwise_affine=False)
        self.norm = norm if config.final_norm else nn.Identity()
        self.head = QuantileHead(
            num_tokens=config.num_tokens,
            d_model=config.d_model,
            prediction_length=config.prediction_length,
            num_quantiles=len(config.quantile_levels),
            bottleneck=config.bottleneck,
            dropout=config.dropout,
            gated=config.last_value_gate,
        )
        self.linear_skip: nn.Linear | None = None
        if config.linear_skip:
            skip = Linear(config.context_length, config.prediction_length, bias=False)
            nn.init.zeros_(skip.weight)
            self.linear_skip = skip

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns quantiles, see the class.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], or L or C is 0.
        """
        if past_values.ndim != 3 or 0 in past_values.shape[1:] or not past_values.is_floating_point():
            found = f"{list(past_values.shape)} {past_values.dtype}"
            raise ShapeError("past_values is a floating-point tensor [B, L, C] with L, C >= 1.", asked=found)
        channels = past_values.shape[2]
        scaled = self.scaler(self._fit_context(past_values.mT.flatten(0, 1)))
        values_BL = scaled.values.to(self.pos_embed.dtype)
        skip_BH = self.linear_skip(values_BL) if self.linear_skip is not None else None
        tokens_BTD = self.encode(values_BL, scaled.observed)
        y_BHQ = self.head(tokens_BTD, shift_BH=skip_BH, anchor_B1=scaled.last.to(values_BL.dtype))
        return self.scaler.restore(y_BHQ, scaled).unflatten(0, (-1, channels)).transpose(1, 2)

    def encode(self, values_BL: Tensor, observed_BL: Tensor) -> Tensor:
        """Returns the tokens of scaled series.

        Shapes: values [B, L] (0 where missing), observed [B, L] -> [B, T, D].
        """
        x_BTD = self.dropout(self.patch_embed(self._patches(values_BL, observed_BL)) + self.pos_embed)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        kernels = {
            f"{path}.{name}"
            for path, module in self.named_modules()
            if isinstance(module, S4DKernel)
            for name in module.no_weight_decay()
        }
        return kernels | {"pos_embed"}

    def _fit_context(self, x_BL: Tensor) -> Tensor:
        x_BL = x_BL.to(torch.promote_types(x_BL.dtype, self.pos_embed.dtype))[:, -self.context_length :]
        return pad(x_BL, (self.context_length - x_BL.shape[1], 0), value=torch.nan)

    def _patches(self, values_BL: Tensor, observed_BL: Tensor) -> Tensor:
        config = self.config
        whole = (config.num_tokens - 1) * config.patch_stride + config.patch_size
        pair_BLx2 = torch.stack([values_BL, observed_BL.to(values_BL.dtype)], dim=1)
        pair_BLx2 = pad(pair_BLx2, (whole - config.context_length, 0))
        return pair_BLx2.unfold(-1, config.patch_size, config.patch_stride).transpose(1, 2).flatten(2)


class PatchS4DBlock(nn.Module):
    """Mixes tokens by S4D convolutions with a gated output, then channels by a feed-forward part; both residual.

    The norms have no gain: the maps that follow them would only repeat it.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def __init__(self, config: PatchS4DConfig) -> None:
        super().__init__()
        d_model = config.d_model
        system = {"d_state": config.d_state, "dt_min": config.dt_min, "dt_max": config.dt_max}
        self.norm1 = nn.RMSNorm(d_model, eps=1e-5, elementwise_affine=False)
        self.kernel_forward = S4DKernel(d_model, **system)
        self.kernel_backward = S4DKernel(d_model, **system) if config.bidirectional else None
        self.D = nn.Parameter(torch.randn(d_model))
        self.gate = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout), Linear(d_model, 2 * d_model), nn.GLU(-1))
        self.norm2 = nn.RMSNorm(d_model, eps=1e-5, elementwise_affine=False)
        self.feed_forward = nn.Sequential(
            Linear(d_model, config.expand * d_model),
            nn.GELU(),
            nn.Dropout(config.dropout),
            Linear(config.expand * d_model, d_model),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Returns the mixed tokens."""
        mixed_BTD = self._convolve(self.norm1(x_BTD).mT).mT
        x_BTD = x_BTD + self.dropout(self.gate(mixed_BTD))
        return x_BTD + self.dropout(self.feed_forward(self.norm2(x_BTD)))

    def _convolve(self, u_BDT: Tensor) -> Tensor:
        y_BDT = self.kernel_forward.convolve(u_BDT, self.D)
        if self.kernel_backward is not None:
            y_BDT = y_BDT + self.kernel_backward.convolve(u_BDT, reverse=True)
        return y_BDT


# What another horizon re-initialises: the only tensors whose shape holds H.
HORIZON_TENSORS = (
    "head.projection.weight",
    "head.projection.bias",
    "head.gate.weight",
    "head.gate.bias",
    "linear_skip.weight",
)
ADAPTABLE = ("prediction_length", "dropout", "dt_min", "dt_max")


def _adapt_weights(state: Mapping[str, Tensor], source: PatchS4DConfig, target: PatchS4DConfig) -> dict[str, Tensor]:
    """Drops the head's tensors where the horizon changes; refuses every other change that the weights depend on."""
    names = [field.name for field in fields(source) if field.name not in ADAPTABLE]
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
    return {name: tensor for name, tensor in state.items() if name not in HORIZON_TENSORS}


def _register(name: str, config: PatchS4DConfig, weights: Mapping[str, PretrainedCfg] | None = None) -> None:
    register_model(
        ModelSpec(
            name=name,
            family="patch_s4d",
            task=PatchS4D.task,
            config=config,
            build=PatchS4D,
            weights=weights or {},
            adapt_weights=_adapt_weights,
        )
    )


_register(
    "patch_s4d_nano_336_96",
    PatchS4DConfig(
        context_length=336, prediction_length=96, patch_size=24, patch_stride=12, d_model=16, depth=2, dropout=0.3
    ),
)
_register(
    "patch_s4d_nano_512_96",
    PatchS4DConfig(
        context_length=512, prediction_length=96, patch_size=32, patch_stride=16, d_model=16, depth=2, dropout=0.3
    ),
    {"etth1": PretrainedCfg(license="apache-2.0", dataset="etth1")},
)
_register(
    "patch_s4d_tiny_512_96",
    PatchS4DConfig(
        context_length=512, prediction_length=96, patch_size=32, patch_stride=16, d_model=48, depth=2, dropout=0.3
    ),
)
_register(
    "patch_s4d_small_672_168",
    PatchS4DConfig(
        context_length=672,
        prediction_length=168,
        patch_size=24,
        patch_stride=24,
        d_model=64,
        depth=3,
        bottleneck=128,
        last_value_gate=True,
        final_norm=False,
        quantile_levels=NINE_LEVELS,
    ),
    {"zeroshot": PretrainedCfg(license="apache-2.0", dataset="synthetic")},
)
register_alias("forecast-default", "patch_s4d_small_672_168.zeroshot")
