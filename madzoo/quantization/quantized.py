"""Quantized weights: codes with their scales, for every tensor of a model that a plan names."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid, from_codes, to_codes
from madzoo.quantization.observers import find_scale

__all__ = [
    "Plan",
    "QuantizedTensor",
    "find_parameter",
    "load_quantized",
    "planned_parameters",
    "quantize_tensor",
    "quantize_weights",
]

Plan = Mapping[str, Grid]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """Holds a tensor as codes; a complex tensor as pairs of reals in a last axis of two.

    Attributes:
        grid: its levels.
        codes: int16, the tensor's shape.
        scale, zero_point: [R, 1], one per row of the grid; no zero point where the grid is symmetric.
        dtype: of the tensor.
    """

    grid: Grid
    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    dtype: torch.dtype

    def dequantize(self) -> Tensor:
        """Returns the tensor whose elements are the levels."""
        values = from_codes(self.codes, self.grid, self.scale, self.zero_point)
        return (
            torch.view_as_complex(values.contiguous()).to(self.dtype)
            if self.dtype.is_complex
            else values.to(self.dtype)
        )


def quantize_tensor(
    w: Tensor, grid: Grid, *, observer: str = "min_max", scale: tuple[Tensor, Tensor | None] | None = None
) -> QuantizedTensor:
    """Rounds a tensor to a grid, at the observer's scale unless one is given.

    Raises:
        ConfigError, DataError, ShapeError: see :func:`find_scale` and :func:`madzoo.quantization.grid.to_rows`.
    """
    real = torch.view_as_real(w.detach()) if w.is_complex() else w.detach()
    size, zero = scale or find_scale(real, grid, observer=observer)
    return QuantizedTensor(
        grid=grid, codes=to_codes(real, grid, size, zero), scale=size, zero_point=zero, dtype=w.dtype
    )


def quantize_weights(model: nn.Module, plan: Plan, *, observer: str = "min_max") -> dict[str, QuantizedTensor]:
    """Rounds the parameters that a plan names, each on its own.

    Raises:
        ConfigError: see :func:`planned_parameters`.
    """
    planned = planned_parameters(model, plan)
    return {name: quantize_tensor(p, plan[name], observer=observer) for name, p in planned.items()}


def planned_parameters(model: nn.Module, plan: Plan) -> dict[str, nn.Parameter]:
    """Returns the parameters that a plan names.

    Raises:
        ConfigError: when the plan is no mapping, names no parameter of the model or one that is no floating number, or
            a value is no :class:`Grid`.
    """
    if not isinstance(plan, Mapping):
        raise ConfigError(
            "a plan maps parameter names to grids.", asked=type(plan).__name__, todo="make_plan(model, bits)"
        )
    found = {name: find_parameter(model, name) for name in plan}
    for name, p in found.items():
        if not isinstance(plan[name], Grid):
            raise ConfigError("a plan says a grid.", asked=f"{name}: {plan[name]!r}", todo="Grid(bits=4)")
        if not (p.is_floating_point() or p.is_complex()):
            raise ConfigError("only numbers with a fraction are rounded.", asked=f"{name}, {p.dtype}")
    return found


@torch.no_grad()
def load_quantized(model: nn.Module, weights: Mapping[str, QuantizedTensor]) -> nn.Module:
    """Writes quantized weights into a model, in place, as floats on their levels; returns the model."""
    for name, tensor in weights.items():
        find_parameter(model, name).copy_(tensor.dequantize())
    return model


def find_parameter(model: nn.Module, name: str) -> nn.Parameter:
    """Returns a parameter by name.

    Raises:
        ConfigError: when the model has none of this name.
    """
    parameters = dict(model.named_parameters())
    if name not in parameters:
        raise ConfigError("the model has no parameter of this name.", asked=name, resolved=type(model).__name__)
    return parameters[name]
