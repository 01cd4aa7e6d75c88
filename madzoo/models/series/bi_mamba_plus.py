"""Bi-Mamba+: patches of the variates, scanned from both ends by Mamba+ blocks, and one linear map to the horizon.

arXiv 2404.15772; code: Leopold2333/Bi-Mamba4TS. Every window is normalised by its own mean and deviation and cut into
overlapping patches, each a token. Either the tokens of one variate are scanned along time (channels independent), or
the tokens of one time are scanned along the variates (channels mixed); the authors choose by how many variates of the
training rows correlate, see :func:`mixes_channels`. In a layer the forward and the backward block read the same
tokens, each is added to them and normalised, and the two are summed in front of a feed-forward part.

Axes: B windows, L context, C channels (variates, covariates last), P patch, T tokens of a variate, D d_model,
H horizon, S positions of a scan.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from madzoo.errors import ConfigError
from madzoo.gauges import COLUMNS, Slices, basis, offset, rows_of, scale, vector_term
from madzoo.layers.layer_stack import LayerStack
from madzoo.layers.linear import Linear
from madzoo.layers.mamba_plus import MambaPlus
from madzoo.layers.point_forecaster import PointForecaster
from madzoo.models.series.direct import check_at_least_one, horizon_adapter, register_forecasters
from madzoo.models.series.point_config import ACTIVATIONS, check_layers, check_norm_and_dropout
from madzoo.shift_gauges import shift
from madzoo.stream_gauges import NormReader, norm_symmetries, unseen_mean, written_ones, zero_sum
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = [
    "BiMambaPlus",
    "BiMambaPlusConfig",
    "BiMambaPlusEncoder",
    "BiMambaPlusLayer",
    "mixes_channels",
    "remap_keys",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class BiMambaPlusConfig:
    """Describes one Bi-Mamba+.

    Attributes:
        context_length: steps of the past, L (published: seq_len).
        prediction_length: steps of the future, H (pred_len).
        patch_size, patch_stride: steps in a patch, and between two patches (patch_len, stride). Where the stride does
            not divide the context, its last value is repeated until it does.
        d_model: width of a token, D.
        d_ff: hidden width of the feed-forward part.
        d_state, d_conv, expand: of the Mamba+ blocks (e_fact for expand).
        depth: number of layers (e_layers).
        mix_channels: scan along the variates (True) or along time (False; ch_ind = 1).
        bidirectional: both directions (bi_dir); False: the forward block alone, whose tokens are added twice.
        residual: whether the tokens are added to what the blocks and the feed-forward part make of them.
        activation: ``"gelu"`` or ``"relu"``.
        use_norm: normalise every window by its mean and deviation (revin).
        norm_eps: what is added to its variance.
        dropout: probability of dropping a value of the tokens or of the feed-forward part.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    context_length: int = 96
    prediction_length: int = 96
    patch_size: int = 4
    patch_stride: int = 2
    d_model: int = 64
    d_ff: int = 128
    d_state: int = 8
    d_conv: int = 2
    expand: int = 1
    depth: int = 3
    mix_channels: bool = True
    bidirectional: bool = True
    residual: bool = True
    activation: str = "gelu"
    use_norm: bool = True
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("context_length", "prediction_length", "patch_size", "patch_stride", "d_model", "d_ff", "depth")
        check_at_least_one(self, *sizes)
        check_layers(self)
        if not self.patch_stride <= self.patch_size <= self.context_length:
            raise ConfigError("patch_stride <= patch_size <= context_length is needed.", asked=str(self))
        check_norm_and_dropout(self)

    @property
    def padding(self) -> int:
        """How often the last value is repeated."""
        return -self.context_length % self.patch_stride

    @property
    def num_tokens(self) -> int:
        """Patches of a variate, T."""
        return (self.context_length + self.padding - self.patch_size) // self.patch_stride + 1


