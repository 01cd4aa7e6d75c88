"""S4 and S4D on long pixel sequences: an image is read row by row, pixel by pixel, and nothing says where a row ends.

Every pixel becomes a token; residual S4 layers of one width mix the whole sequence; its mean is classified. There is no
patch, no pyramid and no position embedding. Parameter names are those of state-spaces/s4, see :func:`remap_keys`.

Axes: B batch, C image channels, H height, W width, L = H W pixels, D embed_dim.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.gauges import COLUMNS, Slices, rows_of, scale
from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.s4 import S4Block
from madzoo.layers.s4d import S4D
from madzoo.models.image.inputs import CIFAR
from madzoo.models.image.protocol import ImageClassifier, make_head, stage_info
from madzoo.models.image.transfer import fit_head_and_stem, rename_keys
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.shift_gauges import batch_norm_scale, batch_norm_shift, shift
from madzoo.stream_gauges import NormReader, norm_symmetries, written_ones
from madzoo.symmetry import Symmetry

__all__ = ["S4Classifier", "S4Config"]

CHOICES = {
    "layer": ("s4", "s4d"),
    "mode": ("diag", "nplr"),
    "final_act": ("glu", "id"),
    "norm_layer": ("layernorm", "batchnorm"),
    "global_pool": ("avg", ""),
}
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class S4Config:
    """Configures an :class:`S4Classifier`; the defaults are those of ``s4_base_32``.

    Attributes:
        img_size: side of the square images that the model is meant for, in pixels; others work at call time.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depth: number of layers.
        embed_dim: width D.
        layer: ``"s4"``, or ``"s4d"`` for the minimal layer of the authors' example, which reads none of the options
            from ``mode`` to ``bandlimit`` but ``d_state``, ``dt_min`` and ``dt_max``.
        mode, init, rank, n_ssm, d_state, dt_min, dt_max, dt_transform: see :class:`madzoo.layers.S4Block`.
        bidirectional: whether a layer also reads from the end.
        final_act: ``"glu"`` or ``"id"``, behind a layer's linear map.
        l_max: longest kernel; None for as long as the sequence. Beyond it a layer does not see.
        norm_layer: ``"layernorm"`` or ``"batchnorm"``.
        prenorm: normalise before each layer, and once more at the end, instead of after each sum.
        drop_rate: dropout of channels, in and behind the layers. The authors trained with 0.1 on CIFAR.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0. The authors used none.
        global_pool: ``"avg"`` or ``""`` (every pixel).

    Raises:
        ConfigError: on an unknown choice or a size below 1.
    """

    img_size: int = 32
    in_chans: int = 3
    num_classes: int = 10
    depth: int = 6
    embed_dim: int = 512
    layer: str = "s4"
    mode: str = "nplr"
    init: str = "legs"
    rank: int = 1
    n_ssm: int | None = 2
    d_state: int = 64
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_transform: str = "softplus"
    bidirectional: bool = True
    final_act: str = "glu"
    l_max: int | None = 1024
    norm_layer: str = "layernorm"
    prenorm: bool = False
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        sizes = {name: getattr(self, name) for name in ("img_size", "in_chans", "depth", "embed_dim")}
        if min(sizes.values()) < 1 or self.num_classes < 0 or self.depth > MAX_DEPTH:
            raise ConfigError("a size is out of range.", asked=sizes | {"num_classes": self.num_classes})


class S4Classifier(ImageClassifier):
    """Classifies images as sequences of pixels; speaks timm's model protocol.

    Any image is accepted at call time, rectangular too. A kernel is a function of time, so that a larger image makes a
    longer sequence for the same kernels, up to ``l_max``.

    Args:
        config: sizes and rates.

    Source: arXiv 2111.00396 (S4), 2206.11893 (S4D), section 5; state-spaces/s4, src/models/sequence/backbones/model.py
    with a linear encoder and a mean before the linear decoder, and example.py.

    Example:
        >>> model = S4Classifier(S4Config(depth=1, embed_dim=8, d_state=4, n_ssm=1))
        >>> model(torch.zeros(1, 3, 8, 12)).shape
        torch.Size([1, 10])
    """

    output_fmt = "NLC"
    head_name = "decoder"
    stem_pattern = r"^encoder"

    def __init__(self, config: S4Config) -> None:
        width, depth = config.embed_dim, config.depth
        super().__init__(config, num_features=width, feature_info=stage_info("layers.{}", [width] * depth, [1] * depth))
        self.embed_dim, self.num_prefix_tokens = width, 0
        self.encoder = Linear(config.in_chans, width)
        rates = torch.linspace(0, config.drop_path_rate, depth, device="cpu").tolist()
        self.layers = nn.ModuleList([S4ResidualBlock(config, drop_path=rate) for rate in rates])
        self.norm = ChannelNorm(config) if config.prenorm else nn.Identity()
        self.decoder = make_head(width, config.num_classes)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters of the state space systems, which the published recipes do not decay."""
        return {name for name, _ in self.named_parameters() if ".kernel." in name and not name.endswith(".C")}

    def symmetries(self) -> list[Symmetry]:
        """Declares what the norms make of the stream, and the last one with the head."""
        last = "norm.norm" if self.config.prenorm else f"layers.{len(self.layers) - 1}.norm.norm"
        names, width = (f"{last}.weight", f"{last}.bias"), self.embed_dim
        found = self._stream_symmetries() if self.config.prenorm else list(self._token_units())
        if not self.num_classes:
            return [] if self.config.prenorm else found
        if self.config.norm_layer == "layernorm":
            head = NormReader({"decoder.weight": COLUMNS}, *names, {"decoder.weight": "decoder.bias"}, centred=True)
            return found + norm_symmetries("s4", self, head)
        grow, up = dict.fromkeys(names, Slices()), {names[1]: Slices()}
        return [
            *found,
            scale("s4.norm_gain", width, grow=grow, shrink={"decoder.weight": COLUMNS}),
            shift("s4.norm_shift", width, up=up, readers={"decoder.weight": "decoder.bias"}),
        ]

    def _token_units(self) -> Iterator[Symmetry]:
        """Yields the units of the channels between batch norms behind the sums, which keep channels apart."""
        if self.config.norm_layer != "batchnorm":
            return
        written: dict[str, Slices] = rows_of("encoder.weight", bias=True)
        for i, block in enumerate(self.layers):
            path, layer = f"layers.{i}", cast(S4ResidualBlock, block).layer
            gated = {f"{path}.layer.{name}": slices for name, slices in layer.channel_writers()[0].items()}
            read = {f"{path}.layer.{name}": slices for name, slices in layer.channel_readers().items()}
            norm = f"{path}.norm.norm"
            if gated:
                yield batch_norm_scale("s4.token_unit", self, grow={**written, **gated}, shrink=read, norms=[norm])
            written = rows_of(f"{norm}.weight", bias=True)

    def _stream_symmetries(self) -> list[Symmetry]:
        """Declares what a stream that only norms read does not show: its mean, or each channel's unit and origin."""
        encoder = rows_of("encoder.weight", bias=True)
        layers = [cast(S4ResidualBlock, block) for block in self.layers]
        written = [block.layer.channel_writers() for block in layers]
        if self.config.norm_layer == "layernorm":
            linear = {
                f"layers.{i}.layer.{name}": slices
                for i, (_, alone) in enumerate(written)
                for name, slices in alone.items()
            }
            return [written_ones("s4.ones", self, {**encoder, **linear})]
        grow = {f"layers.{i}.layer.{name}": s for i, (gated, _) in enumerate(written) for name, s in gated.items()}
        norms = [*(f"layers.{i}.norm.norm" for i in range(len(layers))), "norm.norm"]
        found = []
        if all(gated for gated, _ in written):
            found.append(batch_norm_scale("s4.stream_unit", self, grow={**encoder, **grow}, norms=norms))
        found.append(batch_norm_shift("s4.stream_origin", self, up={"encoder.bias": Slices()}, norms=norms))
        for i, (_, alone) in enumerate(written):
            biases = {f"layers.{i}.layer.{name}": s for name, s in alone.items() if name.endswith("bias")}
            if biases:
                found.append(batch_norm_shift("s4.stream_origin", self, up=biases, norms=norms[i + 1 :]))
        return found

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image)
        return self.encoder(image.flatten(2).transpose(1, 2))

    def _grid(self, x: Tensor, image: Tensor) -> Tensor:
        return x.unflatten(1, image.shape[2:])

    def _init_head(self, head: nn.Module) -> None:
        """Leaves torch's own initial values, as published."""


