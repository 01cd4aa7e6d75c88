"""The finite action of a symmetry that only states its tangents: the flow along them.

A tangent that adds slices of a parameter to themselves grows them exponentially, which is exact; along others the
flow is integrated. Legend: t coefficients of the generators, v(p) the tangent at parameters p; dp/ds = v(p) for s in
[0, 1].
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from madzoo.geometry.compose import Placed, mixture
from madzoo.symmetry import Term

__all__ = ["flow_along", "scales_slices", "turning"]

STEPS_PER_RATE = 96  # steps where the tangent changes by its own length: the error is then about 1e-9 of it
MOST = 256
AHEAD, STRAIGHT, TINY = 0.1, 1e-12, 1e-300  # how far ahead the change is measured, and below what it is none
Params = Mapping[str, Tensor]


def flow_along(place: Placed, params: Params, t: Tensor) -> dict[str, Tensor]:
    """Returns the parameters that a symmetry changes after its flow for one unit of time; absolute names, float64.

    Cost: one evaluation of the terms where all of them scale slices, two where the tangent stays the same on its way
    (what is added does not move); else the classical Runge-Kutta method of order 4, with steps in proportion to how
    fast the tangent changes.
    """
    terms = place.terms(params)
    if all(scales_slices(term, params) for term in terms):
        return _grown(terms, params, t)
    tangent = mixture(terms, t, params)
    rate = _rate(place, params, t, tangent)
    if rate < STRAIGHT:
        return {name: params[name] + v for name, v in tangent.items()}
    steps = min(math.ceil(STEPS_PER_RATE * rate), MOST)
    here = dict(params)
    for _ in range(steps):
        here |= _step(place, here, t, 1 / steps)
    return {name: here[name] for name in tangent}


def turning(place: Placed, params: Params, t: Tensor) -> float:
    """Returns how fast the tangent changes on its way, in its own lengths per unit of time; 0 where it only scales."""
    terms = place.terms(params)
    if all(scales_slices(term, params) for term in terms):
        return 0.0
    return _rate(place, params, t, mixture(terms, t, params))


def scales_slices(term: Term, params: Params) -> bool:
    """Tells whether each generator of a term adds slices of a parameter to themselves."""
    tensor = params[term.parameter]
    if not tensor.ndim or not torch.equal(term.rows, term.source_rows):
        return False
    own = tensor.movedim(term.axis, 0)
    return own.shape == term.source.shape and torch.equal(term.source, own)


def _grown(terms: list[Term], params: Params, t: Tensor) -> dict[str, Tensor]:
    moved: dict[str, Tensor] = {}
    for term in terms:
        tensor = moved.get(term.parameter, params[term.parameter])
        logs = tensor.new_zeros(tensor.shape[term.axis], dtype=torch.float64)
        logs.index_add_(0, term.rows, t[term.coefficients] * term.weights)
        shape = [-1 if axis == term.axis % tensor.ndim else 1 for axis in range(tensor.ndim)]
        moved[term.parameter] = tensor * logs.exp().reshape(shape)
    return moved


def _step(place: Placed, here: Params, t: Tensor, h: float) -> dict[str, Tensor]:
    def tangent(at: Params) -> dict[str, Tensor]:
        return mixture(place.terms(at), t, at)

    first = tangent(here)
    second = tangent(_added(here, first, h / 2))
    third = tangent(_added(here, second, h / 2))
    fourth = tangent(_added(here, third, h))
    return {
        name: here[name] + h / 6 * (first[name] + 2 * second[name] + 2 * third[name] + fourth[name]) for name in first
    }


def _rate(place: Placed, params: Params, t: Tensor, tangent: Params) -> float:
    ahead = mixture(place.terms(_added(params, tangent, AHEAD)), t, params)
    return _length({name: ahead[name] - v for name, v in tangent.items()}) / (AHEAD * _length(tangent) + TINY)


def _added(params: Params, tangent: Params, h: float) -> dict[str, Tensor]:
    return {**params, **{name: params[name] + h * v for name, v in tangent.items()}}


def _length(tangent: Params) -> float:
    return math.sqrt(sum(float(v.abs().square().sum()) for v in tangent.values()))
