"""A copied network, a batch and a loss, seen as one real function of one flat vector of P real numbers.

Legend: n samples, P real parameters (a complex one counts twice: its real and imaginary parts lie side by side).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from madzoo.errors import BackendError, ConfigError, DataError, ShapeError
from madzoo.geometry.jacobian import float64_copy
from madzoo.geometry.selection import select_parameters

__all__ = ["Loss", "SampledLoss", "derivative", "flatten", "twice_differentiable"]

# loss_fn(outputs, targets) -> the mean over samples, a scalar.
Loss = Callable[[Any, Any], Tensor]
UNSUPPORTED = ("is not implemented", "once_differentiable", "double backward")
DTYPES = {torch.float64: torch.complex128, torch.float32: torch.complex64}


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Opens a context in which a network can be differentiated twice, whatever context its caller stands in.

    Every kernel of :mod:`madzoo.ops` answers a request for a second derivative (``create_graph=True``) with its
    reference by itself; torch's fused attention has none, so its plain one is chosen here.

    Raises:
        BackendError: when an operator inside has no second derivative.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if not any(words in str(error) for words in UNSUPPORTED):
            raise
        reason, todo = str(error).splitlines()[0], "another implementation of that operator"
        raise BackendError("an operator of this network has no second derivative.", asked=reason, todo=todo) from error


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Joins tensors to one real vector, complex elements as (real, imaginary)."""
    return torch.cat([(torch.view_as_real(t) if t.is_complex() else t).flatten() for t in tensors])


