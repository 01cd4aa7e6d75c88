"""S4ND without a pyramid: residual layers of one width whose convolutions are as large as the image.

Either every pixel is a position, on CIFAR, and layers follow each other; or every patch is, as in a vision transformer:
each layer is then followed by a perceptron, and the patches are one sequence, as they are for attention. There is no
class token and no position embedding. Parameter names are those of state-spaces/s4, see :func:`remap_keys`.

Axes: B batch, C image channels, H height, W width of the grid, D embed_dim.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.gauges import COLUMNS, Slices, rows_of, scale
from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.patch_embed import PatchEmbed
from madzoo.layers.s4_kernels import S4KernelConfig
from madzoo.layers.s4nd import S4ND
from madzoo.models.image.inputs import CIFAR, IMAGENET
from madzoo.models.image.protocol import ImageClassifier, init_linear, make_head, stage_info, undecayed
from madzoo.models.image.transfer import fit_head_and_stem, rename_keys
from madzoo.registry import MAX_DEPTH, ModelSpec, register_model
from madzoo.stream_gauges import NormReader, norm_symmetries, written_ones
from madzoo.symmetry import Symmetry

__all__ = ["S4NDClassifier", "S4NDConfig"]

POOLS = ("avg", "")
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class S4NDConfig:
    """Configures an :class:`S4NDClassifier`; the defaults are those of ``s4nd_iso_base_32``.

    Attributes:
        img_size: side of the square images that the model is meant for, in pixels; others work at call time.
        patch_size: side of a patch; 1 for pixels.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depth: number of S4ND layers.
        embed_dim: width D.
        axes: 2 for kernels along rows and columns, 1 for one kernel along the sequence of all positions.
        mlp_ratio: hidden width of the perceptron behind each layer, over D; 0 for none.
        init, d_state, dt_min, dt_max, bandlimit: see :class:`madzoo.layers.s4_kernels.S4KernelConfig`; the systems have
            a low-rank part.
        channels: outputs of the convolution per channel.
        l_max: longest kernel along an axis.
        init_weights: ``"torch"``, or ``"vit"``: linear layers drawn with deviation 0.02, their biases zero.
        drop_rate: dropout of channels behind each convolution and layer. The authors trained with 0.1 on CIFAR.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0. The authors trained the
            transformer-like model with 0.1.
        global_pool: ``"avg"`` or ``""`` (every position).

    Raises:
        ConfigError: on an unknown choice or a size out of range.
    """

    img_size: int = 32
    patch_size: int = 1
    in_chans: int = 3
    num_classes: int = 10
    depth: int = 6
    embed_dim: int = 512
    axes: int = 2
    mlp_ratio: float = 0.0
    init: str = "legs"
    d_state: int = 64
    dt_min: float = 0.1
    dt_max: float = 1.0
    bandlimit: float | None = None
    channels: int = 1
    l_max: int = 32
    init_weights: str = "torch"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Checks the values."""
        check_choice("global_pool", self.global_pool, POOLS)
        check_choice("init_weights", self.init_weights, ("torch", "vit"))
        names = ("img_size", "patch_size", "in_chans", "depth", "embed_dim", "channels", "l_max")
        sizes = {name: getattr(self, name) for name in names}
        if min(sizes.values()) < 1 or self.num_classes < 0 or self.depth > MAX_DEPTH or self.axes not in (1, 2):
            looked = sizes | {"num_classes": self.num_classes, "axes": self.axes}
            raise ConfigError("a size is out of range.", looked=str(looked))


