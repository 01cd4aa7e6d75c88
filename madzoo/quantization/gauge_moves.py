"""Gauges of a model: its symmetries, moved along, checked, and asked whether rounding sees them.

A gauge leaves the function alone, but not the error of rounding. Which diagonal gauges do change it hangs on the grids:

- a factor on whole rows (slices of the grid's axis, with or without groups) changes the scales alone: the codes stay,
  and the rounded weights move along the same gauge, so the rounded function stays too. A gauge that has rows on both
  sides, as B against C of Mamba or a convolution against its batch norm's gain kept in floats, is inert;
- a factor on columns (slices of another axis) changes each row's levels against its elements, unless all columns of a
  row, or of a group, share it: a norm's gain against the columns that read it is not inert;
- under one scale per tensor rows too are seen, unless one factor moves the whole tensor;
- what is added (logarithms, shifts) or mixed (bases) is always seen.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from madzoo.geometry.compose import Placed, declared, parameters_of
from madzoo.geometry.flow_trace import trace_flow
from madzoo.geometry.jacobian import float64_copy
from madzoo.geometry.rules import rule_symmetries
from madzoo.quantization.gauge_flow import flow_along, turning
from madzoo.quantization.quantized import Plan, QuantizedTensor, quantize_tensor

__all__ = ["find_gauges", "is_inert", "move", "round_named"]

TOLERANCE = 1e-9  # of the function, relative to its largest output, in float64
LARGEST = 1024  # generators of a gauge whose finite action has to be integrated
FASTEST = 1.0  # turning of its tangent at the probe: a basis that a decomposition chooses anew on the way turns faster
PROBE = 0.1  # size of the random move by which a gauge is judged
Params = Mapping[str, Tensor]


@torch.no_grad()
def find_gauges(model: nn.Module, inputs: Tensor, *, seed: int = 0) -> list[Placed]:
    """Returns the symmetries, declared or known by rule, whose finite moves leave the output of two samples alone.

    One that moves the same parameters as another with as many generators is dropped, and one whose action would take
    long to integrate. Those with a finite action of their own come first.

    Args:
        model: any module whose forward takes one tensor.
        inputs: samples [n, ...].
        seed: of the moves by which they are checked.

    Cost: a float64 forward pass of two samples for each.
    """
    twin = float64_copy(model).cpu()
    x = inputs[:2].detach().cpu()
    x = x.double() if x.is_floating_point() else x
    places = [*declared(twin), *rule_symmetries(twin, trace_flow(twin, x), output="logits")]
    params, exact, found = parameters_of(twin), twin(x), {}
    for place in sorted(places, key=lambda place: place.symmetry.transform is None):
        step = _random_step(place, seed)
        if not place.symmetry.dimension or not _is_cheap(place, params, step):
            continue
        moved = move(place, params, step)
        key = frozenset(moved), place.symmetry.dimension
        if moved and key not in found and _gap(twin, moved, x, exact) <= TOLERANCE:
            found[key] = place
    return list(found.values())


def move(place: Placed, params: Params, t: Tensor) -> dict[str, Tensor]:
    """Returns the parameters that a gauge changes, moved by ``t``; absolute names.

    By the symmetry's finite action, or where it states none by the flow along its tangents; ``-t`` moves back.
    """
    if place.symmetry.transform is None:
        return flow_along(place, params, t)
    own = {local: params[name] for local, name in place.names.items()}
    moved = place.symmetry.transform(own, t)
    return {place.names[local]: value for local, value in moved.items() if value is not own[local]}


def round_named(tensors: Params, plan: Plan, *, observer: str) -> dict[str, QuantizedTensor]:
    """Rounds those of some tensors that a plan names."""
    return {k: quantize_tensor(w, plan[k], observer=observer) for k, w in tensors.items() if k in plan}


def is_inert(place: Placed, params: Params, plan: Plan, *, observer: str = "min_max", seed: int = 0) -> bool:
    """Tells whether a gauge leaves every code alone, at a random move in float64: rounding does not see it.

    Every observer's scale grows with its row, so that the quickest one answers for all.
    """
    wide = {name: _widened(params[name]) for name in place.names.values()}
    moved = move(place, wide, _random_step(place, seed))
    before = round_named({name: wide[name] for name in moved}, plan, observer=observer)
    after = round_named(moved, plan, observer=observer)
    return all(torch.equal(before[name].codes, after[name].codes) for name in before)


def _random_step(place: Placed, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return PROBE * torch.randn(place.symmetry.dimension, generator=random, dtype=torch.float64)


def _is_cheap(place: Placed, params: Params, step: Tensor) -> bool:
    if place.symmetry.transform is not None:
        return True
    return place.symmetry.dimension <= LARGEST and turning(place, params, step) <= FASTEST


def _gap(model: nn.Module, moved: Params, x: Tensor, exact: Tensor) -> float:
    difference = functional_call(model, dict(moved), (x,)) - exact
    return float(difference.abs().max() / exact.abs().max().clamp(min=1e-300))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float64))
