"""The nearest point of a hyperbola x y = c, in closed form, and the best assignment of a few such modes to each other.

Legend: a, b, c [...] broadcast together; costs [..., h, h] of giving mode i the known mode j.
"""

import itertools

import torch
from torch import Tensor

__all__ = ["best_assignment", "nearest_on_hyperbola"]

NEVER = 1e-12  # beside the other coordinates: a root that stands for no point


def nearest_on_hyperbola(a: Tensor, b: Tensor, c: Tensor, *, positive: bool = False) -> tuple[Tensor, Tensor]:
    """Finds (x, y) with x y = c that is nearest to (a, b).

    Stationary points solve ``x^4 - a x^3 + b c x - c^2 = 0``. All four roots, real or not, are tried by their real
    parts: each is a point of the hyperbola, and the best one is a root.

    Args:
        a, b: the points.
        c: of the hyperbolas, not 0.
        positive: searches x > 0 alone.

    Shapes:
        a, b, c [...] -> x, y [...].

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> [round(float(v), 6) for v in nearest_on_hyperbola(1.5 * one, 1.5 * one, one)]
        [1.0, 1.0]
    """
    a, b, c = torch.broadcast_tensors(a, b, c)
    matrix = torch.zeros(*a.shape, 4, 4, dtype=a.dtype)
    matrix[..., [1, 2, 3], [0, 1, 2]] = 1.0
    matrix[..., 0, 3], matrix[..., 1, 3], matrix[..., 3, 3] = c * c, -b * c, a
    x = torch.linalg.eigvals(matrix).real
    a, b, c = (v.unsqueeze(-1) for v in (a, b, c))
    x = _polish(torch.where(x.abs() > NEVER, x, 1.0), a, b, c)
    gap = (x - a).square() + (c / x - b).square()
    if positive:
        gap = torch.where(x > 0, gap, torch.inf)
    best = x.gather(-1, gap.argmin(-1, keepdim=True)).squeeze(-1)
    return best, c.squeeze(-1) / best


def _polish(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Takes one Newton step, where it is a small one: eigenvalues of a badly scaled matrix lose digits."""
    value = ((x - a) * x * x + b * c) * x - c * c
    slope = (4 * x - 3 * a) * x * x + b * c
    step = torch.where(slope.abs() > NEVER, value / slope, 0.0)
    return torch.where(step.abs() < 0.1 * x.abs(), x - step, x)


def best_assignment(costs: Tensor) -> Tensor:
    """Returns the permutation with the smallest sum, by trying all: place i gets mode [..., i].

    Shapes:
        costs [..., h, h] -> int [..., h].

    Cost: h! sums; for a handful of modes.
    """
    orders = torch.tensor(list(itertools.permutations(range(costs.shape[-1]))))
    places = torch.arange(costs.shape[-1])
    return orders[costs[..., places, orders].sum(-1).argmin(-1)]