class BiMambaPlus(PointForecaster):
    """Forecasts every channel from the patches of all of them, or of its own.

    Args:
        config: see :class:`BiMambaPlusConfig`.

    Shapes:
        past_values [B, L, C], NaN = missing, past_covariates [B, L, K] or None -> [B, H, C, 1]. With mixed channels
        covariates are further variates, scanned after the others and not forecast; their number is free, and so is C.
        The order of the channels matters.

    Example:
        >>> BiMambaPlus(BiMambaPlusConfig(prediction_length=12, depth=1))(torch.randn(2, 96, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    def __init__(self, config: BiMambaPlusConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length, self.prediction_length = config.context_length, config.prediction_length
        self.use_norm, self.norm_eps = config.use_norm, config.norm_eps
        self.channels_meet = config.mix_channels
        self.supports_covariates = frozenset({"past"} if config.mix_channels else ())
        self.local_token_layer = nn.ModuleDict({"value_embedding": Linear(config.patch_size, config.d_model)})
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = BiMambaPlusEncoder(config)
        self.head = nn.ModuleDict({"linear": Linear(config.num_tokens * config.d_model, config.prediction_length)})

    def network(self, values: Tensor, covariates: Tensor | None) -> Tensor:
        """Forecasts normalised windows.

        Shapes: values [B, L, C], covariates [B, L, K] or None -> [B, H, C].
        """
        config, channels = self.config, values.shape[2]
        x_BCL = values.mT if covariates is None else torch.cat([values, covariates], dim=2).mT
        if config.padding:
            x_BCL = pad(x_BCL, (0, config.padding), mode="replicate")
        patches_BCTP = x_BCL.unfold(-1, config.patch_size, config.patch_stride)
        x_BCTD = self.dropout(self.local_token_layer["value_embedding"](patches_BCTP))
        return self.head["linear"](self._encode(x_BCTD)[:, :channels].flatten(2)).mT

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples the last norm with the forecast and with the last layer."""
        width, weight = self.config.d_model, "head.linear.weight"
        tokens = tuple(Slices(axis=1, start=t * width) for t in range(self.config.num_tokens))
        names = ("encoder.norm.weight", "encoder.norm.bias")
        last = NormReader({weight: tokens}, *names, {weight: "head.linear.bias"}, centred=True)
        ones = {f"encoder.mamba_layers.{self.config.depth - 1}.addnorm_ffn.norm.bias": Slices()}
        embedding = rows_of("local_token_layer.value_embedding.weight", bias=True)
        mambas = ["mamba_forward"] + (["mamba_backward"] if self.config.bidirectional else [])
        first = dict.fromkeys((f"encoder.mamba_layers.0.{mamba}.in_proj.weight" for mamba in mambas), COLUMNS)
        if self.config.residual:
            tokens_free = unseen_mean("bi_mamba_plus.token_mean", width, writers=embedding, readers=first)
        else:
            tokens_free = basis("bi_mamba_plus.token_basis", width, forward=embedding, backward=first)
        found = [written_ones("bi_mamba_plus.ones", self, ones), tokens_free]
        return norm_symmetries("bi_mamba_plus", self, last) + found

    def _encode(self, x_BCTD: Tensor) -> Tensor:
        batch, mixed = len(x_BCTD), self.config.mix_channels
        x_XSD = (x_BCTD.transpose(1, 2) if mixed else x_BCTD).flatten(0, 1)
        x_BxSD = self.encoder(x_XSD).unflatten(0, (batch, -1))
        return x_BxSD.transpose(1, 2) if mixed else x_BxSD


class BiMambaPlusEncoder(LayerStack):
    """Applies the layers and a last norm.

    Shapes:
        [B, S, D] -> [B, S, D].
    """

    def __init__(self, config: BiMambaPlusConfig) -> None:
        super().__init__("mamba_layers", (BiMambaPlusLayer(config) for _ in range(config.depth)), width=config.d_model)


