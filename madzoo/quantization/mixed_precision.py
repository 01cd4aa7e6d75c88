"""Mixed precision: the bits of each group of tensors that lose least under a budget of stored bits."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.calibration import Calibration
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import kind_of, quantized_parameters, stored_bits, weight_grid
from madzoo.quantization.quantized import quantize_tensor
from madzoo.quantization.replaced import replaced
from madzoo.quantization.sensitivity_record import SensitivityReport

__all__ = ["allocate_bits", "measured_increases", "mixed_plan", "reported_increases"]

WIDTHS = (2, 3, 4, 6, 8)
MOST_STATES = 100_000
Increases = Mapping[str, Mapping[int, float]]


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
        ConfigError: when groups and sizes differ, an increase is not finite, or the smallest choice passes the budget.

    Example:
        >>> table = {"head": {2: 5.0, 8: 0.0}, "mlp": {2: 1.0, 8: 0.0}}
        >>> allocate_bits(table, {"head": 10, "mlp": 10}, 100)
        {'head': 8, 'mlp': 2}
    """
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
    named = quantized_parameters(model)
    groups = {name: group_of(name, p) for name, p in named.items()}
    present = {g: dict(sensitivities[g]) for g in dict.fromkeys(groups.values()) if g in sensitivities}
    layout = {name: _grid(p, 8, group_size) for name, p in named.items() if groups[name] in present}
    sizes = dict.fromkeys(present, 0)
    for name in layout:
        sizes[groups[name]] += named[name].numel() * (2 if named[name].is_complex() else 1)
    overhead = stored_bits(named, layout) - 8 * sum(sizes.values())
    bits = allocate_bits(present, sizes, budget_bits - overhead)
    return {name: dataclasses.replace(grid, bits=bits[groups[name]]) for name, grid in layout.items()}


@torch.no_grad()
def measured_increases(
    model: nn.Module,
    calibration: Calibration,
    *,
    widths: Sequence[int] = WIDTHS,
    observer: str = "min_max",
    group_size: int | None = None,
    group_of: Callable[[str, Tensor], str] = kind_of,
) -> dict[str, dict[int, float]]:
    """Measures how much the calibration loss rises when each group alone is rounded; never below 0.

    Args:
        model: any module; its weights are replaced for a while and put back.
        calibration: the samples and the loss.
        widths: bit widths.
        observer, group_size: how tensors are rounded.
        group_of: (name, tensor) -> the group.

    Cost: ``groups * len(widths) + 1`` forward passes over the calibration set.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, p in quantized_parameters(model).items():
        groups.setdefault(group_of(name, p), {})[name] = p.detach()
    exact, found = calibration.loss(model), {}
    for group, tensors in groups.items():
        found[group] = {}
        for bits in widths:
            rounded = {
                name: quantize_tensor(p, _grid(p, bits, group_size), observer=observer).dequantize()
                for name, p in tensors.items()
            }
            with replaced(model, rounded):
                found[group][bits] = max(calibration.loss(model) - exact, 0.0)
    return found


def reported_increases(report: SensitivityReport) -> tuple[Increases, Callable[[str, Tensor], str]]:
    """Reads rises and groups off a sensitivity report, as :func:`mixed_plan` takes them; never below 0.

    A report rounds to nearest with one scale per row; finer grids lose less, in about the same order.

    Returns:
        The rise of the loss by group and bit width, and (name, tensor) -> the group.

    Raises:
        ConfigError: when the report measured no loss of groups.
    """
    rises = {
        group.name: {e.bits: max(e.delta_loss, 0.0) for e in group.entries if e.delta_loss is not None}
        for group in report.groups
    }
    if not rises or not all(rises.values()):
        todo = "sensitivity(..., loss_fn=...) of a model with groups"
        raise ConfigError("the report measured no loss of groups.", asked=f"{len(rises)} groups", todo=todo)
    owner = {name: group.name for group in report.groups for name in group.tensors}
    return rises, lambda name, _: owner[name]


def _grid(tensor: Tensor, bits: int, group_size: int | None) -> Grid:
    grid = weight_grid(tensor, bits)
    return dataclasses.replace(grid, group_size=group_size if grid.axis == 0 else None)


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
