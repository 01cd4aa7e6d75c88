"""Weft: a small image family that weaves selective scans through a token grid, rows in one block, columns in the next.

A convolutional stem (stride 4, 8 or 16) makes the grid; each block adds a depthwise 3x3 convolution (which also tells
positions apart), a bidirectional selective scan and an MLP. No position embedding: any image size works at call time.
An architecture of this project; its scan is Mamba's (arXiv 2312.00752), its order of axes follows the weaver's.

B batch, H height, W width, L = H W, D embed_dim, E = D channels of the scan, N d_state, R dt_rank.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import check_choice
from madzoo.gauges import COLUMNS, Slices, diagonal_term, rows_of, scale
from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.mamba_symmetries import dt_basis, input_output_scale, output_scale, skip_shift
from madzoo.models.image.protocol import ImageClassifier, make_head, stage_info
from madzoo.models.image.transfer import fit_head_and_stem
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.traverse import ROUTES, to_grid, to_sequence
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.shift_gauges import batch_norm_scales
from madzoo.stream_gauges import NormReader, norm_symmetries, written_ones
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["ResidualConvolutions", "Weft", "WeftConfig"]

STEM_STRIDES = {4: (1, 2, 2), 8: (2, 2, 2), 16: (2, 2, 2, 2)}  # of the stem's stages, by patch size


@dataclass(frozen=True, kw_only=True, slots=True)
class WeftConfig:
    """Configures a Weft.

    Attributes:
        img_size: height and width the weights were made for; others work too.
        scan: False removes the selective scan and keeps everything else, the ablation every SSM must beat.
        mlp_ratio: hidden width of the MLP over embed_dim.
        patch_size: stride of the stem, 4, 8 or 16: three, three or four stages, each of twice the width of the former.
        stem_blocks: residual pairs of 3x3 convolutions after each stage of the stem, as ``(0, 2, 2)``; ``()`` is the
            plain stem of one convolution a stage.
        dt_min, dt_max: range of the initial step sizes.
        global_pool: ``"avg"`` or ``""`` (every position).
    """

    img_size: int = 32
    in_chans: int = 3
    num_classes: int = 10
    embed_dim: int = 128
    depth: int = 4
    d_state: int = 8
    dt_rank: int = 8
    mlp_ratio: float = 1.5
    patch_size: int = 4
    stem_blocks: tuple[int, ...] = ()
    scan: bool = True
    dt_min: float = 1e-3
    dt_max: float = 0.1
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        check_choice("global_pool", self.global_pool, ("avg", ""))
        if self.patch_size not in STEM_STRIDES:
            raise ValueError(f"patch_size must be one of {', '.join(map(str, STEM_STRIDES))}, not {self.patch_size}.")
        for name in ("img_size", "in_chans", "depth", "d_state", "dt_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"depth must be at most {MAX_DEPTH}.")
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, not {self.num_classes}.")
        stages = len(STEM_STRIDES[self.patch_size])
        if self.embed_dim < 4 or self.embed_dim % 2 ** (stages - 1):
            raise ValueError(f"embed_dim must be a multiple of {2 ** (stages - 1)}, not {self.embed_dim}.")
        if self.mlp_ratio <= 0 or not 0 < self.dt_min <= self.dt_max:
            raise ValueError("mlp_ratio must be positive and 0 < dt_min <= dt_max.")
        counts = self.stem_blocks
        if len(counts) not in (0, stages) or not all(isinstance(n, int) and 0 <= n <= MAX_DEPTH for n in counts):
            raise ValueError(f"stem_blocks must be empty or hold {stages} counts up to {MAX_DEPTH}, not {counts}.")
        if not (0 <= self.drop_rate < 1 and 0 <= self.drop_path_rate < 1):
            raise ValueError("drop_rate and drop_path_rate must be in [0, 1).")


class ResidualConvolutions(nn.Module):
    """Adds two 3x3 convolutions to their input; an untrained pair adds nothing, so that depth costs no stability.

    Shapes:
        [B, D, H, W] -> [B, D, H, W].

    Source: arXiv 1512.03385, section 3.3; the zero at the end, arXiv 1706.02677, section 5.1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        first, last = (_convolution(dim, dim, stride=1) for _ in range(2))
        nn.init.zeros_(last[1].weight)
        self.pair = nn.Sequential(*first, nn.ReLU(), *last)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the refined map."""
        return x + self.pair(x)

    def symmetries(self) -> list[Symmetry]:
        """Declares the scales between convolutions, norms and the ReLU."""
        norms = [s for i in (0, 3) for s in batch_norm_scales("weft", self, before=f"pair.{i}", norm=f"pair.{i + 1}")]
        grow, shrink = rows_of("pair.1.weight", bias=True), {"pair.3.weight": COLUMNS}
        return [*norms, scale("weft.relu_scale", len(self.get_parameter("pair.1.weight")), grow=grow, shrink=shrink)]


class ScanDirection(nn.Module):
    """Runs one selective scan over a sequence, with step sizes, B and C computed from the sequence itself.

    Shapes:
        [B, L, E] -> [B, L, E].
    """

    def __init__(self, dim: int, config: WeftConfig, *, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.sizes = (config.dt_rank, config.d_state, config.d_state)
        self.x_proj = Linear(dim, sum(self.sizes), bias=False)
        self.dt_proj = Linear(config.dt_rank, dim)
        self.A_log = nn.Parameter(torch.arange(1, config.d_state + 1).to(self.dt_proj.weight).log().repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim))
        nn.init.uniform_(self.dt_proj.weight, -(config.dt_rank**-0.5), config.dt_rank**-0.5)
        dt = torch.empty(dim).uniform_(math.log(config.dt_min), math.log(config.dt_max)).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(self, x_BLE: Tensor) -> Tensor:
        """Returns the scanned sequence."""
        dt_BLR, B_BLN, C_BLN = self.x_proj(x_BLE).split(self.sizes, dim=-1)
        delta_BLE = F.linear(dt_BLR, self.dt_proj.weight)
        B, C, u, delta = (x.transpose(1, 2) for x in (B_BLN, C_BLN, x_BLE, delta_BLE))
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        bias = self.dt_proj.bias
        return selective_scan(
            u, delta.to(u.dtype), A, B, C, self.D, delta_bias=bias, delta_softplus=True, reverse=self.reverse
        ).transpose(1, 2)

    def symmetries(self) -> list[Symmetry]:
        """Declares the units of the states and the space of step features."""
        rank, states, _ = self.sizes
        return [
            input_output_scale(states, rank, x_proj="x_proj"),
            dt_basis(rank, x_proj="x_proj", dt_proj="dt_proj"),
        ]


class WovenMixer(nn.Module):
    """Mixes tokens along one route of the grid, in both directions, under one gate.

    Shapes:
        [B, H, W, D] -> [B, H, W, D].
    """

    def __init__(self, config: WeftConfig, *, route: str) -> None:
        super().__init__()
        dim = config.embed_dim
        self.route = route
        self.in_proj = Linear(dim, 2 * dim, bias=False)
        reverses = (False, True) if config.scan else ()
        self.directions = nn.ModuleList(ScanDirection(dim, config, reverse=r) for r in reverses)
        self.out_proj = Linear(dim, dim, bias=False)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the mixed grid."""
        x, gate = self.in_proj(x_BHWD).chunk(2, dim=-1)
        x = F.silu(x)
        if self.directions:
            sequence = to_sequence(x, route=self.route)
            onwards, backwards = (scan(sequence) for scan in self.directions)
            sequence = torch.lerp(onwards, backwards, 0.5)
            x = to_grid(sequence, *x.shape[1:3], route=self.route)
        return self.out_proj(x * F.silu(gate))

    def symmetries(self) -> list[Symmetry]:
        """Declares that what both scans give may grow if the columns of the last map shrink."""
        if not self.directions:
            return []
        rank, states, _ = cast(ScanDirection, self.directions[0]).sizes
        inner = self.out_proj.in_features
        names = {f"directions.{i}.x_proj": f"directions.{i}.D" for i in range(len(self.directions))}
        return [
            output_scale(states, rank, d_inner=inner, directions=names),
            skip_shift(inner, "directions.0.D", "directions.1.D"),
        ]