class S4NDClassifier(ImageClassifier):
    """Classifies images by S4ND layers over one grid; speaks timm's model protocol.

    Any image that the patches tile is accepted at call time, rectangular too: a kernel is a function of time, cut at
    ``l_max`` along each axis.

    Args:
        config: sizes and rates.

    Source: arXiv 2210.06583, sections 4.1 and 4.3; state-spaces/s4, src/models/sequence/backbones/model.py and
    src/models/baselines/vit_all.py with configs/experiment/s4nd.

    Example:
        >>> model = S4NDClassifier(S4NDConfig(depth=1, embed_dim=8, d_state=4))
        >>> model(torch.zeros(1, 3, 8, 12)).shape
        torch.Size([1, 10])
    """

    stages_name = "blocks"
    stem_pattern = r"^encoder|^patch_embed"

    def __init__(self, config: S4NDConfig) -> None:
        width, depth = config.embed_dim, config.depth
        parts = 2 if config.mlp_ratio else 1
        info = stage_info("blocks.{}", [width] * parts * depth, [config.patch_size] * parts * depth)
        super().__init__(config, num_features=width, feature_info=info)
        self.embed_dim, self.num_prefix_tokens = width, 0
        patch = config.patch_size
        if patch > 1:
            self.patch_embed = PatchEmbed(patch_size=patch, stride=patch, in_chans=config.in_chans, embed_dim=width)
        else:
            self.encoder = Linear(config.in_chans, width)
        rates = torch.linspace(0, config.drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList([block for rate in rates for block in _blocks(config, drop_path=rate)])
        self.norm = Norm(width)
        self.head = make_head(width, config.num_classes)
        if config.init_weights == "vit":
            self.apply(init_linear)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters of the state space systems, which the published recipes do not decay."""
        return undecayed(self, S4ND)

    def symmetries(self) -> list[Symmetry]:
        """Declares what the norms of the stream do not show, and what the last one shares with the head."""
        if not self.num_classes:
            return []
        stem = "encoder" if self.config.patch_size == 1 else "patch_embed.proj"
        writers: dict[str, Slices] = rows_of(f"{stem}.weight", bias=True)
        for i, block in enumerate(self.blocks):
            if isinstance(block.get_submodule("layer"), FeedForward):
                writers |= rows_of(f"blocks.{i}.layer.ff.2.weight", bias=True)
        biases = {"head.weight": "head.bias"}
        head = NormReader({"head.weight": COLUMNS}, "norm.norm.weight", "norm.norm.bias", biases, centred=True)
        return [written_ones("s4nd.ones", self, writers), *norm_symmetries("s4nd", self, head)]

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image)
        if self.config.patch_size == 1:
            return self.encoder(image.permute(0, 2, 3, 1))
        return self.patch_embed(image).unflatten(1, self.patch_embed.grid_of(image))

    def _init_head(self, head: nn.Module) -> None:
        if self.config.init_weights == "vit":
            init_linear(head)


class S4NDBlock(nn.Module):
    """Adds to a grid what a layer makes of it, normalised.

    Shapes:
        [B, H, W, D] -> [B, H, W, D].
    """

    def __init__(self, layer: nn.Module, width: int, *, drop: float, drop_path: float, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.layer = layer
        self.norm = Norm(width)
        self.drop = nn.Dropout1d(drop) if drop else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the stream after the block."""
        y = self.norm(x_BHWD)
        y_BLD = self.layer(y.flatten(1, 2) if self.flat else y).reshape(x_BHWD.shape).flatten(1, 2)
        y_BLD = self.drop(y_BLD.transpose(1, 2)).transpose(1, 2)
        return x_BHWD + self.drop_path(y_BLD.reshape(x_BHWD.shape))

    def symmetries(self) -> list[Symmetry]:
        """Declares what of the norm can move into what reads it."""
        names, weight = ("norm.norm.weight", "norm.norm.bias"), "layer.ff.0.0.weight"
        if isinstance(self.layer, FeedForward):
            norm = NormReader({weight: COLUMNS}, *names, {weight: "layer.ff.0.0.bias"}, centred=True)
            return norm_symmetries("s4nd", self, norm)
        assert isinstance(self.layer, S4ND)
        shrink = {f"layer.{name}": slices for name, slices in self.layer.channel_readers().items()}
        return [scale("s4nd.norm_gain", self.layer.d_model, grow=dict.fromkeys(names, Slices()), shrink=shrink)]


class Norm(nn.Module):
    """Normalises the channels of each position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised stream."""
        return self.norm(x)


class FeedForward(nn.Module):
    """Maps each position by a perceptron with one hidden layer."""

    def __init__(self, width: int, hidden: int, *, drop: float) -> None:
        super().__init__()
        dropout = nn.Dropout(drop) if drop else nn.Identity()
        self.ff = nn.Sequential(nn.Sequential(Linear(width, hidden), nn.GELU()), dropout, Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mapped stream."""
        return self.ff(x)


def _blocks(config: S4NDConfig, *, drop_path: float) -> list[nn.Module]:
    width, drop = config.embed_dim, config.drop_rate
    systems = S4KernelConfig(
        mode="nplr",
        init=config.init,
        d_state=config.d_state,
        n_ssm=1,
        dt_min=config.dt_min,
        dt_max=config.dt_max,
        bandlimit=config.bandlimit,
    )
    l_max = [config.l_max] * config.axes
    layers: list[nn.Module] = [S4ND(systems, width, l_max=l_max, channels=config.channels, dropout=drop)]
    if config.mlp_ratio:
        layers.append(FeedForward(width, int(config.mlp_ratio * width), drop=drop))
    return [S4NDBlock(layer, width, drop=drop, drop_path=drop_path, flat=config.axes == 1) for layer in layers]


PUBLISHED_NAMES = (
    (r"^model\.", ""),
    (r"^layers\.", "blocks."),
    (r"^encoder\.\d+\.", "encoder."),
    (r"^decoder\.\d+\.output_transform\.", "head."),
)


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' trainer under our names."""
    return rename_keys(state, PUBLISHED_NAMES)


def remap_keys_of_sequences(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' transformer-like model under our names.

    Each of its layers also holds the kernel of a second axis, which a sequence does not have: these are left out.
    """
    return {key: value for key, value in remap_keys(state).items() if ".layer.kernel.1." not in key}


def adapt_weights(state: StateDict, source: S4NDConfig, target: S4NDConfig) -> StateDict:
    """Fits weights to another number of classes or channels.

    A head for other classes is left out (to be initialised afresh), the stem is summed for one channel or repeated.
    """
    stem = "patch_embed.proj.weight" if source.patch_size > 1 else "encoder.weight"
    return fit_head_and_stem(state, source, target, head="head.", stem=stem)


_VIT = S4NDConfig(
    img_size=224,
    patch_size=16,
    num_classes=1000,
    depth=12,
    embed_dim=768,
    axes=1,
    mlp_ratio=4.0,
    dt_min=0.001,
    dt_max=0.1,
    channels=2,
    l_max=196,
    init_weights="vit",
)

_IMAGENET = dataclasses.replace(IMAGENET, crop_pct=0.9)

# No weights of these networks were published.
_VARIANTS = {
    "s4nd_iso_base_32": (S4NDConfig(), remap_keys, CIFAR),
    "s4nd_iso_small_32": (S4NDConfig(embed_dim=256, init="diag-lin", bandlimit=0.2), remap_keys, CIFAR),
    "s4nd_vit_base_patch16_224": (_VIT, remap_keys_of_sequences, _IMAGENET),
}

for _name, (_config, _remap, _inputs) in _VARIANTS.items():
    register_model(
        ModelSpec(
            name=_name,
            family="s4nd",
            task=S4NDClassifier.task,
            config=_config,
            build=S4NDClassifier,
            paper="2210.06583",
            inputs=_inputs,
            remap_keys=_remap,
            adapt_weights=adapt_weights,
        )
    )
