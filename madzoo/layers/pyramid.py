"""Stems and downsampling of pyramids over channel-last grids, with the published names of their parts.

B batch, C image channels, H height, W width, D channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.layers.linear import Linear

__all__ = ["ChannelsFirst", "ChannelsLast", "PatchMerging", "chosen_stages", "downsample", "patch_stem"]


class ChannelsFirst(nn.Module):
    """Shows a grid [B, H, W, D] as [B, D, H, W]; a module, because the published names count it."""

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the view."""
        return x_BHWD.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """Shows a grid [B, D, H, W] as [B, H, W, D]."""

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Returns the view."""
        return x_BDHW.permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """Lays 2 x 2 tokens side by side and projects them to twice their width; odd sides are padded with zeros.

    The first release of VMamba left the last row or column of an odd side out; its current code pads, as here.

    Args:
        width: D.

    Shapes:
        [B, H, W, D] -> [B, ceil(H/2), ceil(W/2), 2 D].

    Source: arXiv 2103.14030, section 3.1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Returns the merged grid."""
        height, width = x_BHWD.shape[1:3]
        if height % 2 or width % 2:
            x_BHWD = F.pad(x_BHWD, (0, 0, 0, width % 2, 0, height % 2))
        corners = [x_BHWD[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


def patch_stem(kind: str, *, in_chans: int, width: int, patch_size: int) -> nn.Sequential:
    """Returns a stem that makes patches of an image.

    Args:
        kind: ``"v1"`` (one convolution as wide as a patch) or ``"v2"`` (two overlapping ones, each halving the rest).
        in_chans: C.
        width: D, even for ``"v2"``.
        patch_size: in pixels, even for ``"v2"``.

    Shapes:
        [B, C, height, width] -> [B, H, W, D].

    Raises:
        ConfigError: on an unknown kind.

    Source: MzeroMiko/VMamba, ``patchembed_version``.
    """
    if kind == "v1":
        conv = nn.Conv2d(in_chans, width, patch_size, stride=patch_size)
        return nn.Sequential(conv, ChannelsLast(), nn.LayerNorm(width))
    if kind != "v2":
        raise ConfigError(f"no stem is named {kind!r}.", asked=kind, looked="'v1', 'v2'")
    half, stride = width // 2, patch_size // 2
    first, second = (
        nn.Conv2d(old, new, stride + 1, stride=stride, padding=1) for old, new in ((in_chans, half), (half, width))
    )
    between = [ChannelsLast(), nn.LayerNorm(half), ChannelsFirst(), nn.GELU()]
    return nn.Sequential(first, *between, second, ChannelsLast(), nn.LayerNorm(width))


def downsample(kind: str, width: int) -> nn.Module:
    """Returns what leads from one stage to the next: half the grid, twice the width.

    Args:
        kind: ``"v1"`` (:class:`PatchMerging`), ``"v2"`` (a 2 x 2 convolution, norm) or ``"v3"`` (an overlapping 3 x 3
            one).
        width: D.

    Shapes:
        [B, H, W, D] -> [B, H', W', 2 D]; a side n becomes ceil(n/2), for ``"v2"`` floor(n/2).

    Raises:
        ConfigError: on an unknown kind.

    Source: MzeroMiko/VMamba, ``downsample_version``.
    """
    if kind == "v1":
        return PatchMerging(width)
    if kind not in ("v2", "v3"):
        raise ConfigError(f"no downsampling is named {kind!r}.", asked=kind, looked="'v1', 'v2', 'v3'")
    side, padding = (2, 0) if kind == "v2" else (3, 1)
    conv = nn.Conv2d(width, 2 * width, side, stride=2, padding=padding)
    return nn.Sequential(ChannelsFirst(), conv, ChannelsLast(), nn.LayerNorm(2 * width))


def chosen_stages(indices: int | list[int] | tuple[int, ...] | None, stages: int) -> list[int]:
    """Returns the numbers of the stages that timm's ``indices`` ask for: the last so many, those named, or all.

    Raises:
        ConfigError: when there are no such stages.
    """
    wanted = range(stages - indices, stages) if isinstance(indices, int) else indices
    chosen = sorted({i + stages if i < 0 else i for i in (range(stages) if wanted is None else wanted)})
    too_many = isinstance(indices, int) and not 0 < indices <= stages
    if too_many or not chosen or chosen[0] < 0 or chosen[-1] >= stages:
        raise ConfigError("no such stages.", asked=indices, looked=f"stages 0 ... {stages - 1}")
    return chosen