class WeftBlock(nn.Module):
    """Adds a local convolution, a woven scan and an MLP to the stream, one after the other.

    Shapes:
        [B, H, W, D] -> [B, H, W, D].
    """

    def __init__(self, config: WeftConfig, *, route: str, drop_path: float) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer = WovenMixer(config, route=route)
        self.mlp = nn.Sequential(Linear(dim, hidden), nn.GELU(), Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the updated stream."""
        x = x_BHWD + self.local(x_BHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def symmetries(self) -> list[Symmetry]:
        """Declares what of the norms can move into the maps that read them."""
        mixer = NormReader({"mixer.in_proj.weight": COLUMNS}, "norm1.weight", "norm1.bias", centred=True)
        biases = {"mlp.0.weight": "mlp.0.bias"}
        mlp = NormReader({"mlp.0.weight": COLUMNS}, "norm2.weight", "norm2.bias", biases, centred=True)
        return norm_symmetries("weft", self, mixer) + norm_symmetries("weft", self, mlp)


class Weft(ImageClassifier):
    """Classifies images with woven selective scans.

    Shapes:
        forward: [B, in_chans, height, width] -> [B, num_classes]; height and width at least
            ``patch_size``, in any proportion.

    Cost: linear in the number of pixels.
    """

    stages_name = "blocks"

    def __init__(self, config: WeftConfig) -> None:
        dim, depth = config.embed_dim, config.depth
        info = stage_info("blocks.{}", [dim] * depth, [config.patch_size] * depth)
        super().__init__(config, num_features=dim, feature_info=info)
        self.stem = _make_residual_stem(config) if config.stem_blocks else _make_plain_stem(config)
        rates = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            WeftBlock(config, route=ROUTES[i % 2], drop_path=rate) for i, rate in enumerate(rates)
        )
        self.norm = nn.LayerNorm(dim)
        self.head_drop = nn.Dropout(config.drop_rate)
        self.head = make_head(dim, config.num_classes)

    def symmetries(self) -> list[Symmetry]:
        """Declares the stem's scales, what the last norm shares with the head, and the mean of the last stream."""
        found = list(_stem_symmetries(self))
        if not self.num_classes:
            return found
        biases = {"head.weight": "head.bias"}
        head = NormReader({"head.weight": COLUMNS}, "norm.weight", "norm.bias", biases, centred=True)
        # Behind the last local convolution only norms read the stream.
        last = f"blocks.{len(self.blocks) - 1}"
        writers = {f"{last}.local.bias": Slices(), f"{last}.mixer.out_proj.weight": Slices()}
        writers |= rows_of(f"{last}.mlp.2.weight", bias=True)
        return [*found, *norm_symmetries("weft", self, head), written_ones("weft.ones", self, writers)]

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters that weight decay must leave alone: the scans' A_log and D."""
        return {name for name, _ in self.named_parameters() if name.endswith(("A_log", ".D"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's layer groups for layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)" if not coarse else r"^blocks"}

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image, least=self.config.patch_size)
        if self.config.stem_blocks:
            # Many convolutions run faster with the channels innermost, which is also what the blocks want.
            image = image.contiguous(memory_format=torch.channels_last)
        return self.stem(image).permute(0, 2, 3, 1)

    def _pool(self, x: Tensor) -> Tensor:
        return self.head_drop(super()._pool(x))

    def _init_head(self, head: nn.Module) -> None:
        """Keeps the layer's own initial values."""


def _stem_stages(config: WeftConfig) -> list[tuple[int, int, int]]:
    """Returns the channels in, the channels out and the stride of each stage."""
    strides = STEM_STRIDES[config.patch_size]
    widths = [config.embed_dim // 2**k for k in reversed(range(len(strides)))]
    return list(zip([config.in_chans, *widths], widths, strides, strict=False))


def _make_plain_stem(config: WeftConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in _stem_stages(config):
        layers += [*_convolution(inputs, outputs, stride=stride), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _make_residual_stem(config: WeftConfig) -> nn.Sequential:
    """Builds stages of a convolution, a ReLU and residual pairs."""  # a GELU costs as much as its convolution
    layers: list[nn.Module] = []
    for (inputs, outputs, stride), blocks in zip(_stem_stages(config), config.stem_blocks, strict=True):
        layers += [*_convolution(inputs, outputs, stride=stride), nn.ReLU()]
        layers += [ResidualConvolutions(outputs) for _ in range(blocks)]
    return nn.Sequential(*layers)


def _stem_symmetries(model: Weft) -> Iterator[Symmetry]:
    """Yields the scales of the stem's convolutions and norms and, under ReLUs, those of a stage's stream."""
    stem = [(name, layer) for name, layer in model.stem.named_children()]
    starts = [i for i, (_, layer) in enumerate(stem) if isinstance(layer, nn.Conv2d)]
    for start in starts:
        yield from batch_norm_scales("weft", model, before=f"stem.{start}", norm=f"stem.{start + 1}")
    last = starts[-1]
    grow, shrink = _stage_ends(last, len(stem) if model.config.stem_blocks else last + 3)
    yield _embedded_scale(model.config.embed_dim, {**rows_of(f"stem.{last + 1}.weight", bias=True), **grow}, shrink)
    if not model.config.stem_blocks:
        return
    for start, after in itertools.pairwise(starts):
        grow, shrink = _stage_ends(start, after)
        grow |= rows_of(f"stem.{start + 1}.weight", bias=True)
        shrink[f"stem.{after}.weight"] = COLUMNS
        yield scale("weft.stage_scale", len(model.get_parameter(f"stem.{start}.weight")), grow=grow, shrink=shrink)


def _stage_ends(start: int, after: int) -> tuple[dict[str, Slices], dict[str, Slices]]:
    """Returns what the residual pairs of a stage add to its channels, and what of them reads these."""
    grow: dict[str, Slices] = {}
    shrink: dict[str, Slices] = {}
    for i in range(start + 3, after):
        grow |= rows_of(f"stem.{i}.pair.4.weight", bias=True)
        shrink[f"stem.{i}.pair.0.weight"] = COLUMNS
    return grow, shrink


def _embedded_scale(width: int, grow: dict[str, Slices], shrink: dict[str, Slices]) -> Symmetry:
    """Declares that the stem's channels may grow: the first block's local convolution, and the sum with it, read them.

    The sum is a further unit in the middle of the channel's kernel.
    """
    plain = scale("weft.stem_scale", width, grow=grow, shrink=shrink)
    local = "blocks.0.local.weight"

    def terms(params: Parameters) -> Iterator[Term]:
        assert plain.terms is not None
        yield from plain.terms(params)
        kernel = params[local].clone()
        kernel[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] += 1
        yield diagonal_term(local, kernel, Slices(), width, -1.0)

    return from_terms("weft.stem_scale", width, terms)


def _convolution(inputs: int, outputs: int, *, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs)


def _adapt_weights(state: dict[str, Tensor], source: WeftConfig, target: WeftConfig) -> dict[str, Tensor]:
    return fit_head_and_stem(state, source, target, head="head.", stem="stem.0.weight")


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
IMAGENETTE_CLASSES = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump",
    "golf ball", "parachute",
)  # fmt: skip
FASHION_MNIST = PretrainedCfg(
    license="apache-2.0", dataset="fashion_mnist", input_size=(1, 28, 28), mean=(0.2860,), std=(0.3530,),
    class_names=FASHION_CLASSES,
)  # fmt: skip
CIFAR10 = PretrainedCfg(
    license="apache-2.0", dataset="cifar10", input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616), class_names=CIFAR10_CLASSES,
)  # fmt: skip

IMAGENETTE = PretrainedCfg(
    license="apache-2.0", dataset="imagenette_128", input_size=(3, 128, 128), mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225), class_names=IMAGENETTE_CLASSES,
)  # fmt: skip


def _register(name: str, config: WeftConfig, weights: dict[str, PretrainedCfg]) -> None:
    build: Callable[[WeftConfig], Weft] = Weft
    register_model(
        ModelSpec(
            name=name, family="weft", task=Weft.task, config=config, build=build, weights=weights,
            adapt_weights=_adapt_weights,
        )
    )  # fmt: skip


_register("weft_micro_patch4_28", WeftConfig(img_size=28, in_chans=1), {"fashion_mnist": FASHION_MNIST})
_register("weft_micro_patch4_32", WeftConfig(depth=2, stem_blocks=(0, 2, 2)), {"cifar10": CIFAR10})
_register(
    "weft_micro_patch8_32",
    WeftConfig(patch_size=8, depth=2, stem_blocks=(0, 2, 2)),
    {"cifar10": CIFAR10, "cifar10-int4": CIFAR10},
)
_register("weft_tiny_patch4_64", WeftConfig(img_size=64, embed_dim=192, depth=6), {})
_register(
    "weft_micro_patch16_128",
    WeftConfig(img_size=128, patch_size=16, depth=2, stem_blocks=(0, 2, 2, 2)),
    {"imagenette_128": IMAGENETTE},
)
