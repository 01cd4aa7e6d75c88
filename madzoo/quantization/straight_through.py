"""The straight-through family behind one interface: what is rounded forward, and what its backward says instead of 0.

Legend: w latent weights, s scale, x = w / s, r(x) the nearest level in units of s, [l, u] the outermost levels in
units of s, N weights that share a scale.

Each rule is a sum of the rounded value, cut off from the graph, and of terms ``k (v - v.detach())``, which are 0 to
the bit and have the slope k in v. So forward is :func:`madzoo.quantization.grid.round_to_grid` exactly, and every
derivative order and ``torch.func`` transform works.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import check_choice
from madzoo.quantization.grid import Grid, from_rows, nearest_level, round_to_grid, to_rows

__all__ = ["ESTIMATORS", "Estimator", "clipped_ste", "find_estimator", "learning_scale", "lsq", "outermost", "ste"]

Rule = Callable[[Tensor, Grid, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimator:
    """Says how a tensor is used forward and what its gradient is.

    Attributes:
        name: its word.
        apply: ``(latent, grid, scale, zero_point) -> value``, the latent's shape and dtype.
        rounds: whether forward sees the levels; otherwise it sees the latents, and a prox step pulls them.
        learns_scale: whether the scale is a parameter.
    """

    name: str
    apply: Rule
    rounds: bool = True
    learns_scale: bool = False


def find_estimator(name: str) -> Estimator:
    """Returns an estimator of :data:`ESTIMATORS`.

    Raises:
        ConfigError: on an unknown name.
    """
    check_choice("estimator", name, list(ESTIMATORS))
    return ESTIMATORS[name]


def ste(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Rounds; the gradient goes to the latents as if nothing had been done.

    Shapes:
        w [...], scale, zero_point [R, 1] -> [...].

    Source: arXiv 1308.3432, section 4.

    Example:
        >>> w = torch.tensor([0.4, 3.0], requires_grad=True)
        >>> ste(w, Grid(bits=2, axis=None), torch.ones(1, 1)).sum().backward()
        >>> w.grad
        tensor([1., 1.])
    """
    return round_to_grid(w.detach(), grid, scale.detach(), zero_point) + (w - w.detach())


def clipped_ste(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Rounds; latents beyond the outermost level get no gradient, those on it or inside the whole.

    Shapes:
        w [...], scale, zero_point [R, 1] -> [...].

    Source: arXiv 1602.02830, equation 4.

    Example:
        >>> w = torch.tensor([0.4, 3.0], requires_grad=True)
        >>> clipped_ste(w, Grid(bits=2, axis=None), torch.ones(1, 1)).sum().backward()
        >>> w.grad
        tensor([1., 0.])
    """
    rows, size = to_rows(w.to(scale.dtype), grid), scale.detach()
    low, high = outermost(grid, zero_point)
    kept = (rows.detach() >= low * size) & (rows.detach() <= high * size)
    level = nearest_level(rows.detach() / size, grid, zero_point) * size
    return from_rows(level + torch.where(kept, rows - rows.detach(), 0.0), w, grid).to(w.dtype)


def lsq(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Rounds with a learned scale.

    Strictly inside the outermost levels the latent's slope is 1 and the scale's is ``r(x) - x``; elsewhere they are 0
    and the outermost level, l or u. The scale's gradient is multiplied by ``1 / sqrt(N u)``. For evenly spaced
    symmetric levels that is the published rule; affine and power-of-two levels follow from the same two steps
    (``w = s r(w / s)``, and r has slope 1 where it does not clip), ternary is two bits.

    Shapes:
        w [...], scale, zero_point [R, 1] -> [...].

    Source: arXiv 1902.08153, equations 3 and 5, section 2.2.

    Example:
        >>> w, s = torch.tensor([0.4, 3.0], requires_grad=True), torch.ones(1, 1, requires_grad=True)
        >>> lsq(w, Grid(bits=2, axis=None), s).sum().backward()
        >>> w.grad, s.grad  # (0 - 0.4 + 1) / sqrt(2)
        (tensor([1., 0.]), tensor([[0.4243]]))
    """
    rows, size = to_rows(w.to(scale.dtype), grid), scale.detach()
    x = rows.detach() / size
    low, high = outermost(grid, zero_point)
    inside, level = (x > low) & (x < high), nearest_level(x, grid, zero_point)
    slope = torch.where(inside, level - x, level)
    free = torch.where(inside, rows - rows.detach(), 0.0)
    pull = slope * (learning_scale(w, grid, scale, zero_point) - size)
    return from_rows(level * size + free + pull, w, grid).to(w.dtype)


def learning_scale(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Returns the scale unchanged, its gradient times ``1 / sqrt(N u)``.

    Shapes:
        w [...], scale, zero_point [R, 1] -> [R, 1].

    Source: arXiv 1902.08153, section 2.2.
    """
    low, high = outermost(grid, zero_point)
    reach = torch.maximum(-torch.as_tensor(low), torch.as_tensor(high))
    factor = torch.as_tensor(_sharing(w, grid) * reach, dtype=scale.dtype, device=scale.device).rsqrt()
    return scale.detach() + factor * (scale - scale.detach())


def outermost(grid: Grid, zero_point: Tensor | None = None) -> tuple[Tensor | float, Tensor | float]:
    """Returns the lowest and the highest level, in units of the scale; of affine levels those of each row.

    Shapes:
        zero_point [R, 1] -> two of [R, 1], or two numbers.

    Example:
        >>> outermost(Grid(bits=3))
        (-3.0, 3.0)
    """
    if grid.kind == "power_of_two":  # the largest power is the scale itself
        return -1.0, 1.0
    if zero_point is None:
        return float(grid.lowest), float(grid.highest)
    return grid.lowest - zero_point, grid.highest - zero_point


def _sharing(w: Tensor, grid: Grid) -> Tensor | int:
    """Counts the elements of each row, at least one; a number where all rows are full."""
    rows = to_rows(w.detach(), grid)
    if rows.numel() == w.numel():
        return max(rows.shape[1], 1)
    return to_rows(torch.ones_like(w.detach(), dtype=torch.float32), grid).sum(1, keepdim=True).clamp(min=1)


def _unrounded(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    return w


ESTIMATORS: dict[str, Estimator] = {
    "ste": Estimator(name="ste", apply=ste),
    "clipped_ste": Estimator(name="clipped_ste", apply=clipped_ste),
    "lsq": Estimator(name="lsq", apply=lsq, learns_scale=True),
    "prox_quant": Estimator(name="prox_quant", apply=_unrounded, rounds=False),
}
