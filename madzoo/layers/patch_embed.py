"""From image to tokens: a strided convolution, and position embeddings that follow the image's size.

Axes: B batch, C image channels, D token width, M tokens, (h, w) their grid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ShapeError

__all__ = ["PatchEmbed", "drop_middle", "patch_grid", "resample_around_middle", "resample_positions"]


class PatchEmbed(nn.Module):
    """Cuts an image into patches (overlapping where stride < patch_size) and projects each to a token, row by row.

    Args:
        patch_size: height and width of a patch, in pixels.
        stride: distance between patches.
        in_chans: image channels.
        embed_dim: token width D.

    Source: arXiv 2010.11929 (ViT), section 3.1; parameter names of Vim's ``PatchEmbed``.

    Example:
        >>> PatchEmbed(patch_size=4, stride=4, in_chans=3, embed_dim=8)(torch.zeros(1, 3, 16, 24)).shape
        torch.Size([1, 24, 8])
    """

    def __init__(self, *, patch_size: int, stride: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size, self.stride, self.in_chans = patch_size, stride, in_chans
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride)

    def forward(self, image: Tensor) -> Tensor:
        """Maps images to tokens.

        Shapes:
            image [B, C, height, width] -> [B, M, D].

        Raises:
            ShapeError: when the channels differ, or the patches do not tile the image exactly.
        """
        if image.dim() != 4 or image.shape[1] != self.in_chans:
            raise ShapeError("not a batch of images.", asked=list(image.shape), todo=f"[B, {self.in_chans}, H, W]")
        self.grid_of(image)
        return self.proj(image).flatten(2).transpose(1, 2)

    def grid_of(self, image: Tensor) -> tuple[int, int]:
        """Returns the rows and columns of tokens that the image gives.

        Raises:
            ShapeError: when the patches do not tile the image exactly.
        """
        height, width = image.shape[-2:]
        return patch_grid((height, width), patch_size=self.patch_size, stride=self.stride)


def patch_grid(size: tuple[int, int], *, patch_size: int, stride: int) -> tuple[int, int]:
    """Returns the rows and columns of patches in an image of ``size`` (height, width).

    Raises:
        ShapeError: when the patches do not tile the image exactly (no pixel is dropped in silence).

    Example:
        >>> patch_grid((224, 320), patch_size=16, stride=16)
        (14, 20)
    """
    if any(side < patch_size or (side - patch_size) % stride for side in size):
        fitting = [patch_size + max(0, round((side - patch_size) / stride)) * stride for side in size]
        raise ShapeError(
            f"patches of {patch_size} pixels at stride {stride} do not tile the image.",
            asked=f"{size[0]} x {size[1]} pixels",
            todo=f"resize or pad to {fitting[0]} x {fitting[1]}",
        )
    rows, columns = ((side - patch_size) // stride + 1 for side in size)
    return rows, columns


def resample_positions(positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Interpolates a grid of position embeddings bicubically to another grid.

    Shapes:
        positions [1, h * w, D] for the old (h, w) -> [1, h * w, D] for the new.

    Source: DeiT's fine-tuning at other resolutions, arXiv 2012.12877, section 2 (no antialiasing).
    """
    if old_grid == new_grid:
        return positions
    wide = positions.to(torch.promote_types(positions.dtype, torch.float32))
    grid_1Dhw = wide.transpose(1, 2).unflatten(2, old_grid)
    grid_1Dhw = F.interpolate(grid_1Dhw, size=new_grid, mode="bicubic", align_corners=False)
    return grid_1Dhw.flatten(2).transpose(1, 2).to(positions.dtype)


def resample_around_middle(positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Interpolates position embeddings with a class token in their middle, which moves to the new middle unchanged.

    Shapes:
        positions [1, h * w + 1, D] for the old (h, w) -> [1, h * w + 1, D] for the new.
    """
    if old_grid == new_grid:
        return positions
    token = positions[:, (positions.shape[1] - 1) // 2].unsqueeze(1)
    patches = resample_positions(drop_middle(positions), old_grid, new_grid)
    middle = patches.shape[1] // 2
    return torch.cat([patches[:, :middle], token, patches[:, middle:]], dim=1)


def drop_middle(x: Tensor) -> Tensor:
    """Removes the class token that stands in the middle of a sequence.

    Shapes:
        [B, M + 1, D] -> [B, M, D].
    """
    middle = (x.shape[1] - 1) // 2
    return torch.cat([x[:, :middle], x[:, middle + 1 :]], dim=1)