class BiMambaPlusLayer(nn.Module):
    """Scans tokens from both ends, adds and normalises each result, sums them, and applies a feed-forward part.

    Shapes:
        [B, S, D] -> [B, S, D].

    Source: arXiv 2404.15772, algorithm 1.
    """

    def __init__(self, config: BiMambaPlusConfig) -> None:
        super().__init__()
        width = config.d_model
        self.residual, self.widths = config.residual, (config.d_ff, width)
        self.mamba_forward = _mixer(config)
        self.addnorm_for = _norm(width)
        self.mamba_backward: MambaPlus | None = None
        if config.bidirectional:
            self.mamba_backward = _mixer(config)
            self.addnorm_back = _norm(width)
        self.ffn = nn.Sequential(
            Linear(width, config.d_ff),
            ACTIVATIONS[config.activation](),
            nn.Dropout(config.dropout),
            Linear(config.d_ff, width),
        )
        self.addnorm_ffn = _norm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Returns the mixed tokens."""
        y_BSD = self._add(self.addnorm_for, self.mamba_forward(x_BSD), x_BSD)
        if self.mamba_backward is None:
            y_BSD = self._add(self.addnorm_for, y_BSD, x_BSD)  # once more, as published
        else:
            y_BSD = y_BSD + self._add(self.addnorm_back, self.mamba_backward(x_BSD, reverse=True), x_BSD)
        return self._add(self.addnorm_ffn, self.dropout(self.ffn(y_BSD)), y_BSD)

    def symmetries(self) -> list[Symmetry]:
        """Declares what the norms behind the sums do not show, and that their shifts add up and may go around."""
        hidden, width = self.widths
        mambas = ["mamba_forward"] + ([] if self.mamba_backward is None else ["mamba_backward"])
        writers = {f"{mamba}.out_proj.weight": Slices() for mamba in mambas} | rows_of("ffn.3.weight", bias=True)
        found = [written_ones("bi_mamba_plus.ones", self, writers)]
        if self.mamba_backward is not None:
            first, second = ({f"addnorm_{way}.norm.bias": Slices()} for way in ("for", "back"))
            down = {"ffn.3.bias": Slices()} if self.residual else {}
            passed = {"readers": {"ffn.0.weight": "ffn.0.bias"}, "down": down}
            found.append(offset("bi_mamba_plus.two_shifts", width, up=first, down=second))
            found.append(shift("bi_mamba_plus.token_shift", width, up=first, **passed))
        else:
            names = ("addnorm_for.norm.weight", "addnorm_for.norm.bias")
            norm = NormReader({"ffn.0.weight": COLUMNS}, *names, centred=True)
            sums = {"reader": "ffn.0.weight", "norm": norm, "reader_bias": "ffn.0.bias"}
            found.append(zero_sum("bi_mamba_plus.zero_sum", hidden, **sums))
            found.append(from_terms("bi_mamba_plus.token_shift", 1, _common_shift_terms))
        if isinstance(self.ffn[1], nn.ReLU):
            grow, shrink = rows_of("ffn.0.weight", bias=True), {"ffn.3.weight": COLUMNS}
            found.append(scale("bi_mamba_plus.relu_scale", hidden, grow=grow, shrink=shrink))
        return found

    def _add(self, addnorm: nn.ModuleDict, new: Tensor, old: Tensor) -> Tensor:
        return addnorm["norm"](old + new if self.residual else new)


def _common_shift_terms(params: Parameters) -> Iterator[Term]:
    """A common shift of the norm that is applied twice: itself and the last norm do not see it, the first map does."""
    width = len(params["addnorm_for.norm.bias"])
    yield vector_term("addnorm_for.norm.bias", torch.ones(1, width, dtype=torch.float64))
    yield vector_term("ffn.0.bias", -params["ffn.0.weight"].sum(1).unsqueeze(0))


def mixes_channels(correlation: Tensor, *, threshold: float = 0.6) -> bool:
    """Decides whether to scan along the variates: the authors' series-relation-aware decider.

    Takes the most partners that any variate has at or above the threshold, over the most that any has at or above 0;
    from 1 - threshold on the channels are mixed.

    Args:
        correlation: of the variates over the training rows; the authors take Spearman's.
        threshold: what counts as correlated.

    Shapes:
        correlation [C, C].

    Source: arXiv 2404.15772, section 4.2.

    Example:
        >>> mixes_channels(torch.eye(3)), mixes_channels(torch.ones(3, 3))
        (False, True)
    """
    high, positive = (int((correlation >= floor).sum(1).max()) - 1 for floor in (threshold, 0.0))
    return positive > 0 and high / positive >= 1 - threshold


def remap_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the authors' state dict with the feed-forward part's 1 x 1 convolutions [out, in, 1] as matrices.

    Names are unchanged and none is dropped: a file of the authors holds no module that does not serve.
    """
    return {key: value.squeeze(-1) if ".ffn." in key and value.dim() == 3 else value for key, value in state.items()}


HORIZON_TENSORS = ("head.linear.weight", "head.linear.bias")  # all whose shape holds H
ADAPTABLE = ("prediction_length", "dropout", "norm_eps")


def _mixer(config: BiMambaPlusConfig) -> MambaPlus:
    return MambaPlus(config.d_model, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)


def _norm(width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"norm": nn.LayerNorm(width)})


# Sizes of scripts/BiMamba4TS. Whether channels are mixed follows there from the data (weather: mixed).
_WEATHER = {"depth": 3, "mix_channels": True}
_ETT = {"depth": 1, "mix_channels": False, "dropout": 0.2}
_VARIANTS = {
    "tiny_patch4_96_96": BiMambaPlusConfig(**_ETT),
    "tiny_patch24_96_96": BiMambaPlusConfig(patch_size=24, patch_stride=12, depth=1, mix_channels=False, dropout=0.1),
    "small_patch4_96_96": BiMambaPlusConfig(**_WEATHER),
    "small_patch4_96_192": BiMambaPlusConfig(prediction_length=192, **_WEATHER),
    "small_patch4_96_336": BiMambaPlusConfig(prediction_length=336, dropout=0.1, **_WEATHER),
    "small_patch4_96_720": BiMambaPlusConfig(prediction_length=720, **_WEATHER),
    "base_patch12_96_96": BiMambaPlusConfig(
        patch_size=12, patch_stride=6, d_model=128, d_ff=256, d_state=32, depth=2, dropout=0.1
    ),
    "base_patch24_96_96": BiMambaPlusConfig(
        patch_size=24, patch_stride=12, d_model=128, d_ff=256, d_state=32, depth=3, dropout=0.3
    ),
    "large_patch48_96_96": BiMambaPlusConfig(
        patch_size=48, patch_stride=24, d_model=256, d_ff=512, d_state=32, depth=4, dropout=0.2
    ),
}

register_forecasters(
    BiMambaPlus,
    "bi_mamba_plus",
    _VARIANTS,
    adapt_weights=horizon_adapter(HORIZON_TENSORS, ADAPTABLE),
    remap_keys=remap_keys,
    paper="2404.15772",
)
