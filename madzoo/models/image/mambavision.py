"""MambaVision: convolutions on the fine grids; on the coarse ones windows, first scanned, then read by attention.

Four stages, halving the grid and doubling the width in between. The first two are residual convolutions. In the other
two a grid is cut into windows; the first half of a stage's blocks scans each window, the second half attends in it.

The authors' code and weights are non-commercial. This file was written from the paper (arXiv 2407.08083) and from what
is publicly said about the published model; no line of their code was copied. Run beside it on the same weights in
float64, their code has the same parameter names and gives the same outputs and gradients.

Axes: B batch, C image channels, H height, W width of a grid, D width of its stage, L tokens of a window.
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
from madzoo.layers.mlp import mlp
from madzoo.layers.recompute import run_blocks
from madzoo.layers.symmetric_mixer import SymmetricMixer
from madzoo.layers.windows import WindowAttention, merge_windows, partition_windows
from madzoo.models.image.inputs import IMAGENET
from madzoo.models.image.protocol import ImageClassifier, init_linear, make_head, stage_info
from madzoo.models.image.transfer import fit_head_and_stem
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.shift_gauges import batch_norm_scales, shift
from madzoo.stream_gauges import NormReader, norm_symmetries
from madzoo.symmetry import Symmetry

__all__ = ["MambaVision", "MambaVisionConfig"]

STAGES, CONV_STAGES = 4, 2
STEM_EPS = 1e-4  # of the stem's batch norms alone, as published
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaVisionConfig:
    """Configures a :class:`MambaVision`; the defaults are those of ``mambavision_t_224``.

    Attributes:
        img_size: side of the square images that the published weights were trained on; no parameter depends on it.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depths: blocks of each of the four stages.
        embed_dim: width of the first stage.
        stem_dim: channels between the two convolutions of the stem.
        num_heads: attention heads in the third and in the fourth stage.
        window_size: side of the windows in the third and in the fourth stage; as large as the published grids.
        d_state, d_conv, expand: of the mixers, see :class:`madzoo.layers.symmetric_mixer.SymmetricMixer`.
        mlp_ratio: hidden width of the MLPs over D.
        qkv_bias: whether queries, keys and values have a bias.
        layer_scale: initial gain of the branches of stages three and four; 0 for no gain.
        layer_scale_conv: the same for the convolutional blocks.
        drop_rate, attn_drop_rate: dropout at the end of attention and in MLPs; of the attention weights.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0. In stages three and four it
            drops whole windows. The authors trained with 0.2 (T, T2, S), 0.3 (B, L, L2) and 0.5 (L3).
        global_pool: ``"avg"`` or ``""`` (every position).

    Raises:
        ConfigError: on an unknown pool, a size below 1, or heads that do not divide their width.
    """

    img_size: int = 224
    in_chans: int = 3
    num_classes: int = 1000
    depths: tuple[int, ...] = (1, 3, 8, 4)
    embed_dim: int = 80
    stem_dim: int = 32
    num_heads: tuple[int, ...] = (8, 16)
    window_size: tuple[int, ...] = (14, 7)
    d_state: int = 8
    d_conv: int = 3
    expand: float = 1.0
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_scale: float = 0.0
    layer_scale_conv: float = 0.0
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Checks the values."""
        check_choice("global_pool", self.global_pool, ("avg", ""))
        for name in ("img_size", "in_chans", "embed_dim", "stem_dim", "d_state", "d_conv"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1.", asked=f"{name}={getattr(self, name)}")
        if len(self.depths) != STAGES or min(self.depths) < 1 or sum(self.depths) > MAX_DEPTH:
            todo = f"{STAGES} depths from 1, together at most {MAX_DEPTH}"
            raise ConfigError("these depths make no pyramid.", asked=f"depths={self.depths}", todo=todo)
        for name in ("num_heads", "window_size"):
            values = getattr(self, name)
            if len(values) != STAGES - CONV_STAGES or min(values) < 1:
                raise ConfigError(f"{name} has two values from 1, for stages three and four.", asked=values)
        if any(width % heads for width, heads in zip(self.widths[CONV_STAGES:], self.num_heads, strict=True)):
            raise ConfigError("the heads do not divide the width.", asked=f"{self.num_heads} of {self.widths[2:]}")
        if self.num_classes < 0 or self.mlp_ratio <= 0 or min(self.layer_scale, self.layer_scale_conv) < 0:
            why = "num_classes and layer scales are at least 0, mlp_ratio above."
            raise ConfigError(why, asked=f"{self.num_classes=}, {self.mlp_ratio=}, {self.layer_scale=}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(STAGES))


class MambaVision(ImageClassifier):
    """Classifies images by convolutions, then by scans and attention inside windows; speaks timm's model protocol.

    Any image size is accepted at call time, rectangular too; grids are padded to whole windows.

    Args:
        config: sizes and rates.

    Source: arXiv 2407.08083, figure 2.

    Example:
        >>> model = MambaVision(MambaVisionConfig(depths=(1, 1, 2, 1), embed_dim=16, num_classes=10)).eval()
        >>> model(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 10])
    """

    output_fmt = "NCHW"
    stages_name = "levels"

    def __init__(self, config: MambaVisionConfig) -> None:
        info = stage_info("levels.{}.blocks", [*config.widths], [4 * 2**i for i in range(STAGES)])
        super().__init__(config, num_features=config.widths[-1], feature_info=info)
        self.patch_embed = Stem(config)
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").split(config.depths)
        self.levels = nn.ModuleList([Level(config, i, drop_path=stage.tolist()) for i, stage in enumerate(rates)])
        self.norm = nn.BatchNorm2d(self.num_features)
        self.head = make_head(self.num_features, config.num_classes)
        self.apply(init_linear)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's description of the layers, for layer-wise learning rates."""
        blocks = [(r"^levels\.(\d+)\.downsample", (0,)), (r"^levels\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": r"^levels\.(\d+)" if coarse else blocks}

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples stem, stages and head: scales of channels, and the last norm with the head."""
        found = [self._stem_scale()]
        for i in range(1, CONV_STAGES):
            found.append(self._stage_scale(i))
        if not self.num_classes:
            return found
        grow, weight = rows_of("norm.weight", bias=True), "head.weight"
        return [
            *found,
            scale("mambavision.norm_gain", self.num_features, grow=grow, shrink={weight: COLUMNS}),
            shift(
                "mambavision.norm_shift",
                self.num_features,
                up={"norm.bias": Slices()},
                readers={weight: "head.bias"},
            ),
        ]

    def _stem_scale(self) -> Symmetry:
        """Declares that the channels of the first stage may grow, which a ReLU begins and convolutions read."""
        grow, shrink = self._scaled_by_blocks(0)
        return scale(
            "mambavision.stage_scale",
            self.config.widths[0],
            grow=rows_of("patch_embed.conv_down.4.weight", bias=True) | grow,
            shrink=shrink,
        )

    def _stage_scale(self, number: int) -> Symmetry:
        """Declares the same of a later stage of convolutions, which a convolution begins."""
        grow, shrink = self._scaled_by_blocks(number)
        begin = {f"levels.{number - 1}.downsample.reduction.0.weight": Slices()}
        return scale("mambavision.stage_scale", self.config.widths[number], grow=begin | grow, shrink=shrink)

    def _scaled_by_blocks(self, number: int) -> tuple[dict[str, Slices], dict[str, Slices]]:
        level = f"levels.{number}"
        grow, shrink = {}, {f"{level}.downsample.reduction.0.weight": COLUMNS}
        for i in range(self.config.depths[number]):
            grow |= rows_of(f"{level}.blocks.{i}.norm2.weight", bias=True)
            shrink[f"{level}.blocks.{i}.conv1.weight"] = COLUMNS
        return grow, shrink

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image)
        return self.patch_embed(image)

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        return cast(Level, stage).mix(x, recompute=self.grad_checkpointing)


class Stem(nn.Module):
    """Makes a grid of an image by two overlapping convolutions, each halving its sides, rounded up."""

    def __init__(self, config: MambaVisionConfig) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for old, new in ((config.in_chans, config.stem_dim), (config.stem_dim, config.embed_dim)):
            conv = nn.Conv2d(old, new, 3, stride=2, padding=1, bias=False)
            parts += [conv, nn.BatchNorm2d(new, eps=STEM_EPS), nn.ReLU()]
        self.conv_down = nn.Sequential(*parts)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the grid: [B, C, height, width] -> [B, D, H, W]."""
        return self.conv_down(image)

    def symmetries(self) -> list[Symmetry]:
        """Declares the scales between convolutions, norms and the ReLU in between."""
        found = [
            symmetry
            for conv, norm in ((0, 1), (3, 4))
            for symmetry in batch_norm_scales("mambavision", self, before=f"conv_down.{conv}", norm=f"conv_down.{norm}")
        ]
        grow, shrink = rows_of("conv_down.1.weight", bias=True), {"conv_down.3.weight": COLUMNS}
        return [
            *found,
            scale("mambavision.relu_scale", len(self.get_parameter("conv_down.1.weight")), grow=grow, shrink=shrink),
        ]


class Level(nn.Module):
    """Holds the blocks of one stage, and what leads to the next one; ``number`` is from 0."""

    def __init__(self, config: MambaVisionConfig, number: int, *, drop_path: list[float]) -> None:
        super().__init__()
        width, depth = config.widths[number], config.depths[number]
        self.window = 0 if number < CONV_STAGES else config.window_size[number - CONV_STAGES]
        if self.window:
            scanned = (depth + 1) // 2  # of an odd number of blocks, the one in the middle scans
            heads = config.num_heads[number - CONV_STAGES]
            blocks = [
                WindowBlock(config, _mixer(config, width, heads, scan=i < scanned), width, drop_path=rate)
                for i, rate in enumerate(drop_path)
            ]
        else:
            blocks = [ConvBlock(width, layer_scale=config.layer_scale_conv, drop_path=rate) for rate in drop_path]
        self.blocks = nn.Sequential(*blocks)
        self.downsample = nn.Identity() if number == STAGES - 1 else Downsample(width)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Returns the grid that the next stage reads: [B, D, H, W] -> [B, 2 D, H/2, W/2], the last one unchanged."""
        return self.downsample(self.mix(x_BDHW))

    def mix(self, x_BDHW: Tensor, *, recompute: bool = False) -> Tensor:
        """Runs the blocks; padding, where windows need any, takes part in all of them."""
        if not self.window:
            return run_blocks(self.blocks, x_BDHW, recompute=recompute)
        windows = run_blocks(self.blocks, partition_windows(x_BDHW, self.window), recompute=recompute)
        return merge_windows(windows, self.window, *x_BDHW.shape[2:])


class Downsample(nn.Module):
    """Halves the sides of a grid, rounded up, and doubles its width by an overlapping convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Returns the coarser grid."""
        return self.reduction(x_BDHW)


class ConvBlock(nn.Module):
    """Adds to a grid what two convolutions with batch norms make of it: [B, D, H, W] -> [B, D, H, W].

    Source: arXiv 2407.08083, equation 1; its GELU is the tanh form.
    """

    def __init__(self, width: int, *, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.GELU(approximate="tanh")
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.gamma = _gain(width, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Returns the grid after the block."""
        y_BDHW = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x_BDHW)))))
        return x_BDHW + self.drop_path(y_BDHW if self.gamma is None else y_BDHW * self.gamma.reshape(-1, 1, 1))

    def symmetries(self) -> list[Symmetry]:
        """Declares the scales and shifts between each convolution and its norm, and that of the branch's gain."""
        found = [
            symmetry
            for i in (1, 2)
            for symmetry in batch_norm_scales("mambavision", self, before=f"conv{i}", norm=f"norm{i}")
        ]
        return found + (_layer_scale(self.gamma, "gamma", "norm2.weight") if self.gamma is not None else [])


