"""Where to move along one gauge: steps ranked by a weighted error of rounding, which costs no forward pass.

Rounded weights that are moved back along the gauge compute the same function, so the errors of all steps are compared
in the coordinates of the weights before: with T the move, Q the rounding and F the mean squared gradient there,
``S(t) = sum F (T(-t) Q(T(t) w) - w)^2``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.geometry.compose import Placed
from madzoo.quantization.gauge_flow import scales_slices
from madzoo.quantization.gauge_moves import Params, move
from madzoo.quantization.grid import Grid, from_rows, round_to_grid, to_rows
from madzoo.quantization.observers import find_scale
from madzoo.quantization.quantized import Plan
from madzoo.symmetry import Term

__all__ = ["Search", "best_step"]

# Exponents (of the importance of a column, of its size) by which columns are scaled before they are rounded.
EXPONENTS = ((0.25, 0.0), (0.5, 0.0), (0.0, 0.25), (0.0, 0.5), (0.0, 1.0), (0.25, 0.25), (0.5, 0.5), (1.0, 1.0))
SIZES = (0.3, 0.1, 0.03)  # of random steps
SHRINKS = (0.88, 0.76, 0.64)  # of the range, where the observer seeks the least squared error
SHARES = (1.0, 0.2)  # of the generators that a random step moves


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """Settings of the search along one gauge.

    Attributes:
        plan, observer: how weights are rounded; here at a few of the observer's scales.
        squares: mean squared gradients by parameter.
        trials: random steps.
        random: where they come from.
    """

    plan: Plan
    observer: str
    squares: Params
    trials: int
    random: torch.Generator

    def error(self, place: Placed, params: Params, t: Tensor) -> float:
        """Returns S(t), infinity where the move leaves the finite numbers."""
        moved = move(place, params, t)
        if not all(value.isfinite().all() for value in moved.values()):
            return float("inf")
        rounded = {k: _rounded(w, self.plan[k], self.observer) for k, w in moved.items() if k in self.plan}
        back = move(place, {**params, **moved, **rounded}, -t)
        total = sum((self.squares[k] * (v - params[k]).abs().square()).sum() for k, v in back.items())
        return float(total)


def best_step(place: Placed, params: Params, search: Search) -> tuple[Tensor, float]:
    """Returns the step with the least error found, and that error over the error of no step.

    Tried are, for gauges that scale columns, the scales of :data:`EXPONENTS`, then random steps from the best so far.

    Args:
        place: a gauge.
        params: the model's parameters in float64.
        search: settings.

    Cost: ``2 * (trials + 8)`` moves and roundings of the gauge's own tensors.
    """
    best = torch.zeros(place.symmetry.dimension, dtype=torch.float64)
    start = least = search.error(place, params, best)
    for t in _scalings(place, params, search):
        if (error := search.error(place, params, t)) < least:
            best, least = t, error
    for trial in range(search.trials):
        t = best + _random_step(len(best), trial, search.random)
        if (error := search.error(place, params, t)) < least:
            best, least = t, error
    return best, least / start if start > 0 else 1.0


def _rounded(w: Tensor, grid: Grid, observer: str) -> Tensor:
    """Rounds at the observer's scale, in float32; of the squared error's many scales a few stand for all."""
    real = (torch.view_as_real(w) if w.is_complex() else w).float()
    scale, zero = find_scale(real, grid, observer="min_max" if observer == "mse" else observer)
    best = round_to_grid(real, grid, scale, zero)
    if observer == "mse" and zero is None:
        for shrink in SHRINKS:
            other = round_to_grid(real, grid, shrink * scale)
            errors = [to_rows(found - real, grid).square().sum(1) for found in (best, other)]
            better = (errors[1] < errors[0]).unsqueeze(1)
            best = from_rows(torch.where(better, to_rows(other, grid), to_rows(best, grid)), real, grid)
    return (torch.view_as_complex(best.contiguous()) if w.is_complex() else best).to(w.dtype)


def _random_step(size: int, trial: int, random: torch.Generator) -> Tensor:
    draw = torch.randn(size, generator=random, dtype=torch.float64)
    kept = torch.rand(size, generator=random) < SHARES[trial // len(SIZES) % len(SHARES)]
    return SIZES[trial % len(SIZES)] * draw * kept


def _scalings(place: Placed, params: Params, search: Search) -> Iterator[Tensor]:
    """Yields steps that equalise columns, or favour the important ones, where the gauge scales any."""
    logs = [
        _column_logs(t, params, search, place.symmetry.dimension)
        for t in place.terms(params)
        if scales_slices(t, params)
    ]
    known = [pair for pair in logs if pair is not None]
    if known:
        importance, size = (torch.stack(parts).mean(0) for parts in zip(*known, strict=True))
        for a, b in EXPONENTS:
            yield a * importance - b * size


def _column_logs(term: Term, params: Params, search: Search, dimension: int) -> tuple[Tensor, Tensor] | None:
    """Returns the logarithms of importance and size of each channel's columns, centred and signed, [dimension]."""
    grid, tensor = search.plan.get(term.parameter), params[term.parameter]
    if grid is None or tensor.ndim < 2 or grid.axis is None or term.axis % tensor.ndim == grid.axis % tensor.ndim:
        return None
    found = []
    for values in (search.squares[term.parameter], tensor.abs().square()):
        slices = values.movedim(term.axis, 0)[term.rows].flatten(1).double().sum(1)
        total = slices.new_zeros(dimension).index_add_(0, term.coefficients, slices)
        logs = total.clamp(min=float(total.max()) * 1e-12).log() / 2
        found.append((logs - logs.mean()) * float(term.weights.sign().sum().sign()))
    return found[0], found[1]
