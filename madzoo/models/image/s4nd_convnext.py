"""S4ND in ConvNeXt: a pyramid whose convolutions, also those that stem and stages shrink grids with, are S4 kernels.

Nothing has a stride: a grid is convolved at full size, averaged, and mixed by a gated linear map. Kernels are as long
as the grids of the image size that the model is built for. Parameter names are those of state-spaces/s4.

Two things differ from other image models. The head normalises what it has pooled, so that intermediate features are
returned without a norm. And the stem has systems for each image channel, which one channel cannot take over.

Axes: B batch, C image channels, H height, W width of a grid, D width of its stage.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, check_choice
from madzoo.gauges import COLUMNS, Slices, rows_of, scale
from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.mlp import mlp
from madzoo.layers.recompute import run_blocks
from madzoo.layers.s4_kernels import S4KernelConfig
from madzoo.layers.s4nd import S4ND
from madzoo.models.image.inputs import IMAGENET
from madzoo.models.image.protocol import ImageClassifier, init_linear, make_head, stage_info, undecayed
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.stream_gauges import NormReader, norm_symmetries
from madzoo.symmetry import Symmetry

__all__ = ["S4NDConvNeXt", "S4NDConvNeXtConfig"]

POOLS = ("avg", "")
STRIDE = 2  # of a stage
UNUSED_SKIP = "stem.stem.D"  # the authors' stem holds a skip that a dense convolution does not have
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class S4NDConvNeXtConfig:
    """Configures an :class:`S4NDConvNeXt`; the defaults are those of ``s4nd_convnext_tiny_224``.

    Attributes:
        img_size: side of the square images that the kernels are made for, in pixels; others work at call time.
        patch_size: how many pixels the stem averages along a side.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depths, widths: blocks and channels of each stage.
        stem_width: channels that the stem convolves the image to.
        stem_l_max: length of the stem's kernels along an axis, in pixels.
        init, d_state, dt_min, dt_max: see :class:`madzoo.layers.s4_kernels.S4KernelConfig`; the systems have a low-rank
            part.
        layer_scale: initial gain of each block's channels; 0 for none.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0. The authors trained with 0.1.
        global_pool: ``"avg"`` or ``""`` (every position).

    Raises:
        ConfigError: on an unknown pool or a size out of range.
    """

    img_size: int = 224
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stem_width: int = 32
    stem_l_max: int = 16
    init: str = "fourier"
    d_state: int = 64
    dt_min: float = 0.1
    dt_max: float = 1.0
    layer_scale: float = 1e-6
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Checks the values."""
        check_choice("global_pool", self.global_pool, POOLS)
        if not self.depths or len(self.depths) != len(self.widths):
            raise ConfigError("one depth and one width per stage.", asked=(self.depths, self.widths))
        sizes = (self.patch_size, self.in_chans, self.stem_width, self.stem_l_max, *self.depths, *self.widths)
        if min(sizes) < 1 or self.num_classes < 0 or max(self.depths) > MAX_DEPTH:
            raise ConfigError("a size is out of range.", asked=sizes)
        if self.img_size < self.reductions[-1]:
            asked = f"img_size={self.img_size}"
            raise ConfigError("nothing would be left of the image.", asked=asked, todo=str(self.reductions[-1]))

    @property
    def reductions(self) -> list[int]:
        """Image pixels per position along a side, after each stage."""
        return [self.patch_size * STRIDE**i for i in range(len(self.depths))]


