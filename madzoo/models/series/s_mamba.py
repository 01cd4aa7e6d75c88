"""S-Mamba: each variate's whole context is one token, and Mamba blocks scan the variates from both ends.

arXiv 2403.11144; code: wzhwzhwzh0921/S-D-Mamba. Every window is normalised by its own mean and deviation; a linear map
embeds the context of each variate; layers mix the variates and apply a feed-forward part to each; a linear map of each
token is the forecast. Calendar features, where given, are further variates behind the others. The published layers
also hold two Mamba blocks and an attention that no forward pass uses: they are left out here, and their weights in the
authors' files are dropped by name, see :func:`remap_keys`.

Axes: B windows, L context, C channels (variates, covariates last), D d_model, H horizon.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.gauges import COLUMNS, Slices, rows_of, scale
from madzoo.layers.layer_stack import LayerStack
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import Mamba
from madzoo.layers.point_forecaster import PointForecaster
from madzoo.models.series.direct import check_at_least_one, horizon_adapter, register_forecasters
from madzoo.models.series.point_config import ACTIVATIONS, check_layers, check_norm_and_dropout
from madzoo.shift_gauges import shift
from madzoo.stream_gauges import NormReader, norm_symmetries, unseen_mean, written_ones, zero_sum
from madzoo.symmetry import Symmetry

__all__ = ["SMamba", "SMambaConfig", "SMambaEncoder", "SMambaLayer", "remap_keys"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SMambaConfig:
    """Describes one S-Mamba.

    Attributes:
        context_length: steps of the past, L (published: seq_len).
        prediction_length: steps of the future, H (pred_len).
        d_model: width of a token, D.
        d_ff: hidden width of the feed-forward part.
        d_state, d_conv, expand: of the Mamba blocks; the authors fix the last two.
        depth: number of layers (e_layers).
        activation: ``"gelu"`` or ``"relu"``.
        use_norm: normalise every window by its mean and deviation.
        norm_eps: what is added to its variance.
        dropout: probability of dropping a value of the tokens or of the feed-forward part.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    context_length: int = 96
    prediction_length: int = 96
    d_model: int = 256
    d_ff: int = 256
    d_state: int = 2
    d_conv: int = 2
    expand: int = 1
    depth: int = 2
    activation: str = "gelu"
    use_norm: bool = True
    norm_eps: float = 1e-5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_at_least_one(self, "context_length", "prediction_length", "d_model", "d_ff", "depth")
        check_layers(self)
        check_norm_and_dropout(self)


class SMamba(PointForecaster):
    """Forecasts every channel from the contexts of all of them.

    Args:
        config: see :class:`SMambaConfig`.

    Shapes:
        past_values [B, L, C], NaN = missing, past_covariates [B, L, K] or None -> [B, H, C, 1]. Covariates are further
        variates, scanned after the others and not forecast; their number is free, and so is C. The order of the
        channels matters.

    Example:
        >>> SMamba(SMambaConfig(prediction_length=12, d_model=16))(torch.randn(2, 96, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    channels_meet = True
    head_names = ("projector",)
    supports_covariates = frozenset({"past"})

    def __init__(self, config: SMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length, self.prediction_length = config.context_length, config.prediction_length
        self.use_norm, self.norm_eps = config.use_norm, config.norm_eps
        self.enc_embedding = nn.ModuleDict({"value_embedding": Linear(config.context_length, config.d_model)})
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = SMambaEncoder(config)
        self.projector = Linear(config.d_model, config.prediction_length)

    def network(self, values: Tensor, covariates: Tensor | None) -> Tensor:
        """Forecasts normalised windows.

        Shapes: values [B, L, C], covariates [B, L, K] or None -> [B, H, C].
        """
        channels = values.shape[2]
        x_BCL = values.mT if covariates is None else torch.cat([values, covariates], dim=2).mT
        x_BCD = self.encoder(self.dropout(self.enc_embedding["value_embedding"](x_BCL)))
        return self.projector(x_BCD[:, :channels]).mT

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples the embedding, the last norm and the forecast."""
        biases, weight = {"projector.weight": "projector.bias"}, "enc_embedding.value_embedding.weight"
        last = NormReader(
            {"projector.weight": COLUMNS}, "encoder.norm.weight", "encoder.norm.bias", biases, centred=True
        )
        ones = {f"encoder.attn_layers.{self.config.depth - 1}.norm2.bias": Slices()}
        found = [*norm_symmetries("s_mamba", self, last), written_ones("s_mamba.ones", self, ones)]
        first = [f"encoder.attn_layers.0.{mamba}.in_proj.weight" for mamba in ("attention", "attention_r")]
        ends = {"writers": rows_of(weight, bias=True), "readers": dict.fromkeys(first, COLUMNS)}
        found.append(unseen_mean("s_mamba.token_mean", self.config.d_model, **ends))
        if self.use_norm:
            values = NormReader({weight: COLUMNS}, centred=True)
            rows = self.config.d_model
            found.append(zero_sum("s_mamba.series_zero_sum", rows, reader=weight, norm=values, reader_bias=None))
        return found


