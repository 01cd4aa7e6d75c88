"""Vision Mamba (Vim): an image as a sequence of patches, read forwards and backwards by selective scans.

A class token stands in the middle of the sequence, where both directions have seen half the image when they meet it.
Parameter names are those of hustvl/Vim, so its checkpoints load as they are.

Axes: B batch, C image channels, M patches, L = M + 1 tokens, D embed_dim, E d_inner = expand * D, N d_state.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from madzoo.errors import ConfigError, nearest
from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import depthwise_conv1d, init_dt_proj, resolve_dt_rank, selective_branch, state_decay_log
from madzoo.layers.mamba_symmetries import conv_scale, dt_basis, gain_scale, input_output_scale
from madzoo.layers.norms import RMSNorm
from madzoo.layers.patch_embed import PatchEmbed, drop_middle, patch_grid, resample_around_middle
from madzoo.layers.stem_channels import adapt_stem_weight
from madzoo.ops.causal_conv1d import cast_for_kernel
from madzoo.ops.gated_mean import gated_mean
from madzoo.registry import MAX_DEPTH, ModelSpec, PretrainedCfg, register_model
from madzoo.symmetry import Parameters, Symmetry

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
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
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
        _check_pool(self.global_pool)
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


class Vim(nn.Module):
    """Classifies images by bidirectional selective scans over their patches; speaks timm's model protocol.

    Any image whose sides the patches tile is accepted at call time, rectangular too: position embeddings are then
    interpolated around the middle token.

    Args:
        config: sizes and rates.

    Attributes:
        pretrained_cfg: how inputs are prepared and where weights are, timm's dict; None until weights are chosen.
        feature_info: width and reduction of the features after each block.

    Source: arXiv 2401.09417, algorithm 1; hustvl/Vim, vim/models_mamba.py (``midclstok``, ``div2`` variants).

    Example:
        >>> model = Vim(VimConfig(img_size=16, patch_size=4, stride=4, depth=2, embed_dim=16, num_classes=10))
        >>> model(torch.zeros(1, 3, 16, 24)).shape
        torch.Size([1, 10])
    """

    task = "image-classification"

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes, self.global_pool = config.num_classes, config.global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = config.embed_dim
        self.num_prefix_tokens = 0  # the class token is in the middle
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] | None = None
        self.feature_info = [
            {"module": f"layers.{i}", "num_chs": config.embed_dim, "reduction": config.stride}
            for i in range(config.depth)
        ]
        rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + 1, config.embed_dim))
        self.patch_embed = PatchEmbed(
            patch_size=config.patch_size, stride=config.stride, in_chans=config.in_chans, embed_dim=config.embed_dim
        )
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.head = _head(config.embed_dim, config.num_classes)
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.layers = nn.ModuleList([VimBlock(config, drop_path=rate) for rate in rates])
        self.norm_f = RMSNorm(config.embed_dim, eps=1e-5)
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Classifies images.

        Shapes:
            x [B, C, height, width] -> logits [B, num_classes].

        Raises:
            ShapeError: when the channels differ or the patches do not tile the image.

        Cost: O(M) in the number of patches.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the normalised tokens in reading order, the class token at position M // 2.

        Shapes:
            x [B, C, height, width] -> [B, M + 1, D].

        Raises:
            ShapeError: see :meth:`forward`.
        """
        x_BLD = self._embed(x)
        for layer in self.layers:
            x_BLD = self._run(layer, x_BLD)
        return self.norm_f(x_BLD).to(self.norm_f.weight.dtype)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools tokens and classifies them.

        Args:
            x: the output of :meth:`forward_features`.
            pre_logits: return the pooled features instead of the logits.

        Shapes:
            x [B, M + 1, D] -> [B, num_classes], or [B, D] with pre_logits; a pool of ``""`` keeps every token.
        """
        if self.global_pool == "token":
            x = x[:, _middle(x.shape[1])]
        elif self.global_pool == "avg":
            x = drop_middle(x).mean(1)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Returns the patch features after chosen blocks, and the final tokens (timm's signature).

        Args:
            x: images.
            indices: which blocks; n for the last n, None for all.
            norm: normalise the features as the last ones are.
            stop_early: skip the blocks after the last chosen one.
            output_fmt: ``"NCHW"`` for grids [B, D, h, w], ``"NLC"`` for sequences [B, M, D].
            intermediates_only: leave out the final tokens.

        Raises:
            ShapeError: see :meth:`forward`.
            ConfigError: on a block that does not exist, or an unknown format.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"unknown format {output_fmt!r}.", asked=output_fmt, looked="NCHW, NLC")
        chosen = self._chosen_blocks(indices)
        grid, x_BLD, found = self.patch_embed.grid_of(x), self._embed(x), []
        for i, layer in enumerate(self.layers[: max(chosen) + 1] if stop_early else self.layers):
            x_BLD = self._run(layer, x_BLD)
            if i in chosen:
                y_BMD = drop_middle(self.norm_f(x_BLD) if norm else x_BLD)
                found.append(y_BMD.transpose(1, 2).unflatten(2, grid) if output_fmt == "NCHW" else y_BMD)
        return found if intermediates_only else (self.norm_f(x_BLD), found)

    def get_classifier(self) -> nn.Module:
        """Returns the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head by a fresh one.

        Args:
            num_classes: outputs; 0 for features.
            global_pool: a new way of pooling, or None to keep it.

        Raises:
            ConfigError: on an unknown pool or a negative number.
        """
        pool = self.global_pool if global_pool is None else global_pool
        self.config = dataclasses.replace(self.config, num_classes=num_classes, global_pool=pool)
        self.num_classes, self.global_pool = num_classes, pool
        self.head = _head(self.embed_dim, num_classes).to(self.norm_f.weight)
        _init_head(self.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that the published recipe does not decay (norms and biases are 1-D and go by that)."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's description of the layers, for layer-wise learning rates."""
        blocks = r"^layers\.(\d+)"
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": blocks if coarse else [(blocks, None), (r"^norm_f", (99999,))],
        }

    def symmetries(self) -> list[Symmetry]:
        """Declares what couples stem, positions, class token and head."""
        found = [
            _shift_positions("vim.patch_bias", "patch_embed.proj.bias", width=self.embed_dim, of_token=False),
            _shift_positions("vim.token_position", "cls_token", width=self.embed_dim, of_token=True),
        ]
        return found + ([gain_scale("norm_f.weight", "head.weight", self.embed_dim)] if self.num_classes else [])

    def _embed(self, image: Tensor) -> Tensor:
        x_BMD = self.patch_embed(image)
        middle = x_BMD.shape[1] // 2
        token = self.cls_token.expand(image.shape[0], -1, -1).to(x_BMD.dtype)
        x_BLD = torch.cat([x_BMD[:, :middle], token, x_BMD[:, middle:]], dim=1)
        positions = resample_around_middle(self.pos_embed, self.config.grid, self.patch_embed.grid_of(image))
        x_BLD = self.pos_drop(x_BLD + positions)
        # The residual stream stays in float32 when the blocks run in half precision.
        return x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))

    def _run(self, layer: nn.Module, x_BLD: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, x_BLD, use_reentrant=False)
        return layer(x_BLD)

    def _chosen_blocks(self, indices: int | list[int] | tuple[int, ...] | None) -> list[int]:
        depth = len(self.layers)
        if isinstance(indices, int):
            chosen = list(range(depth - indices, depth))
        else:
            wanted = range(depth) if indices is None else indices
            chosen = sorted({i + depth if i < 0 else i for i in wanted})
        if not chosen or chosen[0] < 0 or chosen[-1] >= depth:
            raise ConfigError("no such blocks.", asked=indices, looked=f"blocks 0 ... {depth - 1}")
        return chosen

    @torch.no_grad()
    def _init_weights(self) -> None:
        stem = self.patch_embed.proj
        nn.init.trunc_normal_(stem.weight, std=stem.weight[0].numel() ** -0.5 / 0.87962566103423978)  # LeCun's
        if stem.bias is not None:
            nn.init.zeros_(stem.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        _init_head(self.head)


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
        return [gain_scale("norm.weight", "mixer.in_proj.weight", len(self.norm.weight))]


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
        states, rank = self.A_log.shape[1], self.dt_proj.in_features
        shared = conv_scale(self.out_proj.in_features, convs=("conv1d", "conv1d_b"))
        return [shared] + [
            symmetry
            for x_proj, dt_proj in (("x_proj", "dt_proj"), ("x_proj_b", "dt_proj_b"))
            for symmetry in (
                input_output_scale(states, rank, x_proj=x_proj),
                dt_basis(rank, x_proj=x_proj, dt_proj=dt_proj),
            )
        ]


def _check_pool(pool: str) -> None:
    if pool not in POOLS:
        looked = ", ".join(map(repr, POOLS))
        raise ConfigError(f"no global_pool is named {pool!r}.", asked=pool, looked=looked, todo=nearest(pool, POOLS))


def _head(width: int, num_classes: int) -> nn.Module:
    return Linear(width, num_classes) if num_classes else nn.Identity()


def _init_head(head: nn.Module) -> None:
    if isinstance(head, nn.Linear):
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)