class S4NDConvNeXt(ImageClassifier):
    """Classifies images by a pyramid of S4ND convolutions; speaks timm's model protocol.

    Any image is accepted at call time, rectangular too, from the size on that the last stage reduces to one position.
    What is left over at the end of a side when a grid is averaged is dropped, as published.

    Args:
        config: sizes and rates.

    Source: arXiv 2210.06583, section 4.1; state-spaces/s4, src/models/baselines/convnext_timm.py with
    configs/experiment/s4nd/convnext/convnext_timm_tiny_s4nd_imagenet.yaml.

    Example:
        >>> config = S4NDConvNeXtConfig(img_size=32, depths=(1, 1), widths=(8, 8), d_state=4, num_classes=10)
        >>> S4NDConvNeXt(config)(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 10])
    """

    stages_name, norm_name, head_name = "stages", "head.norm", "head.fc"

    def __init__(self, config: S4NDConvNeXtConfig) -> None:
        info = stage_info("stages.{}", [*config.widths], config.reductions)
        super().__init__(config, num_features=config.widths[-1], feature_info=info)
        self.stem = Stem(config)
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").split(list(config.depths))
        self.stages = nn.ModuleList([Stage(config, i, drop_path=stage.tolist()) for i, stage in enumerate(rates)])
        self.head = Head(self.num_features, config.num_classes, drop=config.drop_rate)
        self.apply(init_linear)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters of the state space systems, which the published recipe does not decay."""
        return undecayed(self, S4ND)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's description of the layers, for layer-wise learning rates."""
        fine = [
            (r"^stages\.(\d+)\.(?:downsample|norm_layer)", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^head\.norm", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else fine}

    def symmetries(self) -> list[Symmetry]:
        """Declares what of the last norm can move into the head."""
        if not self.num_classes:
            return []
        names, biases = ("head.norm.weight", "head.norm.bias"), {"head.fc.weight": "head.fc.bias"}
        return norm_symmetries("s4nd", self, NormReader({"head.fc.weight": COLUMNS}, *names, biases, centred=True))

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image, least=self.config.reductions[-1])
        return self.stem(image.permute(0, 2, 3, 1))

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(stage, Stage)
        return run_blocks(stage.blocks, stage.shrink(x), recompute=self.grad_checkpointing)

    def _leave_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        return x  # a stage begins with its downsampling

    def _normalise(self, x: Tensor) -> Tensor:
        return x  # the head normalises what it has pooled

    def _pool(self, x: Tensor) -> Tensor:
        return self.head.drop(self.head.norm(super()._pool(x)))


class Stem(nn.Module):
    """Convolves the image densely, averages patches, mixes their channels and normalises them.

    Shapes:
        [B, H, W, C] -> [B, H / patch_size, W / patch_size, D].
    """

    def __init__(self, config: S4NDConvNeXtConfig) -> None:
        super().__init__()
        width, middle = config.widths[0], config.stem_width
        longest = [config.stem_l_max] * 2
        self.stem = S4ND(_systems(config), config.in_chans, l_max=longest, out_channels=middle, linear=True)
        parts = (Average(config.patch_size), TransposedLinear(middle, 2 * width), nn.GLU(dim=-1))
        self.post_stem = nn.Sequential(*parts, nn.LayerNorm(width, eps=1e-6))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Returns the grid of patches."""
        return self.post_stem(self.stem(x_BHWC))

    def symmetries(self) -> list[Symmetry]:
        """Declares that an output of the convolution may grow if the column that reads it shrinks."""
        width = self.post_stem.get_parameter("1.weight").shape[1]
        grow = {"stem.kernel.0.C": [Slices(), Slices(start=width)]}  # one direction behind the other
        return [scale("s4nd.output_scale", width, grow=grow, shrink={"post_stem.1.weight": COLUMNS})]


class Stage(nn.Module):
    """Halves a grid, but in the first stage, and runs blocks over it.

    Args:
        config: the model's.
        number: of the stage, from 0.
        drop_path: of each block.
    """

    def __init__(self, config: S4NDConvNeXtConfig, number: int, *, drop_path: list[float]) -> None:
        super().__init__()
        width, reduction = config.widths[number], config.reductions[number]
        if number:
            before = config.widths[number - 1]
            self.norm_layer = nn.LayerNorm(before, eps=1e-6)
            self.downsample = Downsample(config, before, width, side=config.img_size // config.reductions[number - 1])
        self.blocks = nn.ModuleList(
            [Block(config, width, side=config.img_size // reduction, drop_path=rate) for rate in drop_path]
        )
        self.shrinks = number > 0

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the stream after the stage."""
        return run_blocks(self.blocks, self.shrink(x_BHWD), recompute=False)

    def symmetries(self) -> list[Symmetry]:
        """Declares that the channels in front of the downsampling may grow, and those of its convolution."""
        if not self.shrinks:
            return []
        width, conv = len(self.norm_layer.weight), "downsample.s4conv"
        readers = {f"{conv}.{name}": slices for name, slices in self.downsample.s4conv.channel_readers().items()}
        grow = rows_of("norm_layer.weight", bias=True)
        return [
            scale("s4nd.norm_gain", width, grow=grow, shrink=readers),
            scale("s4nd.output_scale", width, grow=readers, shrink={"downsample.fc.weight": COLUMNS}),
        ]

    def shrink(self, x_BHWD: Tensor) -> Tensor:
        """Returns the grid that the blocks run over."""
        return self.downsample(self.norm_layer(x_BHWD)) if self.shrinks else x_BHWD


class Downsample(nn.Module):
    """Convolves a grid, averages it to half its sides, and mixes the channels by a gated linear map."""

    def __init__(self, config: S4NDConvNeXtConfig, width: int, widened: int, *, side: int) -> None:
        super().__init__()
        self.s4conv = S4ND(_systems(config), width, l_max=[side] * 2, linear=True)
        self.average = Average(STRIDE)
        self.fc = TransposedLinear(width, 2 * widened)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the smaller grid."""
        return F.glu(self.fc(self.average(self.s4conv(x_BHWD))), dim=-1)


class Block(nn.Module):
    """Adds to a grid what an S4ND convolution, a norm and a perceptron make of it, channel by channel scaled."""

    def __init__(self, config: S4NDConvNeXtConfig, width: int, *, side: int, drop_path: float) -> None:
        super().__init__()
        scale = nn.Parameter(torch.full((width,), config.layer_scale)) if config.layer_scale else None
        self.register_parameter("gamma", scale)
        self.conv_dw = S4ND(_systems(config), width, l_max=[side] * 2, linear=True)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the stream after the block."""
        y = self.mlp(self.norm(self.conv_dw(x_BHWD)))
        return x_BHWD + self.drop_path(y if self.gamma is None else y * self.gamma)

    def symmetries(self) -> list[Symmetry]:
        """Declares what of the norm can move into the perceptron, and that the branch's gain repeats its last map."""
        biases, names = {"mlp.fc1.weight": "mlp.fc1.bias"}, ("norm.weight", "norm.bias")
        found = norm_symmetries("s4nd", self, NormReader({"mlp.fc1.weight": COLUMNS}, *names, biases, centred=True))
        if self.gamma is None:
            return found
        rows = rows_of("mlp.fc2.weight", bias=True)
        return [*found, scale("s4nd.layer_scale", self.conv_dw.d_model, grow={"gamma": Slices()}, shrink=rows)]


class Head(nn.Module):
    """Holds what follows the pool: a norm, dropout and the classifier."""

    def __init__(self, width: int, num_classes: int, *, drop: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.drop = nn.Dropout(drop)
        self.fc = make_head(width, num_classes)


class Average(nn.Module):
    """Averages squares of positions of a channel-last grid."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the smaller grid."""
        return F.avg_pool2d(x_BHWD.permute(0, 3, 1, 2), self.side).permute(0, 2, 3, 1)


class TransposedLinear(nn.Module):
    """Maps channels linearly; not one of the linear layers whose initial values the model draws.

    The name is the authors', whose layer reads channel-first grids.
    """

    def __init__(self, width: int, widened: int) -> None:
        super().__init__()
        drawn = Linear(width, widened)
        self.weight, self.bias = drawn.weight, drawn.bias

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mapped stream."""
        return F.linear(x, self.weight, self.bias)


def _systems(config: S4NDConvNeXtConfig) -> S4KernelConfig:
    return S4KernelConfig(
        mode="nplr", init=config.init, d_state=config.d_state, n_ssm=1, dt_min=config.dt_min, dt_max=config.dt_max
    )


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' trainer under our names: without its prefix, and a skip it never used."""
    renamed = {key.removeprefix("model."): value for key, value in state.items()}
    return {key: value for key, value in renamed.items() if key != UNUSED_SKIP}


def adapt_weights(state: StateDict, source: S4NDConvNeXtConfig, target: S4NDConvNeXtConfig) -> StateDict:
    """Fits weights to another number of classes or channels.

    A head for other classes is left out (to be initialised afresh). Image channels are repeated as often as needed and
    their kernels made weaker; for one channel the stem's systems are left out: the sum of several is not one of them.
    """
    # Of a bare file ``source`` is a guess: what fits as it is stays.
    head, channels = state.get("head.fc.weight"), state["stem.stem.kernel.0.C"].shape[1]
    if source.num_classes != target.num_classes and (head is None or len(head) != target.num_classes):
        state = {key: value for key, value in state.items() if not key.startswith("head.fc.")}
    if target.in_chans == channels:
        return dict(state)
    if target.in_chans == 1:
        return {key: value for key, value in state.items() if not key.startswith("stem.stem.")}
    state, chosen = dict(state), [i % channels for i in range(target.in_chans)]
    for axis, gain in ((0, channels / target.in_chans), (1, 1)):
        kernel = f"stem.stem.kernel.{axis}"
        state[f"{kernel}.inv_dt"] = state[f"{kernel}.inv_dt"][chosen]
        state[f"{kernel}.C"] = state[f"{kernel}.C"][:, chosen] * gain
    return state


_IMAGENET = dataclasses.replace(IMAGENET, crop_pct=0.9)
_MICRO = S4NDConvNeXtConfig(img_size=128, num_classes=40, depths=(3, 3, 3, 3), widths=(64, 128, 256, 512))

# No weights of these networks were published. The second tells forty attributes of faces, each of them yes or no;
# how its images were normalised is not in the authors' repository.
_VARIANTS = {
    "s4nd_convnext_tiny_224": (S4NDConvNeXtConfig(), _IMAGENET),
    "s4nd_convnext_micro_128": (_MICRO, PretrainedCfg(input_size=(3, 128, 128))),
}

for _name, (_config, _inputs) in _VARIANTS.items():
    register_model(
        ModelSpec(
            name=_name,
            family="s4nd",
            task=S4NDConvNeXt.task,
            config=_config,
            build=S4NDConvNeXt,
            paper="2210.06583",
            inputs=_inputs,
            remap_keys=remap_keys,
            adapt_weights=adapt_weights,
        )
    )
