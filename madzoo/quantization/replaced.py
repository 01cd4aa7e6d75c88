"""Weights replaced for a while: others written into a model, its own put back whatever happens in between."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from madzoo.quantization.quantized import find_parameter

__all__ = ["replaced"]


@contextmanager
def replaced(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Opens a context in which some parameters of a model hold other values; afterwards the old ones, bit for bit.

    Args:
        model: changed in place.
        values: parameter name -> tensor of its shape.

    Raises:
        ConfigError: when the model has no parameter of a name.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with replaced(layer, {"bias": torch.tensor([3.0])}):
        ...     layer.bias.item()
        3.0
    """
    parameters = {name: find_parameter(model, name) for name in values}
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        _write(parameters, values)
        yield model
    finally:
        _write(parameters, kept)


@torch.no_grad()
def _write(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.copy_(values[name])