class S4ResidualBlock(nn.Module):
    """Adds what an S4 layer makes of a sequence to it, normalised before or after.

    Args:
        config: the model's.
        drop_path: probability of skipping the layer for a sample.

    Shapes:
        [B, L, D] -> [B, L, D].
    """

    def __init__(self, config: S4Config, *, drop_path: float) -> None:
        super().__init__()
        self.prenorm = config.prenorm
        self.layer = _layer(config)
        self.norm = ChannelNorm(config)
        self.drop = nn.Dropout1d(config.drop_rate) if config.drop_rate else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the stream after the block."""
        y = self.layer(self.norm(x) if self.prenorm else x)
        x = x + self.drop_path(self.drop(y.transpose(1, 2)).transpose(1, 2))
        return x if self.prenorm else self.norm(x)

    def symmetries(self) -> list[Symmetry]:
        """Declares what the layer takes from the norm before it, or adds to the sum that the norm behind it reads."""
        width = len(self.norm.norm.weight)
        if self.prenorm:
            grow = rows_of("norm.norm.weight", bias=True)
            shrink = {f"layer.{name}": slices for name, slices in self.layer.channel_readers().items()}
            return [scale("s4.norm_gain", width, grow=grow, shrink=shrink)]
        _, alone = self.layer.channel_writers()
        writers = {f"layer.{name}": slices for name, slices in alone.items()}
        if not writers:
            return []
        if isinstance(self.norm.norm, nn.LayerNorm):
            return [written_ones("s4.ones", self, writers)]
        biases = {name: slices for name, slices in writers.items() if name.endswith("bias")}
        return [batch_norm_shift("s4.branch_origin", self, up=biases, norms=["norm.norm"])]


class ChannelNorm(nn.Module):
    """Normalises the channels of each position, or each channel over batch and positions.

    Shapes:
        [B, ..., D] -> [B, ..., D].
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm = nn.BatchNorm1d(width) if config.norm_layer == "batchnorm" else nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised stream."""
        if isinstance(self.norm, nn.LayerNorm):
            return self.norm(x)
        return self.norm(x.flatten(1, -2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def _layer(config: S4Config) -> S4D | S4Block:
    kept: dict[str, Any] = {name: getattr(config, name) for name in ("d_state", "dt_min", "dt_max")}
    if config.layer == "s4d":
        return S4D(config.embed_dim, dropout=config.drop_rate, **kept)
    more = ("mode", "init", "rank", "n_ssm", "dt_transform", "bidirectional", "final_act", "l_max")
    kept |= {name: getattr(config, name) for name in more}
    return S4Block(config.embed_dim, dropout=config.drop_rate, tie_dropout=True, **kept)


PUBLISHED_NAMES = (
    (r"^model\.", ""),
    (r"^encoder\.\d+\.", "encoder."),
    (r"^decoder\.\d+\.output_transform\.", "decoder."),
    (r"^s4_layers\.(\d+)\.", r"layers.\1.layer."),
    (r"^norms\.(\d+)\.", r"layers.\1.norm.norm."),
)


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' trainer, or of their example, under our names."""
    return rename_keys(state, PUBLISHED_NAMES)


