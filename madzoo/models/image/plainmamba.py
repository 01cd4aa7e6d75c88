"""PlainMamba: one width and one grid from stem to head, mixed by scans that snake through it.

There is no pyramid and no class token: every token follows a neighbour in each of four directions, a learned vector per
move tells the directions apart, and the mean of all tokens is classified. Parameter names are those of the backbone of
ChenhongyiYang/PlainMamba; the head is called ``head``.

Axes: B batch, C image channels, H height, W width of the grid, M = H W tokens, D embed_dim.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, check_choice
from madzoo.gauges import COLUMNS, Slices, offset, rows_of, scale
from madzoo.layers.drop_path import DropPath
from madzoo.layers.norms import RMSNorm
from madzoo.layers.patch_embed import resample_positions
from madzoo.layers.plain_mamba import PlainMamba2D
from madzoo.models.image.inputs import IMAGENET
from madzoo.models.image.protocol import ImageClassifier, init_linear, make_head, stage_info, undecayed
from madzoo.models.image.transfer import fit_head_and_stem
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.shift_gauges import batch_norm_scales
from madzoo.stream_gauges import NormReader, norm_symmetries, rotation, written_ones
from madzoo.symmetry import Symmetry

__all__ = ["PlainMamba", "PlainMambaConfig"]

STEM_WIDTH = 64
CHOICES = {"global_pool": ("avg", ""), "norm_layer": ("layernorm", "rmsnorm")}
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainMambaConfig:
    """Configures a :class:`PlainMamba`; the defaults are those of ``plainmamba_l1_224``.

    Attributes:
        img_size: side of the square images that the position embeddings are made for, in pixels.
        patch_size: in pixels, an even number.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depth: number of blocks.
        embed_dim: width D of the tokens.
        stem_convs: 3 x 3 convolutions between the first one and the patches.
        dwconv_blocks: numbers, from 0, of the blocks that end with a depthwise convolution of the stream.
        norm_layer: of the blocks: ``"layernorm"`` or ``"rmsnorm"``.
        d_state, d_conv, expand: states per channel, side of the mixers' convolution, inner width over D.
        conv_bias, bias: whether that convolution and the mixers' outer projections have a bias.
        init_layer_scale: initial gain of each mixer's output; 0 for none.
        drop_rate: dropout after the position embeddings.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0. The authors trained with 0.2
            (L1, L2) and 0.4 (L3).
        global_pool: ``"avg"`` or ``""`` (every token).

    Raises:
        ConfigError: on an unknown choice, a size below 1, an odd patch_size or a block that does not exist.
    """

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    depth: int = 24
    embed_dim: int = 192
    stem_convs: int = 1
    dwconv_blocks: tuple[int, ...] = (0,)
    norm_layer: str = "layernorm"
    d_state: int = 16
    d_conv: int = 7
    expand: float = 2.0
    conv_bias: bool = True
    bias: bool = True
    init_layer_scale: float = 0.0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        least = {"img_size": 2, "num_classes": 0, "stem_convs": 0}
        sizes = ("img_size", "patch_size", "in_chans", "num_classes", "depth", "embed_dim", "stem_convs", "d_state")
        for name in sizes:
            if getattr(self, name) < least.get(name, 1):
                raise ConfigError(f"{name} is at least {least.get(name, 1)}.", asked=f"{name}={getattr(self, name)}")
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth of some tens")
        if self.patch_size % 2:
            raise ConfigError("the stem halves patch_size.", asked=f"patch_size={self.patch_size}", todo="16")
        if any(not 0 <= block < self.depth for block in self.dwconv_blocks):
            looked = f"blocks 0 ... {self.depth - 1}"
            raise ConfigError("no such blocks.", asked=f"dwconv_blocks={self.dwconv_blocks}", looked=looked)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of position embeddings."""
        side = -(-(self.img_size // 2) // (self.patch_size // 2))
        return side, side


class PlainMamba(ImageClassifier):
    """Classifies images by snaking selective scans over one grid of patches; speaks timm's model protocol.

    Any image size is accepted at call time, rectangular too: position embeddings are then interpolated, and the last
    patches of an image that they do not tile are filled up with zeros.

    Args:
        config: sizes and rates.

    Source: arXiv 2403.17695, figure 2; ChenhongyiYang/PlainMamba, plain_mamba.py.

    Example:
        >>> model = PlainMamba(PlainMambaConfig(img_size=32, patch_size=8, depth=2, embed_dim=16, num_classes=10))
        >>> model(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 10])
    """

    norm_name = "ln1"
    stem_pattern = r"^pos_embed|patch_embed"

    def __init__(self, config: PlainMambaConfig) -> None:
        width, depth = config.embed_dim, config.depth
        info = stage_info("layers.{}", [width] * depth, [config.patch_size] * depth)
        super().__init__(config, num_features=width, feature_info=info)
        self.embed_dim, self.num_prefix_tokens = width, 0
        rows, columns = config.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns, width))
        self.patch_embed = ConvPatchEmbed(config)
        self.drop_after_pos = nn.Dropout(config.drop_rate)
        rates = torch.linspace(0, config.drop_path_rate, depth, device="cpu").tolist()
        self.layers = nn.ModuleList([PlainMambaBlock(config, i, drop_path=rate) for i, rate in enumerate(rates)])
        self.ln1 = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_linear)  # as published, the step projections too: what the mixers had chosen is overwritten
        self.head = make_head(width, config.num_classes)
        self._init_head(self.head)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that the published recipe does not decay, beside norms and biases."""
        return {"pos_embed"} | undecayed(self, PlainMamba2D)

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples the stem, the blocks and the head through the stream."""
        up, down = {"patch_embed.projection.bias": Slices()}, {"pos_embed": Slices(axis=2)}
        stem = [*self._stem_symmetries(), offset("plainmamba.patch_bias", self.embed_dim, up=up, down=down)]
        if not self.num_classes:
            return stem
        biases = {"head.weight": "head.bias"}
        head = NormReader({"head.weight": COLUMNS}, "ln1.weight", "ln1.bias", biases, centred=True)
        return stem + norm_symmetries("plainmamba", self, head) + self._stream_symmetries(head)

    def _stem_symmetries(self) -> Iterator[Symmetry]:
        """Yields the scales of each convolution of the stem, its norm and the convolution behind the ReLU."""
        convs = ["stem.0", *(f"convs.{3 * i}" for i in range(self.config.stem_convs))]
        readers = [*convs[1:], "projection"]
        for conv, reader in zip(convs, readers, strict=True):
            number = int(conv.rpartition(".")[2])
            norm = f"patch_embed.{conv.rpartition('.')[0]}.{number + 1}"
            yield from batch_norm_scales("plainmamba", self, before=f"patch_embed.{conv}", norm=norm)
            grow, shrink = rows_of(f"{norm}.weight", bias=True), {f"patch_embed.{reader}.weight": COLUMNS}
            yield scale("plainmamba.relu_scale", self.patch_embed.stem_width, grow=grow, shrink=shrink)

    def _stream_symmetries(self, head: NormReader) -> list[Symmetry]:
        """Declares that what only norms read has no basis and, under LayerNorms, no mean.

        A convolution of the stream reads it otherwise: only what is written behind the last one is free then.
        """
        config, width = self.config, self.embed_dim
        first = max(config.dwconv_blocks, default=-1) + 1
        writers: dict[str, Slices] = {}
        if not first:
            writers |= {"pos_embed": Slices(axis=2), **rows_of("patch_embed.projection.weight", bias=True)}
        for i in range(first, config.depth):
            writers |= rows_of(f"layers.{i}.mamba.out_proj.weight", bias=config.bias)
        if not writers or config.init_layer_scale:
            return []
        centred = config.norm_layer == "layernorm"
        found = [written_ones("plainmamba.ones", self, writers)] if centred else []
        # The last norm is a LayerNorm in any case: with RMSNorms before it nothing but its own rotations is common.
        if first:
            return found
        readers = [
            NormReader(
                {f"layers.{i}.mamba.in_proj.weight": COLUMNS},
                f"layers.{i}.norm.weight",
                f"layers.{i}.norm.bias" if centred else None,
            )
            for i in range(config.depth)
        ]
        return [
            *found,
            rotation("plainmamba.rotation", width, writers=writers, readers=[*readers, head], fixes_ones=True),
        ]

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image)
        x_BDHW = self.patch_embed(image)
        grid = x_BDHW.shape[2:]
        positions = resample_positions(self.pos_embed, self.config.grid, (grid[0], grid[1]))
        return self.drop_after_pos(x_BDHW.flatten(2).transpose(1, 2).contiguous() + positions).unflatten(1, grid)

    def _init_head(self, head: nn.Module) -> None:
        # The published classifier's own rule, which goes before the model's.
        if isinstance(head, nn.Linear):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)


