"""Routes through a two-dimensional token grid: a grid becomes a sequence and back, in one direction or in four.

A route is an order of the tokens; run from its end it is another direction, but not another tensor: the scans take
``reverse=True`` and leave every token in its place.

B batch, H height, W width, L = H W, D channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from madzoo.errors import ConfigError, ShapeError, nearest

__all__ = [
    "CONTINUOUS",
    "CROSS",
    "ROUTES",
    "Direction",
    "Traversal",
    "cross_merge",
    "cross_scan",
    "to_grid",
    "to_sequence",
]

ROUTES = ("rows", "columns", "snake_rows", "snake_columns")


class Direction(NamedTuple):
    """Names a route, and whether it is run from its end."""

    route: str
    reverse: bool


# The four directions of VMamba (arXiv 2401.10166) and of PlainMamba (arXiv 2403.17695), in the order of their weights.
CROSS = (Direction("rows", False), Direction("columns", False), Direction("rows", True), Direction("columns", True))
CONTINUOUS = (
    Direction("snake_rows", False),
    Direction("snake_rows", True),
    Direction("snake_columns", False),
    Direction("snake_columns", True),
)


class Traversal(NamedTuple):
    """Holds the tokens [B, L, D] along a route, and the ``reverse`` to scan them with."""

    tokens: Tensor
    reverse: bool


def to_sequence(x_BHWD: Tensor, *, route: str) -> Tensor:
    """Lays the tokens of a grid out along a route.

    Args:
        x_BHWD: the grid.
        route: ``"rows"`` (row after row), ``"columns"``; ``"snake_rows"``, ``"snake_columns"`` turn round at the end of
            each, so that every token follows a neighbour.

    Shapes:
        [B, H, W, D] -> [B, H W, D].

    Raises:
        ConfigError: on an unknown route.

    Cost: none for the rows of a contiguous grid, which are a view; one copy for any other route.
    """
    _check(route)
    if route == "rows":
        return x_BHWD.flatten(1, 2)
    if route == "columns":
        return x_BHWD.transpose(1, 2).flatten(1, 2)
    cells_HW = _numbers(x_BHWD.shape[1], x_BHWD.shape[2], x_BHWD.device)
    order = _turning(cells_HW if route == "snake_rows" else cells_HW.T)
    return x_BHWD.flatten(1, 2).index_select(1, order.flatten())


def to_grid(x_BLD: Tensor, height: int, width: int, *, route: str) -> Tensor:
    """Inverts :func:`to_sequence`.

    Shapes:
        [B, H W, D] -> [B, H, W, D].

    Raises:
        ConfigError: on an unknown route.
        ShapeError: when the sequence has another length than the grid.

    Cost: none for rows and columns, which are views; one copy for a snake.
    """
    _check(route)
    if x_BLD.shape[1] != height * width:
        raise ShapeError("the sequence does not fill the grid.", asked=f"{list(x_BLD.shape)} on {height} x {width}")
    if route == "rows":
        return x_BLD.unflatten(1, (height, width))
    if route == "columns":
        return x_BLD.unflatten(1, (width, height)).transpose(1, 2)
    if route == "snake_rows":
        steps_HW = _turning(_numbers(height, width, x_BLD.device))
    else:
        steps_HW = _turning(_numbers(width, height, x_BLD.device)).T
    return x_BLD.index_select(1, steps_HW.flatten()).unflatten(1, (height, width))


def cross_scan(x_BHWD: Tensor, *, directions: Sequence[Direction] = CROSS) -> list[Traversal]:
    """Lays a grid out along every direction; directions of one route share their tensor.

    Scan each with its ``reverse`` and give the outputs, in the same order, to :func:`cross_merge`.

    Shapes:
        [B, H, W, D] -> for each direction [B, H W, D].

    Raises:
        ConfigError: on an unknown route.

    Cost: one copy for each route but the rows of a contiguous grid; four sequences laid out at length would take four.

    Source: arXiv 2401.10166 (2D selective scan); arXiv 2403.17695 (continuous 2D scanning).

    Example:
        >>> [y.flatten().tolist() for y, _ in cross_scan(torch.arange(6).reshape(1, 2, 3, 1))[:2]]
        [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]]
    """
    laid_out = {route: to_sequence(x_BHWD, route=route) for route in dict.fromkeys(d.route for d in directions)}
    return [Traversal(laid_out[direction.route], direction.reverse) for direction in directions]


def cross_merge(ys: Sequence[Tensor], height: int, width: int, *, directions: Sequence[Direction] = CROSS) -> Tensor:
    """Adds what the scans along the directions said of each token.

    Args:
        ys: one output per direction, every token where :func:`cross_scan` had put it.
        height, width: of the grid.
        directions: those of the scan.

    Shapes:
        for each direction [B, H W, D] -> [B, H, W, D].

    Raises:
        ConfigError: on an unknown route, or another number of outputs than of directions.
        ShapeError: when a sequence has another length than the grid.

    Cost: one addition per output; outputs of one route are added before they are laid back.
    """
    if len(ys) != len(directions):
        raise ConfigError("each direction has one output.", asked=f"{len(ys)} outputs, {len(directions)} directions")
    sums: dict[str, Tensor] = {}
    for y_BLD, (route, _) in zip(ys, directions, strict=True):
        sums[route] = sums[route] + y_BLD if route in sums else y_BLD
    first, *others = (to_grid(y_BLD, height, width, route=route) for route, y_BLD in sums.items())
    for y_BHWD in others:
        first = first + y_BHWD
    return first


def _numbers(height: int, width: int, device: torch.device) -> Tensor:
    return torch.arange(height * width, device=device).unflatten(0, (height, width))


def _turning(cells_HW: Tensor) -> Tensor:
    odd_H1 = (torch.arange(len(cells_HW), device=cells_HW.device) % 2 == 1).unsqueeze(-1)
    return torch.where(odd_H1, cells_HW.flip(-1), cells_HW)


def _check(route: str) -> None:
    if route not in ROUTES:
        looked, todo = ", ".join(ROUTES), nearest(route, ROUTES)
        raise ConfigError(f"unknown route {route!r}.", asked=route, looked=looked, todo=todo)
