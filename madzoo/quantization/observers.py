"""Scales from data: the largest value, a percentile, or the least squared error of rounding."""

from collections.abc import Callable

import torch
from torch import Tensor

from madzoo.errors import DataError, check_choice
from madzoo.quantization.grid import Grid, from_codes, to_codes, to_rows

__all__ = ["OBSERVERS", "find_scale", "first_scale"]

PERCENTILE = 0.999
SHRINKS = 80  # candidates of the squared-error search, from the whole range down to a fifth of it
Limits = tuple[Tensor, Tensor]


def find_scale(w: Tensor, grid: Grid, *, observer: str = "min_max") -> tuple[Tensor, Tensor | None]:
    """Chooses the scale of each row of a tensor, and its zero point where the grid is affine.

    A row of zeros stays zero: its scale is 1. Of one bit, which has no level 0, its scale is the smallest normal number
    of the scale's dtype, 1.2e-38 in float32, so that the row is as near to zero as its levels can be.

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


def first_scale(w: Tensor, grid: Grid, *, observer: str = "min_max") -> tuple[Tensor, Tensor | None]:
    """Chooses scales that training starts from: :func:`find_scale`'s, and for rows of zeros one they can grow in.

    A row of zeros says nothing of how large it will be. It takes the median scale of the tensor's other rows; where all
    are zero, levels that reach ``1 / sqrt(W)`` (W elements of a row), as a linear map of W inputs starts. Its affine
    zero point is the middle code.

    Shapes:
        w [...] -> scale [R, 1], zero_point [R, 1] or None.

    Raises:
        ConfigError, DataError: see :func:`find_scale`.

    Example:
        >>> w = torch.tensor([[0.3, -0.6], [0.0, 0.0], [0.9, 0.0]])
        >>> first_scale(w, Grid(bits=3))[0].squeeze(1)
        tensor([0.2000, 0.2000, 0.3000])
    """
    scale, zero_point = find_scale(w, grid, observer=observer)
    rows = to_rows(w.detach(), grid)
    empty = (rows == 0).all(1, keepdim=True)
    if rows.numel() == 0 or not empty.any():
        return scale, zero_point
    middle = grid.highest // 2 if zero_point is not None else 0
    reach = 1.0 if grid.kind == "power_of_two" else float(grid.highest - middle)
    fresh = scale.new_tensor(rows.shape[1] ** -0.5 / reach) if empty.all() else scale[~empty].median()
    zero_point = None if zero_point is None else torch.where(empty, float(middle), zero_point)
    return torch.where(empty, fresh, scale), zero_point


def _min_max(rows: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    return _scale_of(_range(rows), grid)


def _percentile(rows: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    low, high = _range(rows)
    if grid.symmetric:
        (reach,) = _percentiles(rows.abs(), PERCENTILE)
        reach = torch.where(reach > 0, reach, torch.maximum(-low, high))
        return _scale_of((-reach, reach), grid)
    lowest, highest = _percentiles(rows, 1 - PERCENTILE, PERCENTILE)
    least, most = lowest.clamp(max=0), highest.clamp(min=0)
    empty = least == most
    return _scale_of((torch.where(empty, low, least), torch.where(empty, high, most)), grid)


def _percentiles(rows: Tensor, *shares: float) -> list[Tensor]:
    """Returns percentiles of each row, interpolated; as ``nanquantile``, which refuses more than 2^24 elements."""
    ordered = rows.sort(dim=1).values  # NaN, which fills a row up, comes last
    last = (rows.isnan().logical_not().sum(1, keepdim=True) - 1).clamp(min=0)
    found = []
    for share in shares:
        rank = rows.new_tensor(share) * last
        below, above = rank.floor().long(), rank.ceil().long().clamp(max=rows.shape[1] - 1)
        found.append(ordered.gather(1, below).lerp(ordered.gather(1, above), rank - rank.floor()))
    return found


def _least_squares(rows: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
    if grid.bits == 1 and grid.symmetric:
        return _positive(rows.abs().nanmean(1, keepdim=True), grid), None
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
        return _positive(reach if grid.kind == "power_of_two" else reach / grid.highest, grid), None
    scale = _positive((high - low) / grid.highest, grid)
    return scale, (-low / scale).round().clamp(grid.lowest, grid.highest)


def _positive(scale: Tensor, grid: Grid) -> Tensor:
    """Gives rows of zeros a scale by which they stay zero, or as near to it as one bit can say."""
    without_zero = grid.bits == 1 and grid.symmetric
    return torch.where(scale > 0, scale, torch.finfo(scale.dtype).tiny if without_zero else 1.0)


OBSERVERS: dict[str, Callable[[Tensor, Grid], tuple[Tensor, Tensor | None]]] = {
    "min_max": _min_max,
    "percentile": _percentile,
    "mse": _least_squares,
}
