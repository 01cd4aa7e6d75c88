"""The levels a tensor may take: codes, scales, and which elements share a scale.

Legend: b bits, c integer code, s scale, z zero point, q = 2^(b-1) - 1; R rows (elements that share a scale), W width.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import ConfigError, ShapeError, check_choice

__all__ = [
    "KINDS",
    "Grid",
    "from_codes",
    "from_rows",
    "nearest_level",
    "round_to_grid",
    "spread",
    "to_codes",
    "to_rows",
]

KINDS = ("uniform", "ternary", "power_of_two")
MAX_BITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """States the levels of a tensor, relative to a scale s, and which of its elements share one.

    ============ ========= =================== ===================================
    kind         bits      codes c             value
    ============ ========= =================== ===================================
    uniform      2 to 8    -q to q             s c
    uniform      1         -1, 1               s c (zero goes to 1)
    affine       1 to 8    0 to 2^b - 1        s (c - z); ``symmetric=False``
    ternary      2         -1, 0, 1            s c
    power_of_two 2 to 8    -q to q             s sign(c) 2^(abs(c) - q), 0 for c = 0
    ============ ========= =================== ===================================

    Attributes:
        bits: stored per code.
        kind: one of :data:`KINDS`.
        symmetric: False for affine levels, of kind uniform only.
        axis: one scale per slice of this axis; None: one for the whole tensor.
        group_size: one scale per so many consecutive elements of a slice, the last group may be shorter.
    """

    bits: int
    kind: str = "uniform"
    symmetric: bool = True
    axis: int | None = 0
    group_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("kind of grid", self.kind, list(KINDS))
        lowest = 1 if self.kind == "uniform" else 2
        highest = 2 if self.kind == "ternary" else MAX_BITS
        if not _is_integer(self.bits) or not lowest <= self.bits <= highest:
            raise ConfigError(f"a {self.kind} grid has {lowest} to {highest} bits.", asked=f"bits={self.bits!r}")
        if not self.symmetric and self.kind != "uniform":
            raise ConfigError("only a uniform grid can be affine.", asked=f"{self.kind}, symmetric=False")
        if self.axis is not None and not _is_integer(self.axis):
            raise ConfigError("an axis is an integer, or None.", asked=f"axis={self.axis!r}")
        if self.group_size is not None and (not _is_integer(self.group_size) or self.group_size < 1):
            raise ConfigError("a group has at least one element.", asked=f"group_size={self.group_size!r}")

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        if not self.symmetric:
            return 2**self.bits - 1
        return max(2 ** (self.bits - 1) - 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def to_rows(w: Tensor, grid: Grid, *, fill: float = 0.0) -> Tensor:
    """Lays a real tensor out with one row per scale; a last group that is shorter is filled up.

    Shapes:
        w [...] -> [R, W].

    Raises:
        ShapeError: when the grid's axis is none of the tensor's.
    """
    if w.ndim == 0 or grid.axis is None:
        flat = w.reshape(1, -1)
    else:
        if not -w.ndim <= grid.axis < w.ndim:
            raise ShapeError("the grid's axis is none of the tensor's.", asked=f"axis={grid.axis} of {tuple(w.shape)}")
        flat = w.movedim(grid.axis, 0).reshape(w.shape[grid.axis], w.numel() // max(w.shape[grid.axis], 1))
    if grid.group_size is None:
        return flat
    missing = -flat.shape[1] % grid.group_size
    return torch.nn.functional.pad(flat, (0, missing), value=fill).reshape(-1, grid.group_size)


def from_rows(rows: Tensor, like: Tensor, grid: Grid) -> Tensor:
    """Undoes :func:`to_rows`.

    Shapes:
        rows [R, W] -> the shape of ``like``.
    """
    if like.ndim == 0 or grid.axis is None:
        return rows.reshape(-1)[: like.numel()].reshape(like.shape)
    if like.numel() == 0:
        return rows.reshape(-1)[:0].reshape(like.shape)  # still of the graph that rows belong to
    moved = like.movedim(grid.axis, 0)
    flat = rows.reshape(len(moved), -1)[:, : moved[0].numel()]
    # Dense, whatever was filled up: products with a weight that is a part of a larger tensor can be very slow.
    return flat.reshape(moved.shape).movedim(0, grid.axis).contiguous()


def spread(values: Tensor, like: Tensor, grid: Grid) -> Tensor:
    """Gives every element the value of its row.

    Shapes:
        values [R, 1] -> the shape of ``like``.
    """
    return from_rows(values.expand(to_rows(like.detach(), grid).shape), like, grid)


def to_codes(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Returns the code of the nearest level; ties go to the even code, of powers of two to the larger one.

    Shapes:
        w [...] real; scale, zero_point [R, 1] -> int16, the shape of w.
    """
    x = to_rows(w.to(scale.dtype), grid) / scale
    if grid.kind == "power_of_two":
        codes = _power_codes(x, grid.highest)
    elif grid.bits == 1 and grid.symmetric:
        codes = torch.where(x >= 0, 1.0, -1.0)
    else:
        codes = (x.round() if zero_point is None else x.round() + zero_point).clamp(grid.lowest, grid.highest)
    return from_rows(codes.to(torch.int16), w, grid)


def from_codes(codes: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Returns the levels of codes, in the scale's dtype.

    Shapes:
        codes [...]; scale, zero_point [R, 1] -> the shape of codes.
    """
    c = to_rows(codes, grid).to(scale.dtype)
    if grid.kind == "power_of_two":
        c = c.sign() * torch.exp2(c.abs() - grid.highest)
    elif zero_point is not None:
        c = c - zero_point
    return from_rows(c * scale, codes, grid)


def round_to_grid(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Moves every element to its nearest level.

    Shapes:
        w [...] real; scale, zero_point [R, 1] -> the shape and dtype of w.

    Example:
        >>> grid = Grid(bits=2, axis=None)
        >>> round_to_grid(torch.tensor([0.4, -0.6, 3.0]), grid, torch.tensor([[1.0]]))
        tensor([ 0., -1.,  1.])
    """
    x = to_rows(w.to(scale.dtype), grid) / scale
    # Adding zero makes +0 of -0, so that the result is that of the codes to the bit.
    return from_rows(nearest_level(x, grid, zero_point) * scale + 0.0, w, grid).to(w.dtype)


def nearest_level(x: Tensor, grid: Grid, zero_point: Tensor | None = None) -> Tensor:
    """Returns the level nearest to values that are given in units of the scale, in these units.

    Shapes:
        x [R, W], zero_point [R, 1] -> [R, W].
    """
    if grid.kind == "power_of_two":
        codes = _power_codes(x, grid.highest)
        return codes.sign() * torch.exp2(codes.abs() - grid.highest)
    if grid.bits == 1 and grid.symmetric:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    if zero_point is None:
        return x.round().clamp(grid.lowest, grid.highest)
    return (x.round() + zero_point).clamp(grid.lowest, grid.highest) - zero_point


def _power_codes(x: Tensor, highest: int) -> Tensor:
    """Codes of the nearest of 0, +-2^(1 - q), ..., +-1: between two powers the midpoint divides."""
    levels = torch.cat([x.new_zeros(1), torch.exp2(torch.arange(1, highest + 1, device=x.device) - highest).to(x)])
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(x.abs().contiguous(), middles, right=True).to(x.dtype) * x.sign()


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
