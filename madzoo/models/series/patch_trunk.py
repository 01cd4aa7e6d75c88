"""The trunk of the patch forecasters: everything but the mixer, so that two families differ by their mixers alone.

Each channel is forecast on its own by the same network: scaled by its own past, cut into overlapping patches, passed
through residual blocks (a mixer along time, then a feed-forward part), and read out for the whole horizon at once
beside a linear map of the scaled context. Patches and channel independence are PatchTST's (arXiv 2211.14730), the
linear skip is DLinear's idea (arXiv 2205.13504).

Axes: B series (batch times channels), L context, P patch, T tokens, D d_model, H horizon, Q quantiles.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from madzoo.errors import ConfigError
from madzoo.gauges import COLUMNS, Places, Slices, rows_of
from madzoo.layers.linear import Linear
from madzoo.layers.quantile_head import QuantileHead
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.layers.weight_decay import named_by_layers
from madzoo.models.series.direct import (
    NINE_LEVELS,
    DirectConfig,
    DirectForecaster,
    check_at_least_one,
    horizon_adapter,
)
from madzoo.registry import MAX_DEPTH
from madzoo.shift_gauges import shift
from madzoo.stream_gauges import NormReader, rotation, zero_sum
from madzoo.symmetry import Symmetry

__all__ = ["HORIZON_TENSORS", "TRUNKS", "PatchBlock", "PatchConfig", "PatchForecaster", "adapt_patch_weights"]

# What another horizon re-initialises: the only tensors whose shape holds H.
HORIZON_TENSORS = (
    "head.projection.weight",
    "head.projection.bias",
    "head.gate.weight",
    "head.gate.bias",
    "linear_skip.weight",
)
adapt_patch_weights = horizon_adapter(HORIZON_TENSORS, ("prediction_length", "dropout", "dt_min", "dt_max"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig(DirectConfig):
    """Describes the trunk.

    Attributes:
        context_length, prediction_length, quantile_levels: see :class:`DirectConfig`.
        patch_size, patch_stride: steps in a patch, and between two patches.
        d_model: channels of a token, D.
        depth: number of blocks.
        expand: hidden width of the feed-forward part, in multiples of d_model.
        linear_skip: add a linear map of the scaled context, shared by the quantiles (L H parameters, zero at first).
        bottleneck: hidden width of the head; 0 for one linear map.
        last_value_gate: add the last observed value, weighed by a learned gate per step (see :class:`QuantileHead`).
        final_norm: normalise the tokens before the head; without it their size reaches the head.
        dropout: probability of dropping an activation, in blocks and head.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    patch_size: int
    patch_stride: int
    d_model: int
    depth: int = 2
    expand: int = 2
    linear_skip: bool = True
    bottleneck: int = 0
    last_value_gate: bool = False
    final_norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        check_at_least_one(self, "patch_size", "patch_stride", "d_model", "depth", "expand")
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth below ten")
        if not self.patch_stride <= self.patch_size <= self.context_length:
            raise ConfigError("patch_stride <= patch_size <= context_length is needed.", asked=str(self))
        if self.bottleneck < 0 or not 0 <= self.dropout < 1:
            raise ConfigError("bottleneck >= 0 and 0 <= dropout < 1 are needed.", asked=str(self))

    @property
    def num_tokens(self) -> int:
        """Number of patches T; the context is padded on the left so that the last one ends at the last step."""
        return -(-(self.context_length - self.patch_size) // self.patch_stride) + 1


ConfigT = TypeVar("ConfigT", bound=PatchConfig)


class PatchBlock(nn.Module, ABC, Generic[ConfigT]):
    """Mixes tokens along time, then channels by a feed-forward part; both residual.

    A family writes :meth:`build_mixer` and :meth:`mix`. The norms have no gain: the maps that follow them would only
    repeat it.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        d_model = config.d_model
        self.norm1 = nn.RMSNorm(d_model, eps=1e-5, elementwise_affine=False)
        self.build_mixer(config)
        self.norm2 = nn.RMSNorm(d_model, eps=1e-5, elementwise_affine=False)
        self.feed_forward = nn.Sequential(
            Linear(d_model, config.expand * d_model),
            nn.GELU(),
            nn.Dropout(config.dropout),
            Linear(config.expand * d_model, d_model),
        )
        self.dropout = nn.Dropout(config.dropout)

    @abstractmethod
    def build_mixer(self, config: ConfigT) -> None:
        """Sets the modules and parameters of the mixer on this block."""

    @abstractmethod
    def mix(self, x_BTD: Tensor) -> Tensor:
        """Returns what the mixer adds to its tokens.

        Shapes: normalised tokens [B, T, D] -> [B, T, D].
        """

    def linear_ends(self) -> tuple[Places, Places] | None:
        """Returns what of the mixer writes the stream and what reads its norm, where all of that is linear maps.

        None where anything else does, as a convolution of each channel: then the stream has a basis of its own.
        """
        return None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Returns the mixed tokens."""
        x_BTD = x_BTD + self.dropout(self.mix(self.norm1(x_BTD)))
        return x_BTD + self.dropout(self.feed_forward(self.norm2(x_BTD)))


class PatchForecaster(DirectForecaster):
    """Forecasts quantiles of every channel from its own past; a family names its :attr:`block`.

    Args:
        config: the family's, see :class:`PatchConfig`.

    Shapes:
        past_values [B, L, C] -> quantiles [B, H, C, Q], see :class:`DirectForecaster`.
    """

    block: ClassVar[type[PatchBlock[Any]]]
    head_names = ("head", "linear_skip")
    config: PatchConfig

    def __init__(self, config: PatchConfig) -> None:
        super().__init__(config)
        self.cut = (config.num_tokens, config.patch_size, config.patch_stride)
        # The position embedding contains the bias; a second one would be redundant.
        self.patch_embed = Linear(2 * config.patch_size, config.d_model, bias=False)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(config.num_tokens, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(self.block(config) for _ in range(config.depth))
        norm = nn.RMSNorm(config.d_model, eps=1e-5, elementwise_affine=False)
        self.norm = norm if config.final_norm else nn.Identity()
        self.head = QuantileHead(
            num_tokens=config.num_tokens,
            d_model=config.d_model,
            prediction_length=config.prediction_length,
            num_quantiles=len(config.quantile_levels),
            bottleneck=config.bottleneck,
            dropout=config.dropout,
            anchors=self.num_anchors(config),
        )
        self.linear_skip: nn.Linear | None = None
        if config.linear_skip:
            skip = Linear(config.context_length, config.prediction_length, bias=False)
            nn.init.zeros_(skip.weight)
            self.linear_skip = skip

    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the sorted quantiles of scaled series, each from its own past.

        Shapes: values and observed [B, L] -> [B, H, Q].
        """
        skip_BH = self.linear_skip(scaled.values) if self.linear_skip is not None else None
        tokens_BTD = self.encode(scaled.values, scaled.observed)
        return self.head(tokens_BTD, shift_BH=skip_BH, anchors_BAH=self.anchors(scaled))

    @staticmethod
    def num_anchors(config: Any) -> int:
        """Returns how many values :meth:`anchors` gives."""
        return int(config.last_value_gate)

    def anchors(self, scaled: ScaledSeries) -> Tensor:
        """Returns values near which a forecast may begin: the last one.

        Shapes: -> [B, A, H] or [B, A, 1].
        """
        return scaled.last.unsqueeze(-1)

    def encode(self, values_BL: Tensor, observed_BL: Tensor) -> Tensor:
        """Returns the tokens of scaled series.

        Shapes: values [B, L] (0 where missing), observed [B, L] -> [B, T, D].
        """
        x_BTD = self.dropout(self.patch_embed(self._patches(values_BL, observed_BL)) + self.pos_embed)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)

    def symmetries(self) -> list[Symmetry]:
        """Declares what the scaled series do not show, the last bias, and that a stream has no basis of its own."""
        found = []
        if self.linear_skip is not None:  # what is scaled sums to zero
            name, rows = "linear_skip.weight", self.linear_skip.out_features
            values = NormReader({name: COLUMNS}, centred=True)
            found.append(zero_sum("patch.skip_zero_sum", rows, reader=name, norm=values, reader_bias=None))
        if not self.config.final_norm:
            last = f"blocks.{len(self.blocks) - 1}.feed_forward.3.bias"
            biases = {weight: weight.replace("weight", "bias") for weight in self._head_readers()}
            options = {"up": {last: Slices()}, "readers": biases, "slices": self._tokens_of_head()}
            found.append(shift("patch.last_bias", self.config.d_model, **options))
        ends = [cast(PatchBlock[Any], block).linear_ends() for block in self.blocks]
        return [*found, self._rotation([end for end in ends if end])] if all(ends) else found

    def _rotation(self, ends: list[tuple[Places, Places]]) -> Symmetry:
        writers: dict[str, Slices | Sequence[Slices]] = {"patch_embed.weight": Slices(), "pos_embed": COLUMNS}
        readers = [NormReader(dict.fromkeys(self._head_readers(), self._tokens_of_head()))]
        for i, (written, read) in enumerate(ends):
            block = f"blocks.{i}"
            writers |= {f"{block}.{name}": slices for name, slices in written.items()}
            writers |= rows_of(f"{block}.feed_forward.3.weight", bias=True)
            readers.append(NormReader({f"{block}.{name}": slices for name, slices in read.items()}))
            readers.append(NormReader({f"{block}.feed_forward.0.weight": COLUMNS}))
        width = self.config.d_model
        return rotation("patch.rotation", width, writers=writers, readers=readers, fixes_ones=False)

    def _head_readers(self) -> list[str]:
        if self.config.bottleneck:
            return ["head.bottleneck.0.weight"]
        return ["head.projection.weight"] + ([] if self.head.gate is None else ["head.gate.weight"])

    def _tokens_of_head(self) -> tuple[Slices, ...]:
        return tuple(Slices(axis=1, start=t * self.config.d_model) for t in range(self.config.num_tokens))

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort: positions, and what the mixers name."""
        return {"pos_embed"} | named_by_layers(self)

    def _patches(self, values_BL: Tensor, observed_BL: Tensor) -> Tensor:
        tokens, size, stride = self.cut
        pair_BLx2 = torch.stack([values_BL, observed_BL.to(values_BL.dtype)], dim=1)
        pair_BLx2 = pad(pair_BLx2, ((tokens - 1) * stride + size - self.config.context_length, 0))
        return pair_BLx2.unfold(-1, size, stride).transpose(1, 2).flatten(2)


def _trunks() -> Mapping[str, Mapping[str, Any]]:
    nano_336 = {"context_length": 336, "patch_size": 24, "patch_stride": 12, "d_model": 16, "dropout": 0.3}
    nano_512 = {"context_length": 512, "patch_size": 32, "patch_stride": 16, "d_model": 16, "dropout": 0.3}
    sizes = {"nano_512": nano_512, "tiny_512": {**nano_512, "d_model": 48}}
    levels = {"patch_size": 24, "patch_stride": 24, "prediction_length": 168, "quantile_levels": NINE_LEVELS}
    points = {
        f"{size}_{horizon}": {**fields, "prediction_length": horizon}
        for size, fields in sizes.items()
        for horizon in (96, 192, 336, 720)
    }
    return points | {
        "nano_336_96": {**nano_336, "prediction_length": 96},
        "micro_504_168": {**levels, "context_length": 504, "d_model": 32, "bottleneck": 128, "dropout": 0.4},
        "small_672_168": {
            **levels,
            "context_length": 672,
            "d_model": 64,
            "depth": 3,
            "bottleneck": 128,
            "last_value_gate": True,
            "final_norm": False,
        },
    }


# The trunk's fields behind every name of the patch families: <size>_<context>_<prediction>.
TRUNKS = _trunks()
