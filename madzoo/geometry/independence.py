"""How many of many sparse tangents are linearly independent, exactly, without writing them out.

Peeling: let one slice of one parameter be touched by a few of the remaining generators only. Where these are
independent on that slice, a vanishing combination of all remaining generators cannot use them; they count, and leave.
So ``rank = peeled + rank(rest)`` whatever the rest is.

Legend: G generators, numbered over all groups.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from madzoo.geometry.rests import connected_rests, rest_ranks
from madzoo.geometry.sparse_terms import numbered, real, slice_norms
from madzoo.symmetry import Parameters, Term

__all__ = ["joint_ranks"]

NEGLIGIBLE = 1e-10  # of a slice beside the largest of its tensor, and of a singular value of unit generators
LARGEST_SUM = 16_000_000  # elements of the sums over all slices of one parameter
LARGEST_ACROSS = 2_000_000  # elements of slices that were cut along another axis than the one summed over
SPARE = 16  # random columns of a slice beyond twice its generators


def joint_ranks(groups: Sequence[tuple[int, Sequence[Term]]], params: Parameters, *, seed: int = 0) -> list[int | None]:
    """Counts, for each group of generators, those independent of each other and of all groups before it.

    Args:
        groups: for each its number of generators and their terms.
        params: the parameters the terms name, for their shapes.
        seed: of the random columns and buckets.

    Returns:
        per group the number of dimensions it adds; None where the rest it belongs to is larger than
        :data:`madzoo.geometry.rests.LARGEST_REST`, so that only a formula is known.

    Cost: one QR factorisation per slice of a parameter, an SVD per connected rest.
    """
    random = torch.Generator().manual_seed(seed)
    sizes = [size for size, _ in groups]
    first = [sum(sizes[:i]) for i in range(len(sizes))]
    terms = [numbered(t, start, params) for start, (_, ts) in zip(first, groups, strict=True) for t in ts]
    alive = torch.ones(sum(sizes), dtype=torch.bool)
    by_parameter: dict[str, list[Term]] = {}
    for t in terms:
        by_parameter.setdefault(t.parameter, []).append(t)
    tensors = {name: _cut(parts) for name, parts in by_parameter.items()}
    while _peel_once(tensors, alive, random) or _peel_sums(tensors, alive, params, random):
        pass
    added = [size - int(alive[start : start + size].sum()) for start, size in zip(first, sizes, strict=True)]
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    ranks: list[int | None] = list(added)
    for rest in connected_rests(by_parameter, alive):
        for group, rank in rest_ranks(terms, rest, owner, params, random):
            before = ranks[group]
            ranks[group] = None if rank is None or before is None else before + rank
    return ranks


def _cut(terms: list[Term]) -> dict[int, "_Touched"]:
    axes: dict[int, list[Term]] = {}
    for term in terms:
        if len(term.rows):
            axes.setdefault(term.axis, []).append(term)
    return {axis: _Touched(group) for axis, group in axes.items()}


class _Touched:
    """All that generators add to one parameter along one axis, sorted by slice."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = terms
        rows = torch.cat([t.rows for t in terms])
        order = rows.argsort(stable=True)
        self.rows = rows[order]
        self.owners = torch.cat([t.coefficients for t in terms])[order]
        self.weights = torch.cat([t.weights for t in terms])[order]
        self.source_rows = torch.cat([t.source_rows for t in terms])[order]
        self.part = torch.repeat_interleave(torch.arange(len(terms)), torch.tensor([len(t.rows) for t in terms]))[order]
        self.sources = [real(t.source).reshape(len(t.source), -1) for t in terms]
        self.width = self.sources[0].shape[1]
        self.norms = torch.cat([slice_norms(t) for t in terms])[order]
        self.bounds = torch.searchsorted(self.rows, torch.arange(int(self.rows[-1]) + 2))

    def values(self, entries: Tensor, columns: Tensor | slice = slice(None)) -> Tensor:
        """Returns what some entries add to their slice, [entries, columns]."""
        found: Tensor | None = None
        for part in self.part[entries].unique().tolist():
            chosen = self.part[entries] == part
            values = self.sources[part][self.source_rows[entries[chosen]]][:, columns]
            found = values.new_zeros(len(entries), values.shape[1]) if found is None else found
            found[chosen] = values * self.weights[entries[chosen], None]
        return torch.zeros(0, self.width, dtype=torch.float64) if found is None else found

    def combined(self, entries: Tensor, at: Tensor, count: int) -> Tensor:
        """Returns the sum of the entries of each generator, whatever their slice, [count, width]."""
        total = torch.zeros(count, self.width, dtype=torch.float64)
        for part, source in enumerate(self.sources):
            chosen = self.part[entries] == part
            if chosen.any():
                index = torch.stack([at[chosen], self.source_rows[entries[chosen]]])
                matrix = torch.sparse_coo_tensor(
                    index, self.weights[entries[chosen]], (count, len(source)), check_invariants=False
                )
                total += torch.sparse.mm(matrix, source)
        return total

    def busy(self, alive: Tensor) -> bool:
        """Returns whether a remaining generator touches it."""
        return bool(alive[self.owners].any())


