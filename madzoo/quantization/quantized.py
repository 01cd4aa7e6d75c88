"""Quantized weights: codes with their scales, for every tensor of a model that a plan names."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid, from_codes, to_codes
from madzoo.quantization.observers import find_scale

__all__ = ["Plan", "QuantizedTensor", "load_quantized", "quantize_tensor", "quantize_weights"]

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
        ConfigError: when the plan names no parameter of the model.
    """
    return {name: quantize_tensor(find_parameter(model, name), grid, observer=observer) for name, grid in plan.items()}


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
