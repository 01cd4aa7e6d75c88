"""Terms of tangents, handled slice by slice: those of a symmetry that declares none, and parts of them."""

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry, Term

__all__ = ["numbered", "only", "real", "slice_norms", "terms_of"]


def terms_of(symmetry: Symmetry, params: Parameters) -> list[Term]:
    """Returns the terms a symmetry declares, or those of its tangents, written out one by one."""
    if symmetry.terms is not None:
        return list(symmetry.terms(params))
    found = [t for k, tangent in enumerate(symmetry.generators(params)) for t in _terms_of_tangent(k, tangent)]
    return [_concatenated(group) for group in _grouped(found).values()]


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


def numbered(term: Term, start: int, params: Parameters) -> Term:
    """Returns a term whose generators are numbered from ``start``, its axis counted from the front."""
    axis = term.axis % max(params[term.parameter].ndim, 1)
    return dataclasses.replace(term, coefficients=term.coefficients + start, axis=axis)


def only(term: Term, chosen: Tensor) -> Term | None:
    """Returns a term with the chosen entries (a mask or indices), None where there are none."""
    if chosen.dtype == torch.bool and bool(chosen.all()):
        return term
    picked = {key: getattr(term, key)[chosen] for key in ("rows", "coefficients", "source_rows", "weights")}
    return dataclasses.replace(term, **picked) if len(picked["rows"]) else None


def slice_norms(t: Term) -> Tensor:
    """Returns the length of what each entry adds."""
    return real(t.source).reshape(len(t.source), -1).norm(dim=1)[t.source_rows] * t.weights.abs()


def real(t: Tensor) -> Tensor:
    """Returns a complex tensor as pairs of real ones, in a last axis."""
    return torch.view_as_real(t) if t.is_complex() else t
