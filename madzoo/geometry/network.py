"""A network made ready to be differentiated sample by sample: a float64 copy in eval mode, and its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from madzoo.errors import ConfigError, DataError, ShapeError
from madzoo.geometry.jacobian import float64_copy
from madzoo.geometry.selection import Output, resolve_output, select_parameters

__all__ = ["Network", "prepare_network", "refuse_batch_statistics"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Holds what is differentiated: f(inputs) by the chosen parameters.

    Attributes:
        model: the copy.
        inputs: [n, ...], float64 where they were floating.
        output: from the forward's value to one tensor with a row per sample.
        parameters: the columns, by name.
    """

    model: nn.Module
    inputs: Tensor
    output: Callable[[Any], Tensor]
    parameters: dict[str, nn.Parameter]

    def answer(self, samples: slice | Tensor) -> Tensor:
        """Returns the differentiable answer to some samples, [samples, K].

        Raises:
            ShapeError: when it is no float64 tensor with a row per sample.
            DataError: when it is not finite.
        """
        x = self.inputs[samples]
        y = self.output(self.model(x))
        if not isinstance(y, Tensor):
            raise ShapeError(
                f"the output is a {type(y).__name__}, not one tensor.",
                asked=type(self.model).__name__,
                todo="output=lambda y: ..., which returns the tensor to differentiate",
            )
        if y.dtype != torch.float64:
            raise ShapeError(f"the output is {y.dtype} for a float64 input.", todo="remove the model's dtype casts")
        if y.dim() == 0 or len(y) != len(x):
            raise ShapeError(
                "the output has no row per sample.", asked=f"{len(x)} samples {tuple(x.shape)}", resolved=tuple(y.shape)
            )
        if not y.isfinite().all():
            raise DataError("the output is not finite.", looked="eval mode, float64", todo="check inputs for NaN, inf")
        return y.flatten(1) if y.dim() > 1 else y.unsqueeze(1)


def prepare_network(
    model: nn.Module,
    inputs: Tensor,
    *,
    output: Output,
    parameters: str | Sequence[str] | None,
    device: torch.device | str | None,
) -> Network:
    """Copies a model for differentiation; the caller's keeps its mode, dtype and gradients.

    Args:
        model: any module whose forward takes one tensor.
        inputs: [n, ...].
        output: see :func:`madzoo.geometry.selection.resolve_output`.
        parameters: see :func:`madzoo.geometry.selection.select_parameters`.
        device: where to compute; None: where the model is.

    Raises:
        ConfigError: on an unknown output or pattern, or a BatchNorm that would use the statistics of the batch.
        ShapeError: when the inputs are no tensor of samples.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() == 0 or len(inputs) == 0:
        raise ShapeError("inputs must be one tensor of samples [n, ...].", asked=type(inputs).__name__)
    refuse_batch_statistics(model)
    chosen = resolve_output(output)
    names = list(select_parameters(model, parameters))
    twin = float64_copy(model)
    place = torch.device(device) if device is not None else next((p.device for p in model.parameters()), inputs.device)
    twin = twin.to(place)
    x = inputs.detach().to(place)
    x = x.double() if x.is_floating_point() else x.to(torch.complex128) if x.is_complex() else x
    own = dict(twin.named_parameters())
    return Network(model=twin, inputs=x, output=chosen, parameters={name: own[name] for name in names})


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuses a model whose BatchNorm normalises by the batch: its rows would depend on the other samples.

    Raises:
        ConfigError: with the name of the first such module.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            why = "is in train mode" if module.training else "keeps no running statistics"
            first = "track_running_stats=True, then " if module.running_mean is None else ""
            raise ConfigError(
                f"BatchNorm {name!r} {why}: one sample's output would depend on the others.",
                asked=type(module).__name__,
                todo=f"{first}model.eval()",
            )