def derivative(
    values: Sequence[Tensor], inputs: Sequence[Tensor], along: Sequence[Tensor], *, create_graph: bool = False
) -> list[Tensor]:
    """Differentiates the sum of the inner products ``value . along`` by the inputs, zeros where nothing depends.

    Tensors, not one flat vector: what a derivative sends back into a piece of a vector may begin at an odd place of
    memory, and views as complex numbers refuse that. The graph of the values stays.
    """
    pairs = [(value, v) for value, v in zip(values, along, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    moving, directions = zip(*pairs, strict=True)
    keep = {"retain_graph": True, "create_graph": create_graph}
    return list(torch.autograd.grad(moving, inputs, directions, **keep, allow_unused=True, materialize_grads=True))


class SampledLoss:
    """The mean loss of a network on a batch as a function of its selected parameters.

    The network is copied, in eval mode and in ``dtype``; the caller's keeps its mode, dtype and gradients.

    Attributes:
        names, parameters: the selected parameters of the copy, in order of the flat vector.
        num_params: P. n: samples. dtype: of every computation.

    Raises:
        ConfigError: when a pattern selects nothing, the dtype is neither float64 nor float32, or a module takes its
            statistics from the batch even in eval mode, so that there is no loss per sample.
        ShapeError: when the batch is not a pair of samples with one target each.
        DataError: when the batch is empty.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        batch: tuple[Tensor, Any],
        loss_fn: Loss,
        *,
        parameters: str | Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError("curvature is computed in float64 or float32.", asked=dtype)
        _refuse_batch_statistics(model)
        self.dtype = dtype
        self.network = float64_copy(model)
        if dtype != torch.float64:
            self.network._apply(self._cast)
        selected = select_parameters(self.network, parameters)
        self.names, self.parameters = list(selected), list(selected.values())
        self.sizes = [p.numel() * (2 if p.is_complex() else 1) for p in self.parameters]
        self.num_params = sum(self.sizes)
        if not self.num_params:
            raise ConfigError("the model has no parameter to differentiate.", asked=type(model).__name__)
        self.device = self.parameters[0].device
        self.loss_fn = loss_fn
        self.inputs, self.targets = self._check_batch(batch)
        self.n = len(self.inputs)

    def chunks(self, size: int | None = None) -> Iterator[tuple[float, Tensor, Any]]:
        """Yields (share of the samples, inputs, targets), in order; None means the whole batch."""
        size = self.n if size is None else size
        if size < 1:
            raise ConfigError("a chunk holds at least one sample.", asked=size)
        for start in range(0, self.n, size):
            piece = slice(start, start + size)
            inputs = self.inputs[piece]
            yield len(inputs) / self.n, inputs, self.targets[piece]

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Applies the loss and checks what it returns.

        Raises:
            ShapeError: when it is not a real scalar tensor. DataError: when it is not finite.
            ConfigError: when no parameter moves it.
        """
        value = self.loss_fn(outputs, targets)
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.is_floating_point():
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError("loss_fn(outputs, targets) must return a real scalar, the mean over samples.", asked=found)
        if not value.isfinite():
            raise DataError("the loss is not finite.", asked=value.item(), todo="check the batch for NaN or inf")
        if not value.requires_grad:
            raise ConfigError("the loss does not depend on the parameters by a differentiable path.")
        return value

    def split(self, vector: Tensor) -> list[Tensor]:
        """Cuts a flat vector into tensors of the parameters' shapes, each in memory of its own."""
        return [_shaped(piece, p).clone() for piece, p in zip(vector.split(self.sizes), self.parameters, strict=True)]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Cuts a flat vector into tensors of the parameters' shapes, by name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Joins tensors by name to one flat vector; parameters that are not named are 0.

        Raises:
            ConfigError: on a name that was not selected. ShapeError: on a shape that is not the parameter's.
        """
        unknown = tensors.keys() - set(self.names)
        if unknown:
            raise ConfigError("not among the selected parameters.", asked=sorted(unknown))
        parts = []
        for name, parameter in zip(self.names, self.parameters, strict=True):
            part = tensors.get(name, torch.zeros_like(parameter)).detach()
            if part.shape != parameter.shape:
                raise ShapeError(
                    f"{name} has another shape.", asked=tuple(part.shape), todo=str(tuple(parameter.shape))
                )
            parts.append(part.to(parameter))
        return flatten(parts)

    def blocks(self, groups: Mapping[str, str | Sequence[str]] | None = None) -> dict[str, list[slice]]:
        """Returns where each group of parameters lies in the flat vector; None makes every tensor a group.

        Raises:
            ConfigError: when a pattern matches no selected parameter.
        """
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        places = {n: slice(end - size, end) for n, size, end in zip(self.names, self.sizes, ends, strict=True)}
        if groups is None:
            return {name: [place] for name, place in places.items()}
        chosen = {group: select_parameters(self.network, patterns) for group, patterns in groups.items()}
        found = {group: [places[name] for name in names if name in places] for group, names in chosen.items()}
        if empty := [group for group, slices in found.items() if not slices]:
            raise ConfigError("a group holds none of the selected parameters.", asked=empty)
        return found

    def _check_batch(self, batch: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
            raise ShapeError("batch must be (inputs [n, ...], targets [n, ...]).", asked=type(batch).__name__)
        inputs, targets = (self._cast(t.detach().clone()) if isinstance(t, Tensor) else t for t in batch)
        if inputs.ndim == 0 or not hasattr(targets, "__len__") or len(inputs) != len(targets):
            raise ShapeError("every sample needs one target.", asked=tuple(inputs.shape))
        if len(inputs) == 0:
            raise DataError("the batch is empty.", asked=tuple(inputs.shape))
        return inputs.to(self.device), targets.to(self.device) if isinstance(targets, Tensor) else targets

    def _cast(self, t: Tensor) -> Tensor:
        return t.to(self.dtype) if t.is_floating_point() else t.to(DTYPES[self.dtype]) if t.is_complex() else t


def _shaped(piece: Tensor, parameter: Tensor) -> Tensor:
    if parameter.is_complex():
        return torch.complex(piece[0::2], piece[1::2]).view_as(parameter)
    return piece.view_as(parameter)


def _refuse_batch_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ConfigError(
                "a norm takes its statistics from the batch even in eval mode: there is no loss per sample.",
                asked=name or type(module).__name__,
                todo="track_running_stats=True, or a norm that looks at one sample",
            )
