"""How many of many sparse tangents are linearly independent, exactly, without writing them out.

Peeling: let one slice of one parameter be touched by a few of the remaining generators only. Where these are
independent on that slice, a vanishing combination of all remaining generators cannot use them; they count, and leave.
So ``rank = peeled + rank(rest)`` whatever the rest is. The rest is sketched: each coordinate falls with a Gaussian
factor into one of a few buckets, which keeps the rank with probability one where there are buckets enough.

Legend: G generators, numbered over all groups.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry, Term

__all__ = ["LARGEST_REST", "joint_ranks", "terms_of"]

LARGEST_REST = 2500  # generators in one connected rest: an SVD of 2500 x 10000 doubles
NEGLIGIBLE = 1e-10  # of a slice beside the largest of its tensor, and of a singular value of unit generators
LARGEST_SUM = 16_000_000  # elements of the sums over all slices of one parameter
LARGEST_ACROSS = 2_000_000  # elements of slices that were cut along another axis than the one summed over
SPARE = 16  # random columns of a slice beyond twice its generators


def terms_of(symmetry: Symmetry, params: Parameters) -> list[Term]:
    """Returns the terms a symmetry declares, or those of its tangents, written out one by one."""
    if symmetry.terms is not None:
        return list(symmetry.terms(params))
    found = [t for k, tangent in enumerate(symmetry.generators(params)) for t in _terms_of_tangent(k, tangent)]
    return [_concatenated(group) for group in _grouped(found).values()]


def joint_ranks(groups: Sequence[tuple[int, Sequence[Term]]], params: Parameters, *, seed: int = 0) -> list[int | None]:
    """Counts, for each group of generators, those independent of each other and of all groups before it.

    Args:
        groups: for each its number of generators and their terms.
        params: the parameters the terms name, for their shapes.
        seed: of the random columns and buckets.

    Returns:
        per group the number of dimensions it adds; None where the rest it belongs to is larger than
        :data:`LARGEST_REST`, so that only a formula is known.

    Cost: one QR factorisation per slice of a parameter, an SVD per connected rest.
    """
    random = torch.Generator().manual_seed(seed)
    sizes = [size for size, _ in groups]
    first = [sum(sizes[:i]) for i in range(len(sizes))]
    terms = [_numbered(t, start, params) for start, (_, ts) in zip(first, groups, strict=True) for t in ts]
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
    for rest in _connected_rests(by_parameter, alive):
        for group, rank in _rest_ranks(terms, rest, owner, params, random):
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
        self.sources = [_real(t.source).reshape(len(t.source), -1) for t in terms]
        self.width = self.sources[0].shape[1]
        self.norms = torch.cat([_slice_norms(t) for t in terms])[order]
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

    Stops at the first tensor whose slices go on from there: what has left may free all others. Those with few kinds of generators come first.
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


def _connected_rests(by_parameter: Mapping[str, list[Term]], alive: Tensor) -> list[Tensor]:
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
        kept = [left for t in terms if (left := _only(t, alive[t.coefficients])) is not None]
        if kept:
            crossing = len({t.axis for t in kept}) > 1
            rows = torch.cat([torch.zeros_like(t.rows) if crossing else t.rows for t in kept])
            yield torch.cat([t.coefficients for t in kept]), first + rows
            first += int(rows.max()) + 1


def _rest_ranks(
    terms: list[Term], rest: Tensor, owner: Tensor, params: Parameters, random: torch.Generator
) -> Iterator[tuple[int, int | None]]:
    """Yields (group, dimensions it adds) within one connected rest."""
    groups = owner[rest].unique().tolist()
    if len(rest) > LARGEST_REST:
        yield from ((group, None) for group in groups)
        return
    sketch = _sketch(terms, rest, params, random)
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


def _sketch(terms: list[Term], rest: Tensor, params: Parameters, random: torch.Generator) -> Tensor:
    """Adds every coordinate of the generators ``rest``, times a Gaussian factor, to one of a few buckets."""
    mine = torch.zeros(int(rest.max()) + 1, dtype=torch.bool)
    mine[rest] = True
    buckets = 4 * len(rest) + SPARE
    sketch = torch.zeros(len(rest), buckets, dtype=torch.float64)
    hashes: dict[str, tuple[Tensor, Tensor]] = {}
    for whole in terms:
        t = _only(whole, _is_mine(whole.coefficients, mine))
        if t is None:
            continue
        shape = (*params[t.parameter].shape, 2) if params[t.parameter].is_complex() else params[t.parameter].shape
        if t.parameter not in hashes:
            bucket = torch.randint(buckets, shape, generator=random)
            hashes[t.parameter] = bucket, torch.randn(shape, generator=random, dtype=torch.float64)
        bucket, factor = (x.movedim(t.axis % params[t.parameter].ndim, 0) for x in hashes[t.parameter])
        owners = torch.searchsorted(rest, t.coefficients)
        size = max(1, LARGEST_SUM // max(1, factor[0].numel()))
        for some in torch.arange(len(owners)).split(size):
            values = _real(t.source[t.source_rows[some]]).reshape(len(some), -1) * t.weights[some, None]
            values = values * factor[t.rows[some]].reshape(len(some), -1)
            at = owners[some, None] * buckets + bucket[t.rows[some]].reshape(len(some), -1)
            sketch.view(-1).index_add_(0, at.flatten(), values.flatten())
    return sketch


def _is_mine(coefficients: Tensor, mine: Tensor) -> Tensor:
    return (coefficients < len(mine)) & mine[coefficients.clamp(max=len(mine) - 1)]


def _terms_of_tangent(k: int, tangent: Mapping[str, Tensor]) -> Iterator[Term]:
    """Cuts one tangent along the axis on which it touches the smallest share of slices."""
    for name, values in tangent.items():
        values = values.detach().reshape(1) if values.ndim == 0 else values.detach()
        touched = [
            (values != 0).movedim(axis, 0).flatten(1).any(1) if values.ndim > 1 else values != 0
            for axis in range(values.ndim)
        ]
        shares = [float(rows.double().mean()) for rows in touched]
        axis = shares.index(min(shares))
        rows = touched[axis].nonzero().flatten()
        if len(rows):
            yield Term(
                parameter=name,
                axis=axis,
                rows=rows,
                coefficients=torch.full_like(rows, k),
                source=values.movedim(axis, 0)[rows],
                source_rows=torch.arange(len(rows)),
                weights=torch.ones(len(rows), dtype=torch.float64),
            )


def _grouped(terms: list[Term]) -> dict[tuple[str, int], list[Term]]:
    groups: dict[tuple[str, int], list[Term]] = {}
    for t in terms:
        groups.setdefault((t.parameter, t.axis), []).append(t)
    return groups


def _concatenated(group: list[Term]) -> Term:
    first = torch.tensor([0] + [len(t.source) for t in group[:-1]]).cumsum(0)
    return dataclasses.replace(
        group[0],
        rows=torch.cat([t.rows for t in group]),
        coefficients=torch.cat([t.coefficients for t in group]),
        source=torch.cat([t.source for t in group]),
        source_rows=torch.cat([t.source_rows + int(start) for t, start in zip(group, first, strict=True)]),
        weights=torch.cat([t.weights for t in group]),
    )


def _numbered(term: Term, start: int, params: Parameters) -> Term:
    axis = term.axis % max(params[term.parameter].ndim, 1)
    return dataclasses.replace(term, coefficients=term.coefficients + start, axis=axis)


def _only(term: Term, chosen: Tensor) -> Term | None:
    if chosen.dtype == torch.bool and bool(chosen.all()):
        return term
    picked = {key: getattr(term, key)[chosen] for key in ("rows", "coefficients", "source_rows", "weights")}
    return dataclasses.replace(term, **picked) if len(picked["rows"]) else None


def _slice_norms(t: Term) -> Tensor:
    return _real(t.source).reshape(len(t.source), -1).norm(dim=1)[t.source_rows] * t.weights.abs()


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t) if t.is_complex() else t