def adapt_weights(state: StateDict, source: S4Config, target: S4Config) -> StateDict:
    """Fits weights to another number of classes or channels.

    A head for other classes is left out (to be initialised afresh), the encoder is summed for one channel or repeated.
    """
    return fit_head_and_stem(state, source, target, head="decoder.", stem="encoder.weight")


_BASE = S4Config()
# The S4D paper's ablations: the same small network whatever the kernel; and its minimal layer, in one direction.
_ABLATION = dataclasses.replace(_BASE, depth=4, embed_dim=128, n_ssm=1, final_act="id")
_LRA = dataclasses.replace(_BASE, in_chans=1, n_ssm=1, norm_layer="batchnorm")
S4_PAPER, S4D_PAPER, HTTYH = "2111.00396", "2206.11893", "2206.12037"

EXAMPLE = dataclasses.replace(CIFAR, std=(0.2023, 0.1994, 0.201))
GREY_CIFAR = PretrainedCfg(input_size=(1, 32, 32), mean=(122.6 / 255,), std=(61 / 255,))
PATHFINDER = PretrainedCfg(input_size=(1, 32, 32), mean=(0.5,), std=(0.5,))
PATH_X = PretrainedCfg(input_size=(1, 128, 128), mean=(0.5,), std=(0.5,))
_PATHFINDER = dataclasses.replace(_LRA, num_classes=2, embed_dim=256, n_ssm=None, prenorm=True)

# No weights of these networks were published.
_VARIANTS = {
    "s4_base_32": (_BASE, S4_PAPER, CIFAR),
    "s4_micro_32": (_ABLATION, S4D_PAPER, CIFAR),
    "s4_lra_image_32": (_LRA, HTTYH, GREY_CIFAR),
    "s4_lra_pathfinder_32": (_PATHFINDER, HTTYH, PATHFINDER),
    "s4_lra_pathx_128": (
        dataclasses.replace(_PATHFINDER, img_size=128, l_max=128 * 128, dt_min=0.0001),
        HTTYH,
        PATH_X,
    ),
    "s4d_micro_32": (dataclasses.replace(_BASE, depth=4, embed_dim=128, layer="s4d", l_max=None), S4D_PAPER, EXAMPLE),
    "s4d_legs_micro_32": (dataclasses.replace(_ABLATION, mode="diag", init="diag-legs"), S4D_PAPER, CIFAR),
    "s4d_inv_micro_32": (dataclasses.replace(_ABLATION, mode="diag", init="diag-inv"), S4D_PAPER, CIFAR),
    "s4d_lin_micro_32": (dataclasses.replace(_ABLATION, mode="diag", init="diag-lin"), S4D_PAPER, CIFAR),
}

for _name, (_config, _paper, _inputs) in _VARIANTS.items():
    register_model(
        ModelSpec(
            name=_name,
            family="s4",
            task=S4Classifier.task,
            config=_config,
            build=S4Classifier,
            paper=_paper,
            inputs=_inputs,
            remap_keys=remap_keys,
            adapt_weights=adapt_weights,
        )
    )
