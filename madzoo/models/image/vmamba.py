"""VMamba: a pyramid of grids, each mixed by selective scans along its rows and columns from both ends.

Four stages, halving the grid and doubling the width in between; a block is an SS2D mixer and, but in the first release,
an MLP. Parameter names are those of MzeroMiko/VMamba, so its checkpoints load as they are. Grids are channel-last
throughout; the published channel-first form is the same function of the same weights.

Axes: B batch, C image channels, H height, W width of a grid, D width of its stage.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.gauges import COLUMNS, Slices, rows_of
from madzoo.layers.drop_path import DropPath
from madzoo.layers.mlp import mlp
from madzoo.layers.pyramid import downsample, patch_stem
from madzoo.layers.recompute import run_blocks
from madzoo.layers.ss2d import SS2D
from madzoo.models.image.inputs import IMAGENET
from madzoo.models.image.protocol import ImageClassifier, init_linear, make_head, stage_info
from madzoo.models.image.transfer import fit_head_and_stem, rename_keys
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.stream_gauges import NormReader, norm_symmetries, rotation, written_ones
from madzoo.symmetry import Symmetry

__all__ = ["VMamba", "VMambaConfig"]

STAGES = 4
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}
CHOICES = {
    "global_pool": ("avg", ""),
    "act_layer": tuple(ACTIVATIONS),
    "patch_embed": ("v1", "v2"),
    "downsample": ("v1", "v2", "v3"),
}
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class VMambaConfig:
    """Configures a :class:`VMamba`; the defaults are those of ``vmamba_tiny_s1l8_224``.

    Attributes:
        img_size: side of the square images that the published weights were trained on; no parameter depends on it.
        patch_size: of the stem, in pixels.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depths: blocks of each of the four stages.
        embed_dim: width of the first stage.
        d_state, d_conv, expand: states per channel, side of the convolution, inner width over D.
        conv_bias: whether the convolution has a bias.
        act_layer: activation behind the convolution: ``"silu"``, ``"gelu"`` or ``"relu"``.
        forward_type, initialize: see :class:`madzoo.layers.ss2d.SS2D`.
        mlp_ratio: hidden width of the MLP over D; 0 for none.
        patch_embed: ``"v1"`` (one convolution as wide as a patch) or ``"v2"`` (two overlapping ones).
        downsample: between stages: ``"v1"`` (2 x 2 tokens side by side, norm, linear layer), ``"v2"`` (a 2 x 2
            convolution, norm) or ``"v3"`` (an overlapping 3 x 3 one).
        drop_rate: dropout at the end of mixers and in MLPs.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0. The authors trained with
            0.2 (tiny), 0.3 (small) and 0.5 or 0.6 (base).
        global_pool: ``"avg"`` or ``""`` (every position).

    Raises:
        ConfigError: on an unknown choice, a size below 1, or an odd patch_size for ``patch_embed="v2"``.
    """

    img_size: int = 224
    patch_size: int = 4
    in_chans: int = 3
    num_classes: int = 1000
    depths: tuple[int, ...] = (2, 2, 8, 2)
    embed_dim: int = 96
    d_state: int = 1
    d_conv: int = 3
    expand: float = 1.0
    conv_bias: bool = False
    act_layer: str = "silu"
    forward_type: str = "v05_noz"
    initialize: str = "v0"
    mlp_ratio: float = 4.0
    patch_embed: str = "v2"
    downsample: str = "v3"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        for name in ("img_size", "patch_size", "in_chans", "embed_dim", "d_state", "d_conv"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1.", asked=f"{name}={getattr(self, name)}")
        if len(self.depths) != STAGES or min(self.depths) < 1 or sum(self.depths) > MAX_DEPTH:
            todo = f"{STAGES} depths from 1, together at most {MAX_DEPTH}"
            raise ConfigError("these depths make no pyramid.", asked=f"depths={self.depths}", todo=todo)
        if self.num_classes < 0 or self.mlp_ratio < 0:
            asked = f"num_classes={self.num_classes}, mlp_ratio={self.mlp_ratio}"
            raise ConfigError("num_classes and mlp_ratio are at least 0.", asked=asked)
        if self.patch_embed == "v2" and (self.patch_size % 2 or self.embed_dim % 2):
            asked = f"patch_size={self.patch_size}, embed_dim={self.embed_dim}"
            raise ConfigError("a stem of two convolutions halves patch_size and embed_dim.", asked=asked)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(STAGES))


class VMamba(ImageClassifier):
    """Classifies images by four-way selective scans over a pyramid of grids; speaks timm's model protocol.

    Any image size is accepted at call time, rectangular too, from one patch on.

    Args:
        config: sizes and rates.

    Source: arXiv 2401.10166, figure 3; MzeroMiko/VMamba, classification/models/vmamba.py.

    Example:
        >>> model = VMamba(VMambaConfig(depths=(1, 1, 1, 1), embed_dim=16, num_classes=10))
        >>> model(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 10])
    """

    norm_name, head_name = "classifier.norm", "classifier.head"

    def __init__(self, config: VMambaConfig) -> None:
        info = stage_info("layers.{}.blocks", [*config.widths], [config.patch_size * 2**i for i in range(STAGES)])
        super().__init__(config, num_features=config.widths[-1], feature_info=info)
        self.patch_embed = patch_stem(
            config.patch_embed, in_chans=config.in_chans, width=config.embed_dim, patch_size=config.patch_size
        )
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").split(config.depths)
        self.layers = nn.ModuleList([VSSStage(config, i, drop_path=stage.tolist()) for i, stage in enumerate(rates)])
        self.classifier = Classifier(self.num_features, config.num_classes)
        self.apply(init_linear)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's description of the layers, for layer-wise learning rates."""
        stages = r"^layers\.(\d+)"
        blocks = [(r"^layers\.(\d+)\.downsample", (0,)), (r"^layers\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^patch_embed", "blocks": stages if coarse else [*blocks, (r"^classifier\.norm", (99999,))]}

    def symmetries(self) -> list[Symmetry]:
        """Declares what stem, downsampling and head add to the blocks' own."""
        config, convs = self.config, ["patch_embed.0"]
        if config.patch_embed == "v2":
            convs.append("patch_embed.5")
        if config.downsample != "v1":
            convs += [f"layers.{i}.downsample.1" for i in range(STAGES - 1)]
        found = [written_ones("vmamba.conv_ones", self, rows_of(f"{conv}.weight", bias=True)) for conv in convs]
        if config.downsample == "v1":
            for i in range(STAGES - 1):
                found += norm_symmetries("vmamba", self, self._merging(i))
        if self.num_classes:
            head = _layer_norm("classifier.norm", "classifier.head", bias=True)
            found += norm_symmetries("vmamba", self, head) + self._stream_symmetries(head)
        return found

    def _merging(self, stage: int) -> NormReader:
        return _layer_norm(f"layers.{stage}.downsample.norm", f"layers.{stage}.downsample.reduction", bias=False)

    def _stream_symmetries(self, head: NormReader) -> list[Symmetry]:
        """Declares that the last stage's stream has no mean and, where a linear map begins it, no basis."""
        last = f"layers.{STAGES - 1}.blocks"
        blocks = [
            (f"{last}.{name}.", cast(VSSBlock, block)) for name, block in self.get_submodule(last).named_children()
        ]
        writers: dict[str, Slices] = {}
        for path, block in blocks:
            writers |= block.writers(path)
        before = f"layers.{STAGES - 2}.downsample"
        if self.config.downsample != "v1":  # a norm begins the stream, whose gain is diagonal
            return [written_ones("vmamba.ones", self, {**writers, f"{before}.3.bias": Slices()})]
        writers |= rows_of(f"{before}.reduction.weight", bias=False)
        readers = [head, *(norm for path, block in blocks for norm in block.norm_readers(path))]
        turned = rotation("vmamba.rotation", self.num_features, writers=writers, readers=readers, fixes_ones=True)
        return [written_ones("vmamba.ones", self, writers), turned]

    def _embed(self, image: Tensor) -> Tensor:
        self._check_image(image, least=self.config.patch_size)
        return self.patch_embed(image)

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        return run_blocks(stage.get_submodule("blocks").children(), x, recompute=self.grad_checkpointing)


class VSSStage(nn.Module):
    """Holds the blocks of one stage, and what leads to the next one; ``number`` is from 0."""

    def __init__(self, config: VMambaConfig, number: int, *, drop_path: list[float]) -> None:
        super().__init__()
        width = config.widths[number]
        self.blocks = nn.Sequential(*(VSSBlock(config, width, drop_path=rate) for rate in drop_path))
        is_last = number == STAGES - 1
        self.downsample = nn.Identity() if is_last else downsample(config.downsample, width)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the grid that the next stage reads: [B, H, W, D] -> [B, H/2, W/2, 2 D], the last one unchanged."""
        return self.downsample(self.blocks(x_BHWD))


class VSSBlock(nn.Module):
    """Adds a mixed copy to the stream and, where ``mlp_ratio`` is not 0, what an MLP makes of each position.

    Args:
        config: the model's.
        width: D.
        drop_path: probability of skipping either branch for a sample.

    Shapes:
        [B, H, W, D] -> [B, H, W, D].
    """

    def __init__(self, config: VMambaConfig, width: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.op = SS2D(
            width,
            d_state=config.d_state,
            ssm_ratio=config.expand,
            act_layer=ACTIVATIONS[config.act_layer],
            d_conv=config.d_conv,
            conv_bias=config.conv_bias,
            dropout=config.drop_rate,
            initialize=config.initialize,
            forward_type=config.forward_type,
        )
        self.drop_path = DropPath(drop_path)
        self.has_mlp = config.mlp_ratio > 0
        if self.has_mlp:
            self.norm2 = nn.LayerNorm(width)
            self.mlp = mlp(width, int(width * config.mlp_ratio), config.drop_rate)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the stream after the block."""
        x_BHWD = x_BHWD + self.drop_path(self.op(self.norm(x_BHWD)))
        return x_BHWD + self.drop_path(self.mlp(self.norm2(x_BHWD))) if self.has_mlp else x_BHWD

    def symmetries(self) -> list[Symmetry]:
        """Declares that gain and bias of each norm can move into the projection that reads it."""
        return [s for norm in self.norm_readers() for s in norm_symmetries("vmamba", self, norm)]

    def norm_readers(self, prefix: str = "") -> list[NormReader]:
        """Returns the block's norms and what reads them."""
        readers = [("norm", "op.in_proj", False)] + ([("norm2", "mlp.fc1", True)] if self.has_mlp else [])
        return [_layer_norm(f"{prefix}{norm}", f"{prefix}{reader}", bias=bias) for norm, reader, bias in readers]

    def writers(self, prefix: str) -> dict[str, Slices]:
        """Returns what of the block writes the stream."""
        found = rows_of(f"{prefix}op.out_proj.weight", bias=False)
        return found | (rows_of(f"{prefix}mlp.fc2.weight", bias=True) if self.has_mlp else {})


def _layer_norm(norm: str, reader: str, *, bias: bool) -> NormReader:
    weight = f"{reader}.weight"
    biases = {weight: f"{reader}.bias"} if bias else {}
    return NormReader({weight: COLUMNS}, f"{norm}.weight", f"{norm}.bias", biases, centred=True)


class Classifier(nn.Module):
    """Holds the last norm and the head under their published names."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = make_head(width, num_classes)


_OLD_NAMES = (
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"^(layers\.\d+\.blocks\.\d+)\.ln_1\.", r"\1.norm."),
    (r"^(layers\.\d+\.blocks\.\d+)\.self_attention\.", r"\1.op."),
    (r"^(norm|head)\.", r"classifier.\1."),
)
_LINEAR = re.compile(r"\.(in_proj|out_proj|fc1|fc2|reduction)\.weight$")


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' file under our names.

    Names of the first release become those of the current code, and linear layers stored as 1 x 1 convolutions
    [out, in, 1, 1] become matrices.
    """
    state = rename_keys(state, _OLD_NAMES)
    pointwise = {key for key, value in state.items() if _LINEAR.search(key) and value.shape[2:] == (1, 1)}
    return {key: value.flatten(1) if key in pointwise else value for key, value in state.items()}


def adapt_weights(state: StateDict, source: VMambaConfig, target: VMambaConfig) -> StateDict:
    """Fits weights to another number of classes or channels: the head is left out, the stem summed or repeated."""
    return fit_head_and_stem(state, source, target, head="classifier.head.", stem="patch_embed.0.weight")


def _mzeromiko(file: str) -> dict[str, PretrainedCfg]:
    published = dataclasses.replace(
        IMAGENET,
        license="mit",
        dataset="imagenet-1k",
        source="https://arxiv.org/abs/2401.10166",
        url=f"https://github.com/MzeroMiko/VMamba/releases/download/%23{file}",
        filename=file.rpartition("/")[2],
    )
    return {"mzeromiko_in1k": published}


def _v0(middle: int, embed_dim: int) -> VMambaConfig:
    parts = {"forward_type": "v0", "patch_embed": "v1", "downsample": "v1", "mlp_ratio": 0.0}
    sizes = {"depths": (2, 2, middle, 2), "embed_dim": embed_dim, "d_state": 16, "expand": 2.0}
    return VMambaConfig(**sizes, **parts, conv_bias=True)


def _current(middle: int, embed_dim: int, expand: float) -> VMambaConfig:
    return VMambaConfig(depths=(2, 2, middle, 2), embed_dim=embed_dim, expand=expand)


def _m2(middle: int, embed_dim: int) -> VMambaConfig:
    mixer = {"d_state": 64, "act_layer": "gelu", "forward_type": "m0_noz", "initialize": "v2"}
    return VMambaConfig(depths=(2, 2, middle, 2), embed_dim=embed_dim, **mixer)


# s2l5: inner width 2 D, 5 blocks in the third stage. No weights of the m2 (state space duality) models were published.
_VARIANTS = {
    "vmamba_v0_tiny_224": (_v0(9, 96), _mzeromiko("v0cls/vssmtiny_dp01_ckpt_epoch_292.pth")),
    "vmamba_v0_small_224": (_v0(27, 96), _mzeromiko("v0cls/vssmsmall_dp03_ckpt_epoch_238.pth")),
    "vmamba_v0_base_224": (_v0(27, 128), _mzeromiko("v0cls/vssmbase_dp06_ckpt_epoch_241.pth")),
    "vmamba_tiny_s2l5_224": (_current(5, 96, 2.0), _mzeromiko("v2cls/vssm_tiny_0230_ckpt_epoch_262.pth")),
    "vmamba_small_s2l15_224": (_current(15, 96, 2.0), _mzeromiko("v2cls/vssm_small_0229_ckpt_epoch_222.pth")),
    "vmamba_base_s2l15_224": (_current(15, 128, 2.0), _mzeromiko("v2cls/vssm_base_0229_ckpt_epoch_237.pth")),
    "vmamba_tiny_s1l8_224": (_current(8, 96, 1.0), _mzeromiko("v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth")),
    "vmamba_small_s1l20_224": (_current(20, 96, 1.0), _mzeromiko("v2cls/vssm1_small_0229s_ckpt_epoch_240.pth")),
    "vmamba_base_s1l20_224": (_current(20, 128, 1.0), _mzeromiko("v2cls/vssm1_base_0229s_ckpt_epoch_225.pth")),
    "vmamba_tiny_m2_224": (_m2(4, 96), {}),
    "vmamba_small_m2_224": (_m2(12, 96), {}),
    "vmamba_base_m2_224": (_m2(12, 128), {}),
}

for _name, (_config, _weights) in _VARIANTS.items():
    register_model(
        ModelSpec(
            name=_name,
            family="vmamba",
            task=VMamba.task,
            config=_config,
            build=VMamba,
            paper="2401.10166",
            weights=_weights,
            remap_keys=remap_keys,
            adapt_weights=adapt_weights,
        )
    )
