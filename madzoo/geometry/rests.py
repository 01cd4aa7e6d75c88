"""The rank of what peeling leaves: sparse tangents that share slices, written out where few, else sketched.

In a sketch each coordinate falls with Gaussian factors into three of a few buckets. That keeps the rank unless needed
coordinates crowd: with one bucket each, many would meet; with three of four times as many buckets as generators,
practically none.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from madzoo.geometry.sparse_terms import only, real
from madzoo.symmetry import Parameters, Term

__all__ = ["LARGEST_REST", "connected_rests", "rest_ranks"]

LARGEST_REST = 2500  # generators in one connected rest: an SVD of 2500 x 10000 doubles
WRITTEN_OUT = 4_000_000  # elements of generators times their number: a rest below it needs no sketch
AT_ONCE = 16_000_000  # elements added to the buckets in one step
COPIES = 3  # buckets that a coordinate falls into
SPARE_BUCKETS = 256  # beyond four times the generators


def connected_rests(by_parameter: Mapping[str, list[Term]], alive: Tensor) -> list[Tensor]:
    """Splits the remaining generators into sets that share no slice (no parameter, where slices of it cross)."""
    touches = list(_touches(by_parameter, alive))
    label = torch.arange(len(alive))
    if touches:
        owners, nodes = torch.cat([o for o, _ in touches]), torch.cat([n for _, n in touches])
        changed = True
        while changed:
            before = label.clone()
            least = torch.full((int(nodes.max()) + 1,), len(alive)).scatter_reduce(0, nodes, label[owners], "amin")
            label = label.scatter_reduce(0, owners, least[nodes], "amin")
            changed = not torch.equal(before, label)
    left = alive.nonzero().flatten()
    return [left[label[left] == key] for key in label[left].unique().tolist()]


def _touches(by_parameter: Mapping[str, list[Term]], alive: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields which remaining generators touch which slices, numbered over all parameters."""
    first = 0
    for terms in by_parameter.values():
        kept = [left for t in terms if (left := only(t, alive[t.coefficients])) is not None]
        if kept:
            crossing = len({t.axis for t in kept}) > 1
            rows = torch.cat([torch.zeros_like(t.rows) if crossing else t.rows for t in kept])
            yield torch.cat([t.coefficients for t in kept]), first + rows
            first += int(rows.max()) + 1


def rest_ranks(
    terms: list[Term], rest: Tensor, owner: Tensor, params: Parameters, random: torch.Generator
) -> Iterator[tuple[int, int | None]]:
    """Yields (group, dimensions it adds) within one connected rest."""
    groups = owner[rest].unique().tolist()
    if len(rest) > LARGEST_REST:
        yield from ((group, None) for group in groups)
        return
    mine = _of_rest(terms, rest)
    if not mine:  # generators that are zero
        yield from ((group, 0) for group in groups)
        return
    small = sum(len(t.rows) * real(t.source[0]).numel() for t in mine) * len(rest) <= WRITTEN_OUT
    sketch = _written_out(mine, rest, params) if small else _sketch(mine, rest, params, random)
    lengths = sketch.norm(dim=1, keepdim=True)
    sketch = sketch / torch.where(lengths > 0, lengths, 1.0)
    before = 0
    for group in groups:
        rank = _numerical_rank(sketch[owner[rest] <= group])
        yield group, rank - before
        before = rank


def _numerical_rank(rows: Tensor) -> int:
    """Counts singular values of unit rows above 1e-9 of the largest: by their squares where these leave no doubt."""
    squares = torch.linalg.eigvalsh(rows @ rows.T)
    share = squares / squares[-1].clamp(min=1e-300)
    if not ((share > 1e-13) & (share < 1e-9)).any():
        return int((share >= 1e-9).sum())
    sigma = torch.linalg.svdvals(rows)
    return int((sigma > 1e-9 * sigma[0]).sum())


def _of_rest(terms: list[Term], rest: Tensor) -> list[Term]:
    """Returns the entries of the generators ``rest``, which are numbered anew."""
    mine = torch.zeros(int(rest.max()) + 1, dtype=torch.bool)
    mine[rest] = True
    found = (only(t, _is_mine(t.coefficients, mine)) for t in terms)
    return [dataclasses.replace(t, coefficients=torch.searchsorted(rest, t.coefficients)) for t in found if t]


def _written_out(terms: list[Term], rest: Tensor, params: Parameters) -> Tensor:
    """Returns the generators as rows, on the coordinates that any of them touches."""
    owners, coordinates, values, start = [], [], [], 0
    starts: dict[str, int] = {}
    for t in terms:
        shape = (*params[t.parameter].shape, 2) if params[t.parameter].is_complex() else params[t.parameter].shape
        if t.parameter not in starts:
            starts[t.parameter], start = start, start + math.prod(shape)
        numbers = torch.arange(math.prod(shape)).view(shape).movedim(t.axis % params[t.parameter].ndim, 0)
        added = real(t.source[t.source_rows]).reshape(len(t.rows), -1) * t.weights[:, None]
        coordinates.append((starts[t.parameter] + numbers[t.rows].reshape(len(t.rows), -1)).flatten())
        owners.append(t.coefficients.repeat_interleave(added.shape[1]))
        values.append(added.flatten())
    touched, at = torch.cat(coordinates).unique(return_inverse=True)
    rows = torch.zeros(len(rest), len(touched), dtype=torch.float64)
    return rows.index_put_((torch.cat(owners), at), torch.cat(values), accumulate=True)


def _sketch(terms: list[Term], rest: Tensor, params: Parameters, random: torch.Generator) -> Tensor:
    """Adds every coordinate of the generators, times Gaussian factors, to three of a few buckets."""
    buckets = 4 * len(rest) + SPARE_BUCKETS
    sketch = torch.zeros(len(rest), buckets, dtype=torch.float64)
    hashes: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for t in terms:
        shape = (*params[t.parameter].shape, 2) if params[t.parameter].is_complex() else params[t.parameter].shape
        if t.parameter not in hashes:
            hashes[t.parameter] = [
                (
                    torch.randint(buckets, shape, generator=random),
                    torch.randn(shape, generator=random, dtype=torch.float64),
                )
                for _ in range(COPIES)
            ]
        for pair in hashes[t.parameter]:
            bucket, factor = (x.movedim(t.axis % params[t.parameter].ndim, 0) for x in pair)
            _add_to_buckets(sketch, t, t.coefficients, bucket, factor)
    return sketch


def _add_to_buckets(sketch: Tensor, t: Term, owners: Tensor, bucket: Tensor, factor: Tensor) -> None:
    size = max(1, AT_ONCE // max(1, factor[0].numel()))
    for some in torch.arange(len(owners)).split(size):
        values = real(t.source[t.source_rows[some]]).reshape(len(some), -1) * t.weights[some, None]
        values = values * factor[t.rows[some]].reshape(len(some), -1)
        at = owners[some, None] * sketch.shape[1] + bucket[t.rows[some]].reshape(len(some), -1)
        sketch.view(-1).index_add_(0, at.flatten(), values.flatten())


def _is_mine(coefficients: Tensor, mine: Tensor) -> Tensor:
    return (coefficients < len(mine)) & mine[coefficients.clamp(max=len(mine) - 1)]