class ConvPatchEmbed(nn.Module):
    """Makes patches of an image that convolutions have halved; what they do not tile is padded at its end.

    Shapes:
        [B, C, height, width] -> [B, D, H, W], H = ceil(height / patch_size).
    """

    def __init__(self, config: PlainMambaConfig) -> None:
        super().__init__()
        self.side = config.patch_size // 2
        first = nn.Conv2d(config.in_chans, STEM_WIDTH, 7, stride=2, padding=3, bias=False)
        self.stem_width = first.out_channels
        self.stem = nn.Sequential(first, nn.BatchNorm2d(STEM_WIDTH), nn.ReLU())
        between: list[nn.Module] = []
        for _ in range(config.stem_convs):
            conv = nn.Conv2d(STEM_WIDTH, STEM_WIDTH, 3, padding=1, bias=False)
            between += [conv, nn.BatchNorm2d(STEM_WIDTH), nn.ReLU()]
        self.convs = nn.Sequential(*between)
        self.projection = nn.Conv2d(STEM_WIDTH, config.embed_dim, self.side, stride=self.side)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the grid of patches."""
        x = self.convs(self.stem(image))
        below, right = (-side % self.side for side in x.shape[2:])
        return self.projection(F.pad(x, (0, right, 0, below)) if below or right else x)


class PlainMambaBlock(nn.Module):
    """Adds a normalised, mixed copy to the stream, which a depthwise convolution may then replace by its own view.

    Args:
        config: the model's.
        number: of the block, from 0.
        drop_path: probability of skipping the mixer for a sample.

    Shapes:
        [B, H, W, D] -> [B, H, W, D].
    """

    def __init__(self, config: PlainMambaConfig, number: int, *, drop_path: float) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm = RMSNorm(width, eps=1e-5) if config.norm_layer == "rmsnorm" else nn.LayerNorm(width)
        self.has_dwconv = number in config.dwconv_blocks
        if self.has_dwconv:
            conv = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
            self.dw = nn.Sequential(conv, nn.BatchNorm2d(width), nn.GELU())
        self.mamba = PlainMamba2D(
            width,
            d_state=config.d_state,
            expand=config.expand,
            d_conv=config.d_conv,
            conv_bias=config.conv_bias,
            bias=config.bias,
            init_layer_scale=config.init_layer_scale,
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the stream after the block."""
        x_BHWD = x_BHWD + self.drop_path(self.mamba(self.norm(x_BHWD)))
        return self.dw(x_BHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.has_dwconv else x_BHWD

    def symmetries(self) -> list[Symmetry]:
        """Declares what of the norm can move into the projection that reads it, and the scale before the batch norm."""
        reader, is_rms = "mamba.in_proj.weight", isinstance(self.norm, RMSNorm)
        biases = {} if self.mamba.in_proj.bias is None else {reader: "mamba.in_proj.bias"}
        bias = None if is_rms else "norm.bias"
        norm = NormReader({reader: COLUMNS}, "norm.weight", bias, biases, centred=not is_rms)
        found = norm_symmetries("plainmamba", self, norm)
        if self.has_dwconv:
            found += batch_norm_scales("plainmamba", self, before="dw.0", norm="dw.1")
        return found


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' file under our names.

    Their file holds a backbone and a head; where it was trained with averaged weights those stand in their place, and
    the weights before averaging beside them under names that begin with ``ema_``, which are left out.
    """
    kept = {key: value for key, value in state.items() if not key.startswith("ema_")}
    return {key.removeprefix("backbone.").replace("head.fc.", "head."): value for key, value in kept.items()}


def adapt_weights(state: StateDict, source: PlainMambaConfig, target: PlainMambaConfig) -> StateDict:
    """Fits weights to another number of classes or channels, or another image size.

    A head for other classes is left out (to be initialised afresh), the stem is summed for one channel or repeated,
    position embeddings are interpolated.
    """
    state = fit_head_and_stem(state, source, target, head="head.", stem="patch_embed.stem.0.weight")
    rows, columns = target.grid
    if source.grid != target.grid and state["pos_embed"].shape[1] != rows * columns:
        state["pos_embed"] = resample_positions(state["pos_embed"], source.grid, target.grid)
    return state


def _chenhongyiyang(filename: str) -> dict[str, PretrainedCfg]:
    published = dataclasses.replace(
        IMAGENET,
        license="apache-2.0",
        dataset="imagenet-1k",
        source="https://arxiv.org/abs/2403.17695",
        hub_id="ChenhongyiYang/PlainMamba",
        filename=filename,
    )
    return {"chenhongyiyang_in1k": published}


_VARIANTS = {
    "plainmamba_l1_224": (PlainMambaConfig(), "l1.pth"),
    "plainmamba_l2_224": (PlainMambaConfig(embed_dim=384, stem_convs=2, dwconv_blocks=()), "l2.pth"),
    "plainmamba_l3_224": (PlainMambaConfig(depth=36, embed_dim=448, stem_convs=2, dwconv_blocks=()), "l3.pth"),
}

for _name, (_config, _file) in _VARIANTS.items():
    register_model(
        ModelSpec(
            name=_name,
            family="plainmamba",
            task=PlainMamba.task,
            config=_config,
            build=PlainMamba,
            paper="2403.17695",
            weights=_chenhongyiyang(_file),
            remap_keys=remap_keys,
            adapt_weights=adapt_weights,
        )
    )
