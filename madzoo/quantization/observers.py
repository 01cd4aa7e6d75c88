"""Scales from data: the largest value, a percentile, or the least squared error of rounding."""

from collections.abc import Callable

import torch
from torch import Tensor

from madzoo.errors import DataError, check_choice
from madzoo.quantization.grid import Grid, from_codes, to_codes, to_rows

__all__ = ["OBSERVERS", "find_scale"]

PERCENTILE = 0.999
SHRINKS = 80  # candidates of the squared-error search, from the whole range down to a fifth of it
Limits = tuple[Tensor, Tensor]


def find_scale(w: Tensor, grid: Grid, *, observer: str = "min_max") -> tuple[Tensor, Tensor | None]:
    """Chooses the scale of each row of a tensor, and its zero point where the grid is affine.

    Args:
        w: a real tensor.
        grid: its levels.
        observer: ``"min_max"`` (nothing is clipped), ``"percentile"`` (the range ends at the 99.9th percentile of a
            row, between two elements interpolated; a row whose percentile is zero keeps its whole range) or
            ``"mse"`` (the shrink of the range, of 80, with the least squared error; for one bit the exact minimum).

    Shapes:
        w [...] -> scale [R, 1] in the dtype of w (float32 at least), zero_point [R, 1] or None.

    Raises:
        ConfigError: on an unknown observer.
        DataError: when w holds NaN or infinity, or values so large that their range overflows.
    """
    check_choice("observer", observer, list(OBSERVERS))
    if not w.isfinite().all():
        raise DataError("a tensor with NaN or infinity has no scale.", asked=tuple(w.shape))
    rows = to_rows(w.detach().to(torch.promote_types(w.dtype, torch.float32)), grid, fill=torch.nan)
    if rows.numel() == 0:
        return rows.new_ones(len(rows), 1), None if grid.symmetric else rows.new_zeros(len(rows), 1)
    scale, zero_point = OBSERVERS[observer](rows, grid)
    if not scale.isfinite().all():
        raise DataError("the range of the values overflows.", asked=f"{tuple(w.shape)} in {w.dtype}")
    return scale, zero_point


def _min_max(rows: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    return _scale_of(_range(rows), grid)


def _percentile(rows: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    low, high = _range(rows)
    if grid.symmetric:
        reach = rows.abs().nanquantile(PERCENTILE, dim=1, keepdim=True)
        reach = torch.where(reach > 0, reach, torch.maximum(-low, high))
        return _scale_of((-reach, reach), grid)
    ends = (rows.nanquantile(q, dim=1, keepdim=True) for q in (1 - PERCENTILE, PERCENTILE))
    least, most = next(ends).clamp(max=0), next(ends).clamp(min=0)
    empty = least == most
    return _scale_of((torch.where(empty, low, least), torch.where(empty, high, most)), grid)


def _least_squares(rows: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    if grid.bits == 1 and grid.symmetric:
        mean = rows.abs().nanmean(1, keepdim=True)
        return torch.where(mean > 0, mean, torch.ones_like(mean)), None
    limits = _range(rows)
    best, best_error = _scale_of(limits, grid), rows.new_full((len(rows), 1), torch.inf)
    by_row = Grid(bits=grid.bits, kind=grid.kind, symmetric=grid.symmetric, axis=0)
    values = rows.nan_to_num(0.0)
    for step in range(SHRINKS):
        shrink = 1 - 0.8 * step / (SHRINKS - 1)
        scale, zero = _scale_of((limits[0] * shrink, limits[1] * shrink), grid)
        rounded = from_codes(to_codes(values, by_row, scale, zero), by_row, scale, zero)
        error = (rounded - rows).square().nansum(1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        zero_point = None if zero is None or best[1] is None else torch.where(better, zero, best[1])
        best = torch.where(better, scale, best[0]), zero_point
    return best


def _range(rows: Tensor) -> Limits:
    """The smallest and largest value of each row, zero between them: zero stays a level."""
    low, high = torch.nan_to_num(rows, nan=0.0).aminmax(dim=1, keepdim=True)
    return low.clamp(max=0), high.clamp(min=0)


def _scale_of(limits: Limits, grid: Grid) -> tuple[Tensor, Tensor | None]:
    low, high = limits
    if grid.symmetric:
        reach = torch.maximum(-low, high)
        # The largest power of two is the scale itself; of even levels the largest is q scales away.
        scale = reach if grid.kind == "power_of_two" else reach / grid.highest
        return torch.where(scale > 0, scale, torch.ones_like(scale)), None
    scale = (high - low) / grid.highest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, (-low / scale).round().clamp(grid.lowest, grid.highest)


OBSERVERS: dict[str, Callable[[Tensor, Grid], tuple[Tensor, Tensor | None]]] = {
    "min_max": _min_max,
    "percentile": _percentile,
    "mse": _least_squares,
}
