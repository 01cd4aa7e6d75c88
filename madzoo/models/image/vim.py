"""Vision Mamba (Vim): an image as a sequence of patches, read forwards and backwards by selective scans.

A class token stands in the middle of the sequence, where both directions have seen half the image when they meet it.
Parameter names are those of hustvl/Vim, so its checkpoints load as they are.

Axes: B batch, C image channels, M patches, L = M + 1 tokens, D embed_dim, E d_inner = expand * D, N d_state.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.gauges import COLUMNS, Slices, offset
from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import depthwise_conv1d, init_dt_proj, resolve_dt_rank, selective_branch, state_decay_log
from madzoo.layers.mamba_symmetries import conv_scale, dt_basis, input_output_scale, output_scale
from madzoo.layers.norms import RMSNorm
from madzoo.layers.patch_embed import PatchEmbed, drop_middle, patch_grid, resample_around_middle
from madzoo.models.image.inputs import IMAGENET
from madzoo.models.image.protocol import ImageClassifier, init_linear, make_head, stage_info
from madzoo.models.image.transfer import fit_head_and_stem
from madzoo.ops.causal_conv1d import cast_for_kernel
from madzoo.ops.gated_mean import gated_mean
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.stream_gauges import NormReader, norm_symmetries, rotation
from madzoo.symmetry import Symmetry

__all__ = ["Vim", "VimConfig"]

POOLS = ("token", "avg", "")
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class VimConfig:
    """Configures a :class:`Vim`.

    Attributes:
        img_size: side of the square images that the position embeddings are made for, in pixels.
        patch_size, stride: of the patches, in pixels; stride < patch_size lets them overlap.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        depth: number of blocks.
        embed_dim: width D of the tokens.
        d_state, d_conv, expand: states per channel, taps of the short convolution, inner width over D.
        drop_rate: dropout after the position embeddings.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0. The authors trained with 0 (tiny,
            and every model of stride 8) and 0.05 (small).
        global_pool: ``"token"`` (the class token), ``"avg"`` (mean of the patches) or ``""`` (every token).

    Raises:
        ConfigError: on an unknown pool, a size below 1, or patches that do not tile the image.
    """

    img_size: int = 224
    patch_size: int = 16
    stride: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    depth: int = 24
    embed_dim: int = 192
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    global_pool: str = "token"

    def __post_init__(self) -> None:
        """Checks the values."""
        check_choice("global_pool", self.global_pool, POOLS)
        sizes = ("img_size", "patch_size", "stride", "in_chans", "depth", "embed_dim", "d_state", "d_conv", "expand")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1.", asked=f"{name}={getattr(self, name)}")
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth of some tens")
        if self.num_classes < 0:
            raise ConfigError("num_classes is at least 0.", asked=f"num_classes={self.num_classes}")
        if (self.img_size - self.patch_size) % self.stride or self.img_size < self.patch_size:
            asked = f"img_size={self.img_size}, patch_size={self.patch_size}, stride={self.stride}"
            raise ConfigError(
                "the patches do not tile the image.", asked=asked, todo="img_size = patch_size + k * stride"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid((self.img_size, self.img_size), patch_size=self.patch_size, stride=self.stride)


class Vim(ImageClassifier):
    """Classifies images by bidirectional selective scans over their patches; speaks timm's model protocol.

    Any image whose sides the patches tile is accepted at call time, rectangular too: position embeddings are then
    interpolated around the middle token.

    Args:
        config: sizes and rates.

    Source: arXiv 2401.09417, algorithm 1; hustvl/Vim, vim/models_mamba.py (``midclstok``, ``div2`` variants).

    Example:
        >>> model = Vim(VimConfig(img_size=16, patch_size=4, stride=4, depth=2, embed_dim=16, num_classes=10))
        >>> model(torch.zeros(1, 3, 16, 24)).shape
        torch.Size([1, 10])
    """

    output_fmt = "NLC"
    pools = POOLS
    norm_name = "norm_f"
    stem_pattern = r"^cls_token|pos_embed|patch_embed"

    def __init__(self, config: VimConfig) -> None:
        width, depth = config.embed_dim, config.depth
        info = stage_info("layers.{}", [width] * depth, [config.stride] * depth)
        super().__init__(config, num_features=width, feature_info=info)
        self.embed_dim = width
        self.num_prefix_tokens = 0  # the class token is in the middle
        rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + 1, config.embed_dim))
        self.patch_embed = PatchEmbed(
            patch_size=config.patch_size, stride=config.stride, in_chans=config.in_chans, embed_dim=config.embed_dim
        )
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.head = make_head(config.embed_dim, config.num_classes)
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.layers = nn.ModuleList([VimBlock(config, drop_path=rate) for rate in rates])
        self.norm_f = RMSNorm(config.embed_dim, eps=1e-5)
        self._init_weights()

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that the published recipe does not decay (norms and biases are 1-D and go by that)."""
        return {"pos_embed", "cls_token"}

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples stem, positions, class token, blocks and head; the stream has no basis of its own."""
        width, middle = self.embed_dim, _middle(self.pos_embed.shape[1])
        # What the target adds, the position embeddings may take away: at every other position, or at the class token.
        at_token = Slices(axis=2, only=(1, middle))
        elsewhere = {"pos_embed": [Slices(axis=2), at_token._replace(power=-1.0)]}
        found = [
            offset("vim.patch_bias", width, up={"patch_embed.proj.bias": Slices()}, down=elsewhere),
            offset("vim.token_position", width, up={"cls_token": Slices(axis=2)}, down={"pos_embed": at_token}),
        ]
        if not self.num_classes:
            return found
        head = NormReader({"head.weight": COLUMNS}, "norm_f.weight")
        return [*found, *norm_symmetries("vim", self, head), self._rotation(head)]

    def _rotation(self, head: NormReader) -> Symmetry:
        blocks = [f"layers.{i}" for i in range(len(self.layers))]
        writers = {"patch_embed.proj.weight": Slices(), "patch_embed.proj.bias": Slices()}
        writers |= {"cls_token": Slices(axis=2), "pos_embed": Slices(axis=2)}
        writers |= {f"{block}.mixer.out_proj.weight": Slices() for block in blocks}
        readers = [NormReader({f"{block}.mixer.in_proj.weight": COLUMNS}, f"{block}.norm.weight") for block in blocks]
        width = self.embed_dim
        return rotation("vim.rotation", width, writers=writers, readers=[*readers, head], fixes_ones=False)

    def _embed(self, image: Tensor) -> Tensor:
        x_BMD = self.patch_embed(image)
        middle = x_BMD.shape[1] // 2
        token = self.cls_token.expand(image.shape[0], -1, -1).to(x_BMD.dtype)
        x_BLD = torch.cat([x_BMD[:, :middle], token, x_BMD[:, middle:]], dim=1)
        positions = resample_around_middle(self.pos_embed, self.config.grid, self.patch_embed.grid_of(image))
        x_BLD = self.pos_drop(x_BLD + positions)
        # The residual stream stays in float32 when the blocks run in half precision.
        return x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))

    def _normalise(self, x: Tensor) -> Tensor:
        return self.norm_f(x).to(self.norm_f.weight.dtype)

    def _grid(self, x: Tensor, image: Tensor) -> Tensor:
        return drop_middle(x).unflatten(1, self.patch_embed.grid_of(image))

    def _pool(self, x: Tensor) -> Tensor:
        if self.global_pool == "token":
            return x[:, _middle(x.shape[1])]
        return drop_middle(x).mean(1) if self.global_pool == "avg" else x

    @torch.no_grad()
    def _init_weights(self) -> None:
        stem = self.patch_embed.proj
        nn.init.trunc_normal_(stem.weight, std=stem.weight[0].numel() ** -0.5 / 0.87962566103423978)  # LeCun's
        if stem.bias is not None:
            nn.init.zeros_(stem.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        init_linear(self.head)


class VimBlock(nn.Module):
    """Adds a normalised, bidirectionally mixed copy to the stream: ``x + drop_path(mixer(norm(x)))``.

    Args:
        config: the model's.
        drop_path: probability of skipping the block for a sample.

    Shapes:
        [B, L, D] -> [B, L, D].
    """

    def __init__(self, config: VimConfig, *, drop_path: float) -> None:
        super().__init__()
        self.mixer = VimMixer(config)
        self.norm = RMSNorm(config.embed_dim, eps=1e-5)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns the stream after the block."""
        return x_BLD + self.drop_path(self.mixer(self.norm(x_BLD).to(self.norm.weight.dtype)))

    def symmetries(self) -> list[Symmetry]:
        """Declares that a gain of the norm can move into the projection that reads it."""
        return norm_symmetries("vim", self, NormReader({"mixer.in_proj.weight": COLUMNS}, "norm.weight"))


