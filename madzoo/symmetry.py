"""The frozen record by which a module declares a continuous symmetry of its parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Parameters", "Symmetry", "Term", "from_terms"]

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """Says what many generators at once add to one parameter, slice by slice.

    For every entry t of the index vectors, generator ``coefficients[t]`` adds ``weights[t] * source[source_rows[t]]``
    to slice ``rows[t]`` of the parameter along ``axis``.

    Attributes:
        parameter: name of the parameter.
        axis: the axis of the parameter that is cut into slices.
        rows, coefficients, source_rows: indices [T].
        weights: real factors [T].
        source: [slices, *the parameter's other axes], often the parameter itself with ``axis`` in front.
    """

    parameter: str
    axis: int
    rows: Tensor
    coefficients: Tensor
    source: Tensor
    source_rows: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Symmetry:
    """Declares a family of parameter changes that leaves a module's function unchanged.

    Parameter names are relative to the declaring module. A module lists its symmetries in ``symmetries()``.

    Attributes:
        name: what acts, for instance ``"mamba.BC_scale"``.
        dimension: number of generators: parameters the symmetry takes away where they are independent.
        generators: maps parameters to an iterator of tangents ``{parameter name: tensor of the same shape}``;
            the derivative of the function along each of them is zero.
        transform: the finite action ``(parameters, t) -> parameters`` where one is known, else None.
        terms: the same generators slice by slice, where there are too many to write each out as whole tensors.
    """

    name: str
    dimension: int
    generators: Callable[[Parameters], Iterator[dict[str, Tensor]]]
    transform: Callable[[Parameters, Tensor], dict[str, Tensor]] | None = None
    terms: Callable[[Parameters], Iterable[Term]] | None = None


def from_terms(
    name: str,
    dimension: int,
    terms: Callable[[Parameters], Iterable[Term]],
    *,
    transform: Callable[[Parameters, Tensor], dict[str, Tensor]] | None = None,
) -> Symmetry:
    """Builds a symmetry from its terms; the whole tangents are made of them on demand."""

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        parts = list(terms(params))
        for k in range(dimension):
            yield _one_generator(parts, params, k)

    return Symmetry(name=name, dimension=dimension, generators=generators, transform=transform, terms=terms)


def _one_generator(parts: list[Term], params: Parameters, k: int) -> dict[str, Tensor]:
    tangent: dict[str, Tensor] = {}
    for term in parts:
        chosen = (term.coefficients == k).nonzero().flatten()
        if not len(chosen):
            continue
        whole = tangent.setdefault(term.parameter, torch.zeros_like(params[term.parameter]))
        values = term.source[term.source_rows[chosen]]
        values = values * term.weights[chosen].reshape(-1, *[1] * (values.ndim - 1))
        whole.movedim(term.axis, 0).index_add_(0, term.rows[chosen], values.to(whole.dtype))
    return tangent
