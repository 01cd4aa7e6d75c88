"""Rotation of a state's pairs of components by angles that add up along a sequence: a complex state in real numbers.

B batch, L length, H heads, N states, S rotated pairs, ``...`` any axes.
"""

import math

import torch
from torch import Tensor

from madzoo.errors import ShapeError

__all__ = ["accumulate_angles", "rotate_pairs"]


def rotate_pairs(x: Tensor, angle: Tensor) -> Tensor:
    """Turns the first S pairs of components ``(2s, 2s + 1)`` by their angles and leaves the others.

    A product ``rotate(B, a) . rotate(C, b)`` depends on ``a - b`` alone. So a scan whose state turns by an angle at
    every step is a scan whose state does not turn, of vectors that were turned by the sums of the angles.

    Shapes:
        x [..., N], angle [..., S] with 2 S <= N -> [..., N].

    Raises:
        ShapeError: when there are more angles than pairs.

    Source: arXiv 2603.15569 (Mamba-3), the data-dependent rotary embedding; arXiv 2104.09864, equation 34.

    Example:
        >>> rotate_pairs(torch.tensor([1.0, 0.0, 5.0]), torch.tensor([math.pi / 2])).round().abs()
        tensor([0., 1., 5.])
    """
    turned = 2 * angle.shape[-1]
    if turned > x.shape[-1]:
        raise ShapeError("rotate_pairs: more angles than pairs.", asked=f"{list(x.shape)} and {list(angle.shape)}")
    first, second = x[..., :turned:2], x[..., 1:turned:2]
    cos, sin = torch.cos(angle), torch.sin(angle)
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    return pairs if turned == x.shape[-1] else torch.cat([pairs, x[..., turned:]], dim=-1)


def accumulate_angles(turns: Tensor, initial: Tensor | None = None) -> Tensor:
    """Adds up the turns of a sequence, modulo a full turn.

    Args:
        turns: the angle by which each position turns.
        initial: the angle before the first position; zero by default.

    Shapes:
        turns [B, L, ...], initial [B, ...] -> [B, L, ...], in [0, 2 pi).

    Source: arXiv 2603.15569 (Mamba-3).
    """
    # A float32 sum of thousands of turns would leave three digits to the angle; devices of Apple have no float64.
    wide = turns.dtype if turns.device.type == "mps" else torch.float64
    total = turns.cumsum(1, dtype=wide)
    total = total if initial is None else total + initial.unsqueeze(1)
    return torch.remainder(total, 2 * math.pi).to(turns.dtype)