def _peel_once(tensors: Mapping[str, dict[int, _Touched]], alive: Tensor, random: torch.Generator) -> int:
    """Lets every slice certify what it can; returns how many generators left."""
    before = int(alive.sum())
    for axes in tensors.values():
        busy = [touched for touched in axes.values() if touched.busy(alive)]
        if len(busy) == 1:  # slices along two axes cross: wait until one kind has left
            _peel_singles(busy[0], alive)
            _peel_slices(busy[0], alive, random)
    return before - int(alive.sum())


def _peel_singles(touched: _Touched, alive: Tensor) -> None:
    """Certifies the generators that have a slice of their own, where they do not vanish."""
    kept = alive[touched.owners]
    rows, owners, norms = touched.rows[kept], touched.owners[kept], touched.norms[kept]
    alone = torch.bincount(rows)[rows] == 1
    alive[owners[alone & (norms > NEGLIGIBLE * touched.norms.max())]] = False


def _peel_slices(touched: _Touched, alive: Tensor, random: torch.Generator) -> None:
    """Certifies on each slice the generators that touch it, where they are independent there: few ones first."""
    kept = alive[touched.owners]
    if not kept.any():
        return
    rows, owners = touched.rows[kept], touched.owners[kept]
    pairs = (rows * len(alive) + owners).unique() // len(alive)
    slices, counts = pairs.unique(return_counts=True)
    order = counts.argsort(stable=True)
    for row in slices[order[counts[order] <= touched.width]].tolist():
        entries = torch.arange(int(touched.bounds[row]), int(touched.bounds[row + 1]))
        entries = entries[alive[touched.owners[entries]]]
        here = touched.owners[entries].unique() if len(entries) else entries
        if 0 < len(here) <= touched.width and _independent(_slice_matrix(touched, entries, here, random)):
            alive[here] = False


def _slice_matrix(touched: _Touched, entries: Tensor, owners: Tensor, random: torch.Generator) -> Tensor:
    wanted, columns = 2 * len(owners) + SPARE, torch.arange(touched.width)
    if touched.width > wanted:
        columns = torch.randperm(touched.width, generator=random)[:wanted]
    matrix = torch.zeros(len(owners), len(columns), dtype=torch.float64)
    at = torch.searchsorted(owners, touched.owners[entries])
    return matrix.index_add_(0, at, touched.values(entries, columns))