def _middle(tokens: int) -> int:
    return (tokens - 1) // 2


def _shift_positions(name: str, target: str, *, width: int, of_token: bool) -> Symmetry:
    # What the target adds, the position embeddings may take away: at the class token, or at every other position.
    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        middle = _middle(params["pos_embed"].shape[1])
        for channel in range(width):
            added, taken = torch.zeros_like(params[target]), torch.zeros_like(params["pos_embed"])
            added[..., channel], taken[..., channel] = 1, 0 if of_token else -1
            taken[:, middle, channel] = -1 if of_token else 0
            yield {target: added, "pos_embed": taken}

    return Symmetry(name=name, dimension=width, generators=generators)


def remap_keys(state: StateDict) -> StateDict:
    """Returns the state dict of the authors' file under our names, which are theirs."""
    return dict(state)


def adapt_weights(state: StateDict, source: VimConfig, target: VimConfig) -> StateDict:
    """Fits weights to another number of classes or channels, or another image size or stride.

    A head for other classes is left out (to be initialised afresh), the stem is summed for one channel or repeated,
    position embeddings are interpolated around the middle token.
    """
    state = dict(state)
    if source.num_classes != target.num_classes:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    stem = "patch_embed.proj.weight"
    if source.in_chans != target.in_chans:
        state[stem] = adapt_stem_weight(state[stem], target.in_chans)
    if source.grid != target.grid:
        state["pos_embed"] = resample_around_middle(state["pos_embed"], source.grid, target.grid)
    return state


def _hustvl(repository: str, filename: str) -> dict[str, PretrainedCfg]:
    published = PretrainedCfg(
        license="apache-2.0",
        dataset="imagenet-1k",
        source="https://arxiv.org/abs/2401.09417",
        hub_id=f"hustvl/{repository}",
        filename=filename,
        input_size=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=0.875,
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