class WindowBlock(nn.Module):
    """Adds to the tokens of a window what a mixer and then an MLP make of them: [B, L, D] -> [B, L, D].

    Source: arXiv 2407.08083, equation 2.
    """

    def __init__(self, config: MambaVisionConfig, mixer: nn.Module, width: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(width), mixer
        self.drop_path = DropPath(drop_path)
        self.norm2, self.mlp = nn.LayerNorm(width), mlp(width, int(width * config.mlp_ratio), config.drop_rate)
        self.gamma_1, self.gamma_2 = (_gain(width, config.layer_scale) for _ in range(2))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns the tokens after the block."""
        for norm, branch, gain in ((self.norm1, self.mixer, self.gamma_1), (self.norm2, self.mlp, self.gamma_2)):
            y_BLD = branch(norm(x_BLD))
            x_BLD = x_BLD + self.drop_path(y_BLD if gain is None else y_BLD * gain)
        return x_BLD

    def symmetries(self) -> list[Symmetry]:
        """Declares what of each norm can move into the projection that reads it, and the scales of the gains."""
        found = []
        for norm, reader in (
            ("norm1", "mixer.in_proj" if isinstance(self.mixer, SymmetricMixer) else "mixer.qkv"),
            ("norm2", "mlp.fc1"),
        ):
            weight = f"{reader}.weight"
            biases = {} if getattr(self.get_submodule(reader), "bias", None) is None else {weight: f"{reader}.bias"}
            read = NormReader({weight: COLUMNS}, f"{norm}.weight", f"{norm}.bias", biases, centred=True)
            found += norm_symmetries("mambavision", self, read)
        last = "mixer.out_proj" if isinstance(self.mixer, SymmetricMixer) else "mixer.proj"
        for gain, name, writer in ((self.gamma_1, "gamma_1", last), (self.gamma_2, "gamma_2", "mlp.fc2")):
            if gain is not None:
                biased = getattr(self.get_submodule(writer), "bias", None) is not None
                found += _layer_scale(gain, name, f"{writer}.weight", biased=biased)
        return found


def _layer_scale(gain: Tensor, name: str, writer: str, *, biased: bool = True) -> list[Symmetry]:
    shrink = rows_of(writer, bias=biased)
    return [scale("mambavision.layer_scale", len(gain), grow={name: Slices()}, shrink=shrink)]


def _mixer(config: MambaVisionConfig, width: int, heads: int, *, scan: bool) -> nn.Module:
    if scan:
        return SymmetricMixer(width, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)
    drops = {"attn_drop": config.attn_drop_rate, "drop": config.drop_rate}
    return WindowAttention(width, heads, qkv_bias=config.qkv_bias, **drops)


def _gain(width: int, value: float) -> nn.Parameter | None:
    return nn.Parameter(torch.full((width,), value)) if value else None


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' file under our names: those of the Hub stand behind ``model.``."""
    is_wrapped = all(key.startswith("model.") for key in state)
    return {key.removeprefix("model.") if is_wrapped else key: value for key, value in state.items()}


def adapt_weights(state: StateDict, source: MambaVisionConfig, target: MambaVisionConfig) -> StateDict:
    """Fits weights to another number of classes or channels: the head is left out, the stem summed or repeated."""
    return fit_head_and_stem(state, source, target, head="head.", stem="patch_embed.conv_down.0.weight")


def _nvidia(repository: str, *, side: int = 224, crop_pct: float = 1.0, crop_mode: str = "center") -> PretrainedCfg:
    return dataclasses.replace(
        IMAGENET,
        license="cc-by-nc-sa-4.0",
        dataset="imagenet-21k, imagenet-1k" if repository.endswith("21K") else "imagenet-1k",
        source="https://arxiv.org/abs/2407.08083",
        hub_id=f"nvidia/MambaVision-{repository}",
        input_size=(3, side, side),
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )


def _variants() -> Iterator[tuple[str, MambaVisionConfig, dict[str, PretrainedCfg]]]:
    def larger(
        middle: int, last: int, width: int, scale: float, heads: tuple[int, int] = (16, 32), side: int = 224
    ) -> MambaVisionConfig:
        sizes = {"depths": (3, 3, middle, last), "embed_dim": width, "stem_dim": 64, "num_heads": heads}
        # A window is the whole grid at the size that the weights were trained on.
        return MambaVisionConfig(**sizes, layer_scale=scale, img_size=side, window_size=(side // 16, side // 32))

    def in1k(repository: str, **fields: Any) -> dict[str, PretrainedCfg]:
        return {"nvidia_in1k": _nvidia(f"{repository}-1K", **fields)}

    def in21k(repository: str, **fields: Any) -> dict[str, PretrainedCfg]:
        return {"nvidia_in21k_ft_in1k": _nvidia(f"{repository}-21K", **fields)}

    at_512: dict[str, Any] = {"side": 512, "crop_pct": 0.93, "crop_mode": "squash"}
    yield "t_224", MambaVisionConfig(), in1k("T")
    yield "t2_224", MambaVisionConfig(depths=(1, 3, 11, 4)), in1k("T2", crop_pct=0.98)
    yield "s_224", larger(7, 5, 96, 0.0, (8, 16)), in1k("S", crop_pct=0.93)
    yield "b_224", larger(10, 5, 128, 1e-5, (8, 16)), in1k("B") | in21k("B")
    yield "l_224", larger(10, 5, 196, 1e-5), in1k("L") | in21k("L")
    yield "l2_224", larger(12, 5, 196, 1e-5), in1k("L2")
    yield "l2_512", larger(12, 5, 196, 1e-5, side=512), in21k("L2-512", **at_512)
    yield "l3_256", larger(20, 10, 256, 1e-5, side=256), in21k("L3-256", side=256)
    yield "l3_512", larger(20, 10, 256, 1e-5, side=512), in21k("L3-512", **at_512)


for _name, _config, _weights in _variants():
    register_model(
        ModelSpec(
            name=f"mambavision_{_name}",
            family="mambavision",
            task=MambaVision.task,
            config=_config,
            build=MambaVision,
            paper="2407.08083",
            weights=_weights,
            remap_keys=remap_keys,
            adapt_weights=adapt_weights,
        )
    )