class VimMixer(nn.Module):
    """Scans a sequence in both directions with separate weights, halves the sum, gates it once.

    Args:
        config: the model's.

    Shapes:
        [B, L, D] -> [B, L, D].

    Source: arXiv 2401.09417, algorithm 1; hustvl/Vim, mamba_simple.py, ``bimamba_type="v2"``.
    """

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        inner, states, rank = (
            config.expand * config.embed_dim,
            config.d_state,
            resolve_dt_rank("auto", config.embed_dim),
        )
        self.A_log = nn.Parameter(state_decay_log(inner, states))
        self.D = nn.Parameter(torch.ones(inner))
        self.A_b_log = nn.Parameter(state_decay_log(inner, states))
        self.D_b = nn.Parameter(torch.ones(inner))
        self.in_proj = Linear(config.embed_dim, 2 * inner, bias=False)
        self.conv1d = depthwise_conv1d(inner, config.d_conv)
        self.x_proj = Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = Linear(rank, inner)
        self.conv1d_b = depthwise_conv1d(inner, config.d_conv)
        self.x_proj_b = Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj_b = Linear(rank, inner)
        self.out_proj = Linear(inner, config.embed_dim, bias=False)
        init_dt_proj(self.dt_proj)
        # As published: the backward direction keeps a plain linear layer with bias 0, so its first steps are near 0.7.
        nn.init.zeros_(self.dt_proj_b.bias)
        with torch.no_grad():
            self.out_proj.weight.div_(config.depth**0.5)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns the mixed sequence."""
        # Everything between the projections is [B, E, L] over memory [B, L, E]: neither they nor the scans copy.
        x_BEL, z_BEL = self.in_proj(x_BLD).transpose(1, 2).chunk(2, dim=1)
        x_BEL = cast_for_kernel(x_BEL)
        forwards = selective_branch(
            x_BEL, conv1d=self.conv1d, x_proj=self.x_proj, dt_proj=self.dt_proj, A_log=self.A_log, D=self.D
        )
        backwards = selective_branch(
            x_BEL,
            conv1d=self.conv1d_b,
            x_proj=self.x_proj_b,
            dt_proj=self.dt_proj_b,
            A_log=self.A_b_log,
            D=self.D_b,
            reverse=True,
        )
        return self.out_proj(gated_mean(forwards, backwards, z_BEL).transpose(1, 2))

    def symmetries(self) -> list[Symmetry]:
        """Declares the changes of basis inside the mixer, in each direction."""
        states, rank, inner = self.A_log.shape[1], self.dt_proj.in_features, self.out_proj.in_features
        convs, directions = {"conv1d.weight": 0, "conv1d_b.weight": 0}, {"x_proj": "D", "x_proj_b": "D_b"}
        shared = [
            conv_scale("mamba.conv_scale", inner, convs=convs, in_proj_bias=False),
            output_scale(states, rank, d_inner=inner, directions=directions),
        ]
        return shared + [
            symmetry
            for x_proj, dt_proj in (("x_proj", "dt_proj"), ("x_proj_b", "dt_proj_b"))
            for symmetry in (
                input_output_scale(states, rank, x_proj=x_proj),
                dt_basis(rank, x_proj=x_proj, dt_proj=dt_proj),
            )
        ]


def _middle(tokens: int) -> int:
    return (tokens - 1) // 2


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' file under our names, which are theirs."""
    return dict(state)


