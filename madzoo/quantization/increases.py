"""What rounding each group of tensors alone costs: measured on calibration data, or read off a report."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.calibration import Calibration
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import quantized_parameters, weight_grid
from madzoo.quantization.quantized import quantize_tensor
from madzoo.quantization.replaced import replaced
from madzoo.quantization.sensitivity_record import SensitivityReport
from madzoo.quantization.tensor_kinds import kind_of

__all__ = ["Increases", "measured_increases", "reported_increases", "row_grid"]

WIDTHS = (2, 3, 4, 6, 8)
# The rise of the loss by group and bit width.
Increases = Mapping[str, Mapping[int, float]]


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
        model: any module; it is copied (eval mode), never changed.
        calibration: the samples and the loss.
        widths: bit widths.
        observer, group_size: how tensors are rounded.
        group_of: (name, tensor) -> the group.

    Cost: ``groups * len(widths) + 1`` forward passes over the calibration set.
    """
    model, groups = copy.deepcopy(model).eval(), dict[str, dict[str, Tensor]]()
    for name, p in quantized_parameters(model).items():
        groups.setdefault(group_of(name, p), {})[name] = p.detach()
    exact, found = calibration.loss(model), {}
    for group, tensors in groups.items():
        found[group] = {}
        for bits in widths:
            rounded = {
                name: quantize_tensor(p, row_grid(p, bits, group_size), observer=observer).dequantize()
                for name, p in tensors.items()
            }
            with replaced(model, rounded):
                found[group][bits] = max(calibration.loss(model) - exact, 0.0)
    return found


def reported_increases(report: SensitivityReport) -> tuple[Increases, Callable[[str, Tensor], str]]:
    """Reads rises and groups off a sensitivity report, as :func:`madzoo.quantization.mixed_plan` takes them.

    Rises are never below 0. A report rounds to nearest with one scale per row; finer grids lose less, in about the
    same order.

    Returns:
        The rise of the loss by group and bit width, and (name, tensor) -> the group, which refuses a parameter that
        is none of the report's model with a ConfigError.

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

    def group_of(name: str, _: Tensor) -> str:
        if name not in owner:
            raise ConfigError("the report is of another model.", asked=name, looked=", ".join(rises))
        return owner[name]

    return rises, group_of


def row_grid(tensor: Tensor, bits: int, group_size: int | None) -> Grid:
    """Returns the symmetric grid of one scale per row, or per group of one; of a vector one scale."""
    grid = weight_grid(tensor, bits)
    return dataclasses.replace(grid, group_size=group_size if grid.axis == 0 else None)
