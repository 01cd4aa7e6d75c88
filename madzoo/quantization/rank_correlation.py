"""Spearman's rank correlation, ties sharing their mean rank."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["spearman"]


def spearman(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Returns the correlation of the ranks of paired numbers.

    Pairs with a missing number are left out. None where fewer than three pairs remain, or one side is constant.

    Raises:
        ValueError: when there are not as many of each.

    Source: Spearman 1904.

    Example:
        >>> spearman([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0])
        0.8
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 3:
        return None
    a, b = (_ranks(torch.tensor(side, dtype=torch.float64)) for side in zip(*pairs, strict=True))
    length = float(a.norm() * b.norm())
    return round(float(a @ b) / length, 12) if length else None


def _ranks(values: Tensor) -> Tensor:
    """Ranks less their mean: how many are smaller, and half of how many are equal."""
    smaller = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    ranks = smaller + equal.double() / 2
    return ranks - ranks.mean()
