"""iTransformer: the whole past of a channel is one token; attention lets the channels of a sample read one another.

Axes: B samples, C channels, S series (batch times channels), L context, D d_model, N heads, H horizon, Q quantiles.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.gauges import COLUMNS, Slices, rows_of
from madzoo.layers.attention_symmetries import attention_symmetries
from madzoo.layers.linear import Linear
from madzoo.layers.series_scaler import ScaledSeries
from madzoo.models.series.direct import (
    DirectConfig,
    DirectForecaster,
    check_at_least_one,
    horizon_adapter,
    register_forecasters,
)
from madzoo.registry import MAX_DEPTH
from madzoo.shift_gauges import shift
from madzoo.stream_gauges import NormReader, norm_symmetries, unseen_mean, written_ones, zero_sum
from madzoo.symmetry import Symmetry

__all__ = ["ITransformer", "ITransformerConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ITransformerConfig(DirectConfig):
    """Describes one iTransformer.

    Attributes:
        context_length, prediction_length, quantile_levels: see :class:`DirectConfig`.
        d_model: channels of a token, D.
        d_ff: hidden width of the feed-forward part.
        num_heads: heads, which divide d_model.
        depth: number of blocks.
        dropout: probability of dropping an activation or an attention weight.
        norm_eps: added to a window's variance, in squared units of the input. The published code adds 1e-5 to that of
            z-scored data; with 0 the forecast keeps the units of any series.
        instance_norm: normalise each window; False for data that were scaled beforehand (published: ``use_norm``).

    Raises:
        ConfigError: when a value lies outside its range.
    """

    d_model: int
    d_ff: int
    num_heads: int = 8
    depth: int = 2
    dropout: float = 0.1
    norm_eps: float = 0.0
    instance_norm: bool = True

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        check_at_least_one(self, "d_model", "d_ff", "num_heads", "depth")
        if self.d_model % self.num_heads:
            raise ConfigError("the heads do not divide the width.", asked=f"{self.num_heads} of {self.d_model}")
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth below ten")
        if not 0 <= self.norm_eps < 1 or not 0 <= self.dropout < 1:
            raise ConfigError("norm_eps and dropout lie in [0, 1).", asked=str(self))


class ITransformer(DirectForecaster):
    """Forecasts quantiles of every channel from the pasts of all.

    Channels have no order and may be any number. Missing values count as the mean of their series, and a channel
    without observations as a constant one.

    Args:
        config: see :class:`ITransformerConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L and C.

    Cost: O(B C (L D + D^2 + C D)).

    Source: arXiv 2310.06625, section 3; names of thuml/iTransformer, model/iTransformer.py. Time stamps, which the
        published model takes as further tokens where it is given them, are left out.

    Example:
        >>> import torch
        >>> config = ITransformerConfig(context_length=48, prediction_length=12, d_model=16, d_ff=32)
        >>> ITransformer(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    channels_meet = True
    head_names = ("projector",)
    config: ITransformerConfig

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__(config, instance_norm=config.instance_norm, norm_eps=config.norm_eps)
        self.enc_embedding = SeriesEmbedding(config)
        self.encoder = Encoder(config)
        self.projector = Linear(config.d_model, config.prediction_length * len(config.quantile_levels))

    def forecast_scaled(self, scaled: ScaledSeries, channels: int) -> Tensor:
        """Returns the sorted quantiles of scaled series.

        Shapes: values [S, L] -> [S, H, Q].
        """
        x_BCD = self.enc_embedding(scaled.values).unflatten(0, (-1, channels))
        y_S = self.projector(self.encoder(x_BCD)).flatten(0, 1)
        return y_S.unflatten(-1, (self.prediction_length, -1)).sort(-1).values

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples embedding, layers and forecast."""
        biases = {"projector.weight": "projector.bias"}
        last = NormReader(
            {"projector.weight": COLUMNS}, "encoder.norm.weight", "encoder.norm.bias", biases, centred=True
        )
        found = norm_symmetries("itransformer", self, last)
        embedding, layers = "enc_embedding.value_embedding", "encoder.attn_layers.{}"
        if self.config.instance_norm:
            weight = f"{embedding}.weight"
            values, rows = NormReader({weight: COLUMNS}, centred=True), self.config.d_model
            found.append(zero_sum("itransformer.series_zero_sum", rows, reader=weight, norm=values, reader_bias=None))
        depth = self.config.depth
        before = [f"{embedding}.bias", *(f"{layers.format(i)}.norm2.bias" for i in range(depth - 1))]
        for i, bias in enumerate(before):
            attention = f"{layers.format(i)}.attention"
            maps = [f"{attention}.{part}_projection" for part in ("query", "key", "value")]
            readers = {f"{name}.weight": f"{name}.bias" for name in maps}
            passed = {"readers": readers, "down": {f"{attention}.out_projection.bias": Slices()}}
            found.append(shift("itransformer.token_shift", self.config.d_model, up={bias: Slices()}, **passed))
            if i:  # what these maps read is normalised
                norm = NormReader(dict.fromkeys(readers, COLUMNS), bias.replace("bias", "weight"), bias, centred=True)
                for weight, own in readers.items():
                    sums = {"reader": weight, "norm": norm, "reader_bias": own}
                    found.append(zero_sum("itransformer.zero_sum", self.config.d_model, **sums))
        first = [f"{layers.format(0)}.attention.{part}_projection.weight" for part in ("query", "key", "value")]
        ends = {"writers": rows_of(f"{embedding}.weight", bias=True), "readers": dict.fromkeys(first, COLUMNS)}
        found.append(unseen_mean("itransformer.token_mean", self.config.d_model, **ends))
        ones = {f"{layers.format(depth - 1)}.norm2.bias": Slices()}
        return [*found, written_ones("itransformer.ones", self, ones)]


class SeriesEmbedding(nn.Module):
    """Maps a whole series to one token: [S, L] -> [S, D]."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        self.value_embedding = Linear(config.context_length, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_SL: Tensor) -> Tensor:
        """Returns the tokens."""
        return self.dropout(self.value_embedding(x_SL))


class Encoder(nn.Module):
    """Runs the blocks and a last norm: [B, C, D] -> [B, C, D]."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Returns the encoded tokens."""
        for layer in self.attn_layers:
            x_BCD = layer(x_BCD)
        return self.norm(x_BCD)


class EncoderLayer(nn.Module):
    """Attends, then maps each token; a norm follows each residual sum: [B, C, D] -> [B, C, D]."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        # Published as convolutions with one tap; their parameters keep that shape.
        self.conv1 = nn.Conv1d(config.d_model, config.d_ff, 1)
        self.conv2 = nn.Conv1d(config.d_ff, config.d_model, 1)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.norm2 = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Returns the next tokens."""
        x_BCD = self.norm1(x_BCD + self.dropout(self.attention(x_BCD)))
        hidden = self.dropout(F.gelu(self.conv1(x_BCD.mT)))
        return self.norm2(x_BCD + self.dropout(self.conv2(hidden)).mT)

    def symmetries(self) -> list[Symmetry]:
        """Declares what the norms behind the sums do not show, and that the first one's shift may go around."""
        writers = rows_of("attention.out_projection.weight", bias=True) | rows_of("conv2.weight", bias=True)
        passed = {"readers": {"conv1.weight": "conv1.bias"}, "down": {"conv2.bias": Slices()}}
        hidden = NormReader({"conv1.weight": COLUMNS}, "norm1.weight", "norm1.bias", centred=True)
        sums = {"reader": "conv1.weight", "norm": hidden, "reader_bias": "conv1.bias"}
        return [
            zero_sum("itransformer.zero_sum", self.conv1.out_channels, **sums),
            written_ones("itransformer.ones", self, writers),
            shift("itransformer.token_shift", len(self.norm1.weight), up={"norm1.bias": Slices()}, **passed),
        ]


class Attention(nn.Module):
    """Lets every token of a sample read every other one: [B, C, D] -> [B, C, D]."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query_projection = Linear(config.d_model, config.d_model)
        self.key_projection = Linear(config.d_model, config.d_model)
        self.value_projection = Linear(config.d_model, config.d_model)
        self.out_projection = Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Returns what each token read."""
        projections = (self.query_projection, self.key_projection, self.value_projection)
        q, k, v = (project(x_BCD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for project in projections)
        # Written out: torch's fused form has no rule for vmap, by which per-sample derivatives are taken.
        weights_BNCC = self.dropout((q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1))
        return self.out_projection((weights_BNCC @ v).transpose(1, 2).flatten(2))

    def symmetries(self) -> list[Symmetry]:
        """Declares the coordinates of each head, and the biases that no output shows."""
        query, key, value = (rows_of(f"{part}_projection.weight", bias=True) for part in ("query", "key", "value"))
        return attention_symmetries(
            "attention",
            heads=self.num_heads,
            size=self.out_projection.in_features // self.num_heads,
            query=query,
            key=key,
            value=value,
            out="out_projection.weight",
            out_bias="out_projection.bias",
        )


def _remap_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the last map, which thuml/Time-Series-Library calls ``projection``."""
    return {
        name.replace("projection.", "projector.") if name.startswith("projection.") else name: x
        for name, x in state.items()
    }


# Published: width 128 for ETTh2, ETTm1 and exchange rates, 256 for ETTh1, 512 (three blocks) for the weather.
register_forecasters(
    ITransformer,
    "itransformer",
    {
        "tiny_96_96": ITransformerConfig(context_length=96, prediction_length=96, d_model=128, d_ff=128),
        "small_96_96": ITransformerConfig(context_length=96, prediction_length=96, d_model=256, d_ff=256),
        "base_96_96": ITransformerConfig(context_length=96, prediction_length=96, d_model=512, d_ff=512, depth=3),
        "tiny_512_96": ITransformerConfig(context_length=512, prediction_length=96, d_model=128, d_ff=128),
    },
    adapt_weights=horizon_adapter(("projector.weight", "projector.bias"), ("prediction_length", "dropout", "norm_eps")),
    remap_keys=_remap_keys,
    paper="2310.06625",
)
