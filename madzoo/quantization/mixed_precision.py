"""Mixed precision: the bits of each group of tensors that lose least under a budget of stored bits."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from numbers import Real

import numpy as np
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid
from madzoo.quantization.increases import Increases, row_grid
from madzoo.quantization.plan import quantized_parameters, stored_bits
from madzoo.quantization.tensor_kinds import kind_of

__all__ = ["allocate_bits", "check_budget", "mixed_plan"]

MOST_STATES = 100_000


def allocate_bits(sensitivities: Increases, sizes: Mapping[str, int], budget_bits: int) -> dict[str, int]:
    """Chooses the bits of each group that minimise the summed loss increase under a budget, exactly.

    Dynamic programming over the groups keeps, of all choices so far, those that no smaller one beats. That is exact as
    long as there are at most :data:`MOST_STATES` of them; beyond, evenly spaced ones are kept, the smallest and the
    best among them: the budget holds all the same, the minimum may be missed by a little.

    Args:
        sensitivities: loss increase by group and bit width.
        sizes: number of weights by group; b bits store ``b * size``.
        budget_bits: what all may store together.

    Raises:
        ConfigError: when groups and sizes differ, an increase is not finite, the budget is no number, or the smallest
            choice passes it.

    Example:
        >>> table = {"head": {2: 5.0, 8: 0.0}, "mlp": {2: 1.0, 8: 0.0}}
        >>> allocate_bits(table, {"head": 10, "mlp": 10}, 100)
        {'head': 8, 'mlp': 2}
    """
    check_budget(budget_bits)
    _check(sensitivities, sizes, budget_bits)
    size, loss, history = np.zeros(1), np.zeros(1), []
    smallest = {group: min(found) * sizes[group] for group, found in sensitivities.items()}
    rest = sum(smallest.values())
    for group, found in sensitivities.items():
        rest -= smallest[group]
        widths = np.array(list(found))
        total = (size[:, None] + widths * sizes[group]).ravel()
        lost = (loss[:, None] + np.array(list(found.values()))).ravel()
        kept = _front(total, lost, budget_bits - rest)
        history.append((group, kept // len(widths), widths[kept % len(widths)]))
        size, loss = total[kept], lost[kept]
    chosen, state = {}, int(np.argmin(loss))
    for group, before, widths in reversed(history):
        chosen[group], state = int(widths[state]), int(before[state])
    return {group: chosen[group] for group in sensitivities}


def mixed_plan(
    model: nn.Module,
    sensitivities: Increases,
    budget_bits: int,
    *,
    group_size: int | None = None,
    group_of: Callable[[str, Tensor], str] = kind_of,
) -> dict[str, Grid]:
    """Plans the grids of a model, with the bits of each group chosen under a budget.

    Args:
        model: any module.
        sensitivities: loss increase by group and bit width; tensors of other groups stay floats.
        budget_bits: what the whole model may store, as :func:`madzoo.quantization.plan.stored_bits` counts: codes,
            scales, and 32 bits for each number that stays.
        group_size: one scale per so many elements of a row.
        group_of: (name, tensor) -> the group; by default the kind of tensor.

    Raises:
        ConfigError: see :func:`allocate_bits`.
    """
    check_budget(budget_bits)
    named = quantized_parameters(model)
    groups = {name: group_of(name, p) for name, p in named.items()}
    present = {g: dict(sensitivities[g]) for g in dict.fromkeys(groups.values()) if g in sensitivities}
    layout = {name: row_grid(p, 8, group_size) for name, p in named.items() if groups[name] in present}
    sizes = dict.fromkeys(present, 0)
    for name in layout:
        sizes[groups[name]] += named[name].numel() * (2 if named[name].is_complex() else 1)
    overhead = stored_bits(named, layout) - 8 * sum(sizes.values())
    bits = allocate_bits(present, sizes, budget_bits - overhead)
    return {name: dataclasses.replace(grid, bits=bits[groups[name]]) for name, grid in layout.items()}


def check_budget(budget_bits: float) -> None:
    """Refuses a budget that is no number.

    Raises:
        ConfigError: when it is none.
    """
    if not isinstance(budget_bits, Real) or isinstance(budget_bits, bool) or math.isnan(budget_bits):
        raise ConfigError("a budget is a number of bits.", asked=f"budget_bits={budget_bits!r}")


def _front(size: np.ndarray, loss: np.ndarray, budget: float) -> np.ndarray:
    """Returns the choices within the budget that no smaller or equal one beats, by size."""
    order = np.lexsort((loss, size))
    order = order[size[order] <= budget]
    best = np.minimum.accumulate(loss[order])
    first = np.ones(len(order), dtype=bool)
    first[1:] = loss[order][1:] < best[:-1]
    kept = order[first]
    if len(kept) <= MOST_STATES:
        return kept
    return kept[np.linspace(0, len(kept) - 1, MOST_STATES).round().astype(int)]


def _check(sensitivities: Increases, sizes: Mapping[str, int], budget_bits: int) -> None:
    if set(sensitivities) != set(sizes) or not all(sensitivities.values()):
        raise ConfigError(
            "each group needs a size and an increase for some bit width.",
            asked=sorted(map(str, sensitivities)),
            resolved=sorted(map(str, sizes)),
        )
    if not all(np.isfinite(loss) for found in sensitivities.values() for loss in found.values()):
        raise ConfigError("loss increases must be finite; leave out bit widths that are not.")
    least = sum(min(found) * sizes[group] for group, found in sensitivities.items())
    if least > budget_bits:
        raise ConfigError(
            "the budget is below the smallest choice.", asked=f"{budget_bits} bits", todo=f"at least {least}"
        )
