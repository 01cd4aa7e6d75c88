"""Adds ``J J^T`` of some columns to a Gram matrix, with those columns in memory or as the outer products they are.

The row of output element k on sample i, by a weight [O, I] that is used at T places, is ``sum_t d_ikt a_it^T``. Its
products with other rows need no such row: ``sum_ts (a_it . a_js) (d_ikt . d_jls)``.

Legend: n samples, S rows of a sample, m = n S; only the lower triangle is written, by blocks of rows.
"""

import torch
from torch import Tensor

__all__ = ["add_columns", "add_outer", "is_ghost_cheaper", "mirror"]

BLOCK = 160  # rows of the smallest block: small ones skip more of the upper triangle, large ones multiply faster


def add_columns(gram: Tensor, columns: Tensor) -> None:
    """Adds ``columns @ columns.T`` to the lower triangle of a Gram matrix.

    Shapes:
        gram [m, m], columns [m, b].

    Cost: m^2 b multiply-adds, a little more than half of the full product's.
    """
    if len(gram) <= BLOCK:
        gram.addmm_(columns, columns.T)
        return
    half = len(gram) // 2
    gram[half:, :half].addmm_(columns[half:], columns[:half].T)
    add_columns(gram[:half, :half], columns[:half])
    add_columns(gram[half:, half:], columns[half:])


def mirror(gram: Tensor) -> Tensor:
    """Returns the symmetric matrix of which the lower triangle is given."""
    return gram.tril() + gram.tril(-1).T


def is_ghost_cheaper(inputs: Tensor, grads: Tensor) -> bool:
    """Returns whether the products of outer products take fewer operations than their columns.

    Shapes:
        inputs [n, T, I], grads [n, S, T, O].
    """
    (count, places, side), (slots, other) = inputs.shape, (grads.shape[1], grads.shape[3])
    rows = count * slots
    ghost = (rows * places) ** 2 * (other + 16) + (count * places) ** 2 * side  # 16: the products pass memory
    return ghost < rows**2 * side * other + 2 * rows * places * side * other


def add_outer(gram: Tensor, inputs: Tensor, grads: Tensor, *, limit: int) -> None:
    """Adds to a Gram matrix what a weight contributes of which the rows are sums of outer products.

    Args:
        gram: changed in place, its lower triangle.
        inputs: what the weight read.
        grads: gradients by what it wrote.
        limit: numbers that may be held besides.

    Shapes:
        gram [n S, n S], inputs [n, T, I], grads [n, S, T, O].
    """
    if is_ghost_cheaper(inputs, grads):
        _add_ghost(gram, inputs, grads, limit=limit)
    else:
        _add_blocks(gram, inputs, grads, limit=limit)


def _add_blocks(gram: Tensor, inputs: Tensor, grads: Tensor, *, limit: int) -> None:
    (count, slots, _, other), side = grads.shape, inputs.shape[2]
    width = max(1, min(other, limit // (len(gram) * side)))
    room = inputs.new_empty(len(gram) * width * side)
    for start in range(0, other, width):
        part = grads[..., start : start + width].mT
        columns = room[: len(gram) * part.shape[2] * side].view(count, slots, -1, side)
        for slot in range(slots):
            torch.bmm(part[:, slot], inputs, out=columns[:, slot])
        add_columns(gram, columns.view(len(gram), -1))


def _add_ghost(gram: Tensor, inputs: Tensor, grads: Tensor, *, limit: int) -> None:
    count, slots, places, _ = grads.shape
    step = max(1, min(count, int((limit / 2) ** 0.5) // (slots * places)))
    blocks = [slice(start, min(start + step, count)) for start in range(0, count, step)]
    for index, rows in enumerate(blocks):
        for columns in blocks[: index + 1]:
            found = _ghost(inputs[rows], grads[rows], inputs[columns], grads[columns])
            gram[_rows(rows, slots), _rows(columns, slots)] += found


def _ghost(a: Tensor, d: Tensor, b: Tensor, e: Tensor) -> Tensor:
    (p, slots, places, _), q = d.shape, len(b)
    # Places first, so that one place needs no sum.
    inner = (a.flatten(0, 1) @ b.flatten(0, 1).T).reshape(p, 1, places, q, 1, places)
    outer = (d.flatten(0, 2) @ e.flatten(0, 2).T).reshape(p, slots, places, q, slots, places)
    return outer.mul_(inner).sum((2, 5)).reshape(p * slots, q * slots)


def _rows(samples: slice, slots: int) -> slice:
    return slice(samples.start * slots, samples.stop * slots)