def adapt_weights(state: StateDict, source: VimConfig, target: VimConfig) -> StateDict:
    """Fits weights to another number of classes or channels, or another image size or stride.

    A head for other classes is left out (to be initialised afresh), the stem is summed for one channel or repeated,
    position embeddings are interpolated around the middle token.
    """
    state = fit_head_and_stem(state, source, target, head="head.", stem="patch_embed.proj.weight")
    rows, columns = target.grid
    if source.grid != target.grid and state["pos_embed"].shape[1] != rows * columns + 1:
        state["pos_embed"] = resample_around_middle(state["pos_embed"], source.grid, target.grid)
    return state


def _hustvl(repository: str, filename: str) -> dict[str, PretrainedCfg]:
    published = dataclasses.replace(
        IMAGENET,
        license="apache-2.0",
        dataset="imagenet-1k",
        source="https://arxiv.org/abs/2401.09417",
        hub_id=f"hustvl/{repository}",
        filename=filename,
    )
    return {"hustvl_in1k": published}


_VARIANTS = {
    "vim_tiny_patch16_224": (VimConfig(), _hustvl("Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth")),
    "vim_tiny_patch16_stride8_224": (
        VimConfig(stride=8),
        _hustvl("Vim-tiny-midclstok", "vim_t_midclstok_ft_78p3acc.pth"),
    ),
    "vim_small_patch16_224": (
        VimConfig(embed_dim=384),
        _hustvl("Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth"),
    ),
    "vim_small_patch16_stride8_224": (
        VimConfig(embed_dim=384, stride=8),
        _hustvl("Vim-small-midclstok", "vim_s_midclstok_ft_81p6acc.pth"),
    ),
    "vim_base_patch16_224": (VimConfig(embed_dim=768), _hustvl("Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth")),
    "vim_nano_patch4_32": (VimConfig(img_size=32, patch_size=4, stride=4, num_classes=10, depth=12, embed_dim=64), {}),
    "vim_micro_patch4_32": (VimConfig(img_size=32, patch_size=4, stride=4, num_classes=10, depth=8, embed_dim=128), {}),
}

for _name, (_config, _weights) in _VARIANTS.items():
    register_model(
        ModelSpec(
            name=_name,
            family="vim",
            task=Vim.task,
            config=_config,
            build=Vim,
            paper="2401.09417",
            weights=_weights,
            remap_keys=remap_keys,
            adapt_weights=adapt_weights,
        )
    )