class SMambaEncoder(LayerStack):
    """Applies the layers and a last norm.

    Shapes:
        [B, C, D] -> [B, C, D].
    """

    def __init__(self, config: SMambaConfig) -> None:
        super().__init__("attn_layers", (SMambaLayer(config) for _ in range(config.depth)), width=config.d_model)


class SMambaLayer(nn.Module):
    """Adds what two Mamba blocks, one from each end, make of the variates; then applies a feed-forward part.

    The names of the parts are the published ones: ``attention`` and ``attention_r`` are the two blocks, ``conv1`` and
    ``conv2`` the feed-forward part.

    Shapes:
        [B, C, D] -> [B, C, D].

    Source: arXiv 2403.11144, algorithm 1.
    """

    def __init__(self, config: SMambaConfig) -> None:
        super().__init__()
        self.attention, self.attention_r = _mixer(config), _mixer(config)
        self.conv1 = Linear(config.d_model, config.d_ff)
        self.conv2 = Linear(config.d_ff, config.d_model)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.norm2 = nn.LayerNorm(config.d_model)
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Returns the mixed tokens."""
        mixed = self.attention(x_BCD) + self.attention_r(x_BCD.flip(1)).flip(1)
        x_BCD = self.norm1(x_BCD + mixed)
        hidden = self.dropout(self.activation(self.conv1(x_BCD)))
        return self.norm2(x_BCD + self.dropout(self.conv2(hidden)))

    def symmetries(self) -> list[Symmetry]:
        """Declares what the norms behind the sums do not show, and that the first one's shift may go around."""
        writers = {f"{mamba}.out_proj.weight": Slices() for mamba in ("attention", "attention_r")}
        passed = {"readers": {"conv1.weight": "conv1.bias"}, "down": {"conv2.bias": Slices()}}
        hidden = NormReader({"conv1.weight": COLUMNS}, "norm1.weight", "norm1.bias", centred=True)
        sums = {"reader": "conv1.weight", "norm": hidden, "reader_bias": "conv1.bias"}
        found = [
            zero_sum("s_mamba.zero_sum", self.conv1.out_features, **sums),
            written_ones("s_mamba.ones", self, writers | rows_of("conv2.weight", bias=True)),
            shift("s_mamba.token_shift", len(self.norm1.weight), up={"norm1.bias": Slices()}, **passed),
        ]
        if isinstance(self.activation, nn.ReLU):
            grow, shrink = rows_of("conv1.weight", bias=True), {"conv2.weight": COLUMNS}
            found.append(scale("s_mamba.relu_scale", self.conv1.out_features, grow=grow, shrink=shrink))
        return found


# Modules of the authors' layers that no forward pass uses: two Mamba blocks and an attention, all of width 11.
DEAD = re.compile(r"encoder\.attn_layers\.\d+\.(man|man2|a)\.")


def remap_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the authors' state dict without its dead modules, 1 x 1 convolutions [out, in, 1] as matrices.

    What is dropped are the entries of ``man``, ``man2`` and ``a`` of every layer, and nothing else.
    """
    kept = {key: value for key, value in state.items() if not DEAD.match(key)}
    is_pointwise = re.compile(r"\.conv[12]\.weight$")
    return {k: v.squeeze(-1) if is_pointwise.search(k) and v.dim() == 3 else v for k, v in kept.items()}


HORIZON_TENSORS = ("projector.weight", "projector.bias")  # all whose shape holds H
ADAPTABLE = ("prediction_length", "dropout", "norm_eps")


def _mixer(config: SMambaConfig) -> Mamba:
    return Mamba(config.d_model, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)


# Sizes of scripts/multivariate_forecasting: small is ETTh1, ETTh2, and ETTm1 and ETTm2 at 96; nano is ETTm1 and ETTm2
# beyond 96; tiny is Exchange; base is Weather.
_SIZES = {
    "nano": ({"d_model": 128, "d_ff": 128}, (192, 336, 720)),
    "tiny": ({"d_model": 128, "d_ff": 128, "d_state": 32}, (96, 192, 336, 720)),
    "small": ({}, (96, 192, 336, 720)),
    "base": ({"d_model": 512, "d_ff": 512, "depth": 3}, (96, 192, 336, 720)),
}

register_forecasters(
    SMamba,
    "s_mamba",
    {
        f"{size}_96_{horizon}": SMambaConfig(prediction_length=horizon, **fields)
        for size, (fields, horizons) in _SIZES.items()
        for horizon in horizons
    },
    adapt_weights=horizon_adapter(HORIZON_TENSORS, ADAPTABLE),
    remap_keys=remap_keys,
    paper="2403.11144",
)