def _peel_sums(
    tensors: Mapping[str, dict[int, _Touched]], alive: Tensor, params: Parameters, random: torch.Generator
) -> int:
    """Looks at sums over all slices instead, which rotations that fix the ones leave at zero.

    Stops at the first tensor whose slices go on from there: what has left may free all others. Those with few kinds of
    generators come first.
    """
    before = int(alive.sum())
    places = [(n, axis) for n, p in params.items() if n in tensors and not p.is_complex() for axis in range(p.ndim)]
    widths = {place: params[place[0]].numel() // params[place[0]].shape[place[1]] for place in places}
    parts = {name: sum(len(touched.terms) for touched in axes.values()) for name, axes in tensors.items()}
    for name, axis in sorted(places, key=lambda place: (widths[place] < 2, parts[place[0]], params[place[0]].numel())):
        axes = tensors[name]
        owners = torch.cat([t.owners[alive[t.owners]] for t in axes.values()]).unique()
        if not len(owners) or len(owners) * widths[name, axis] > LARGEST_SUM:
            continue
        found = _sums(axes, owners, axis, widths[name, axis], params[name])
        if found is None or not _peel_seen(*found, owners, alive, random):
            continue
        if _peel_once({name: axes}, alive, random):
            break
    return before - int(alive.sum())


def _peel_seen(sums: Tensor, sizes: Tensor, owners: Tensor, alive: Tensor, random: torch.Generator) -> bool:
    seen = sums.norm(dim=1) > NEGLIGIBLE * sizes
    certified = 0 < int(seen.sum()) <= sums.shape[1] and _independent(_few_columns(sums[seen], random))
    if certified:
        alive[owners[seen]] = False
    return certified


def _sums(
    axes: Mapping[int, _Touched], owners: Tensor, axis: int, width: int, parameter: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Returns, per generator, its sum along an axis, [owners, width], and the sum of the sizes of what went into it."""
    sums = torch.zeros(len(owners), width, dtype=torch.float64)
    sizes = torch.zeros(len(owners), dtype=torch.float64)
    for cut, touched in axes.items():
        entries = torch.isin(touched.owners, owners).nonzero().flatten()
        at = torch.searchsorted(owners, touched.owners[entries])
        sizes.index_add_(0, at, touched.norms[entries])
        if cut == axis:
            sums += touched.combined(entries, at, len(owners))
        elif len(entries) * touched.width > LARGEST_ACROSS:
            return None
        elif len(entries):
            _add_across(sums, touched.values(entries), at, touched.rows[entries], parameter.shape, cut, axis)
    return sums, sizes


def _add_across(
    sums: Tensor, values: Tensor, at: Tensor, rows: Tensor, shape: Sequence[int], cut: int, axis: int
) -> None:
    """Adds slices that were cut along another axis than the one summed over: each keeps its place along its own."""
    others = [n for k, n in enumerate(shape) if k != cut]
    inner = values.reshape(len(values), *others).sum(1 + axis - (axis > cut))
    kept = [n for k, n in enumerate(shape) if k != axis]
    grid = sums.view(len(sums), *kept).movedim(1 + cut - (cut > axis), 1)
    grid.index_put_((at, rows), inner, accumulate=True)


def _few_columns(matrix: Tensor, random: torch.Generator) -> Tensor:
    wanted = 2 * len(matrix) + SPARE
    if matrix.shape[1] <= wanted:
        return matrix
    return matrix[:, torch.randperm(matrix.shape[1], generator=random)[:wanted]]


def _independent(matrix: Tensor) -> bool:
    """Returns whether the rows, at unit length, are far from dependent: sigma_min >= 1 / |R^-1|."""
    lengths = matrix.norm(dim=1, keepdim=True)
    if not lengths.isfinite().all() or (lengths <= NEGLIGIBLE * lengths.max()).any():
        return False
    triangle = torch.linalg.qr((matrix / lengths).T, mode="r").R
    if (triangle.diagonal().abs() < NEGLIGIBLE).any():
        return False
    inverse = torch.linalg.solve_triangular(triangle, torch.eye(len(triangle), dtype=triangle.dtype), upper=True)
    return bool(inverse.norm() < 1 / NEGLIGIBLE)
