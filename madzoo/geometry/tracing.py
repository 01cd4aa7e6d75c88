"""Watches a forward pass: which results stem from parameters alone, and where they meet the data.

Every call of a torch function or operator passes through :class:`Trace`. A result of parameters and constants alone is
a *weight*; where a weight meets data, a rule says how each sample's own derivative is found, and may compute the result
another way for it (exact but for rounding). What no rule knows is named in :attr:`Trace.unknown`.

Legend: c samples of the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from madzoo.geometry.calls import CHANNELWISE, ELEMENTWISE, EXPANDING, call_name, is_operator, tensors_of
from madzoo.geometry.uses import Bias, Convolution, Copies, Grouped, Matrix, Use, pad_for, spread

__all__ = ["Stopped", "Trace"]

CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class Stopped(BaseException):  # a model that handles errors must not catch it
    """Ends a forward pass early.

    Args:
        result: of the last call.
    """

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self.result = result


class Trace(TorchFunctionMode):
    """Records the uses of a model's parameters while it is active.

    Args:
        model: its parameters are weights, its buffers constants.
        batch: samples c in the input.
        stop: number of the call after which :class:`Stopped` is raised, where that returns a tensor.

    Attributes:
        uses: one record per place.
        unknown: parameters of which some use is not understood, by ``id``.
        calls: the number of the call that made a tensor, by its node in autograd's graph.
    """

    def __init__(self, model: nn.Module, batch: int, *, stop: int | None = None) -> None:
        super().__init__()
        self.batch = batch
        self.calls: dict[Node, int] = {}
        self._number, self._stop = 0, stop
        self.uses: list[Use] = []
        self.unknown: set[int] = set()
        self._sources: dict[int, frozenset[int]] = {}  # of every weight and constant: the parameters it is made of
        self._kept: list[Tensor] = []  # an id names a tensor only while it lives
        for parameter in model.parameters():
            self._know(parameter, frozenset([id(parameter)]))
        for buffer in model.buffers():
            self._know(buffer, frozenset())

    def sources(self, weight: Tensor) -> frozenset[int]:
        """Returns the parameters that a weight is computed from, by ``id``."""
        return self._sources[id(weight)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number, self._number = self._number, self._number + 1
        result = self._call(func, args, kwargs or {})
        if isinstance(result, Tensor):
            if result.grad_fn is not None:
                self.calls.setdefault(result.grad_fn, number)
            if number == self._stop:
                raise Stopped(result)
        return result

    def _call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = list(tensors_of((args, kwargs)))
        weights = [t for t in tensors if self._sources.get(id(t))]
        if all(id(t) in self._sources for t in tensors):
            return self._without_data(func, args, kwargs, weights)
        if not (weights and torch.is_grad_enabled()):
            return func(*args, **kwargs)
        rule = self._rule(func)
        result = NotImplemented if rule is None else rule(func, *args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            if call_name(func) == "setitem" or any(True for _ in tensors_of(result)):
                self.unknown.update(*(self._sources[id(w)] for w in weights))
        return result

    def _know(self, tensor: Tensor, sources: frozenset[int]) -> None:
        self._sources[id(tensor)] = sources
        self._kept.append(tensor)

    def _without_data(self, func: Any, args: Any, kwargs: Any, weights: list[Tensor]) -> Any:
        result = func(*args, **kwargs)
        if call_name(func) in EXPANDING and len(weights) == 1 and self._is_per_sample(result, weights[0]):
            self._record(Copies(weight=weights[0], edge=get_gradient_edge(result), batch=self.batch))
            return result
        sources = frozenset[int]().union(*(self._sources[id(w)] for w in weights))
        for tensor in tensors_of(result):
            if id(tensor) not in self._sources:  # a function may hand back its own argument
                self._know(tensor, sources if tensor.requires_grad else frozenset())
        return result

    def _is_per_sample(self, result: Tensor, weight: Tensor) -> bool:
        return result.shape == (self.batch, *weight.shape[1:]) and weight.shape[0] == 1

    def _record(self, use: Use) -> None:
        self.uses.append(use)

    def _is_weight(self, value: object) -> bool:
        return isinstance(value, Tensor) and bool(self._sources.get(id(value)))

    def _is_data(self, value: object) -> bool:
        return isinstance(value, Tensor) and id(value) not in self._sources

    def _has_samples(self, x: Tensor) -> bool:
        return x.dim() > 0 and x.shape[0] > 0 and x.shape[0] % self.batch == 0

    def _rule(self, func: Any) -> Callable[..., Any] | None:
        if func in CONVOLUTIONS:
            return self._convolution
        if func in _RULES:
            return getattr(self, _RULES[func])
        name = call_name(func)
        if is_operator(func):
            return self._channelwise if name in CHANNELWISE else self._rms_operator if name == "rms_norm" else None
        return {"matmul": self._matmul, "bmm": self._bmm, "einsum": self._einsum}.get(
            name, self._elementwise if name in ELEMENTWISE else None
        )

    def _linear(self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if not (self._is_data(x) and self._has_samples(x) and x.dim() > 1) or self._is_data(weight):
            return NotImplemented
        y = func(x, weight, bias)
        edge = get_gradient_edge(y)
        if self._is_weight(weight):
            self._record(Matrix(weight=weight, edge=edge, batch=self.batch, x=x.detach()))
        if bias is not None and self._is_weight(bias):
            self._record(Bias(weight=bias, edge=edge, batch=self.batch, axis=-1))
        return y

    def _convolution(
        self, func: Any, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        space = CONVOLUTIONS[func]
        if not (self._is_data(x) and x.dim() == space + 2 and self._has_samples(x)) or self._is_data(weight):
            return NotImplemented
        y = func(x, weight, bias, stride, padding, dilation, groups)
        edge, stride, dilation = get_gradient_edge(y), spread(stride, space), spread(dilation, space)
        if self._is_weight(weight):
            padded = pad_for(x.detach(), weight, padding, dilation)
            use = Convolution(
                weight=weight, edge=edge, batch=self.batch, x=padded, stride=stride, dilation=dilation, groups=groups
            )
            self._record(use)
        if bias is not None and self._is_weight(bias):
            self._record(Bias(weight=bias, edge=edge, batch=self.batch, axis=1))
        return y

    def _matmul(self, func: Any, x: Tensor, other: Tensor) -> Any:
        data, weight = (x, other) if self._is_data(x) else (other, x)
        if not (self._is_data(data) and self._is_weight(weight) and self._has_samples(data)):
            return NotImplemented
        if weight is other and weight.dim() == 2 and data.dim() > 1:
            y = func(data, weight)
            kind = Matrix(weight=weight, edge=get_gradient_edge(y), batch=self.batch, x=data.detach(), transposed=True)
            self._record(kind)
            return y
        if weight.dim() < 2 or data.dim() < 3:
            return NotImplemented
        copies = self._copies(weight, data.dim(), data.shape[0])
        return NotImplemented if copies is None else func(*(copies if a is weight else a for a in (x, other)))

    def _bmm(self, func: Any, weight: Tensor, x: Tensor) -> Any:
        if not (self._is_weight(weight) and self._is_data(x) and x.shape[-1] % self.batch == 0):
            return NotImplemented
        y = func(weight, x)
        self._record(Grouped(weight=weight, edge=get_gradient_edge(y), batch=self.batch, x=x.detach()))
        return y

    def _elementwise(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        shape = torch.broadcast_shapes(*(t.shape for t in tensors_of(args)))
        data = [t for t in tensors_of(args) if self._is_data(t)]
        led = any(t.dim() == len(shape) and t.shape[0] == shape[0] for t in data)
        if not (shape and led and shape[0] % self.batch == 0) or any(True for _ in tensors_of(kwargs)):
            return NotImplemented
        if call_name(func, keep=True).endswith("_") and self._is_weight(args[0]):
            return NotImplemented
        copied = [self._copies(a, len(shape), shape[0]) if self._is_weight(a) else a for a in args]
        return NotImplemented if any(a is None for a in copied) else func(*copied, **kwargs)

    def _einsum(self, func: Any, equation: Any, *operands: Any) -> Any:
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        if not isinstance(equation, str) or "." in equation or "->" not in equation:
            return NotImplemented
        left, right = equation.replace(" ", "").split("->")
        terms = left.split(",")
        leads = {term[:1] for term, x in zip(terms, operands, strict=True) if self._is_data(x)}
        letter = leads.pop() if len(leads) == 1 else ""
        weights = [term for term, x in zip(terms, operands, strict=True) if self._is_weight(x)]
        data = [x for x in operands if self._is_data(x)]
        if not letter or any(letter in term for term in weights) or not all(map(self._has_samples, data)):
            return NotImplemented
        pairs = list(zip(terms, operands, strict=True))
        copied = [self._copies(x, x.dim() + 1, data[0].shape[0]) if self._is_weight(x) else x for _, x in pairs]
        renamed = [letter + term if self._is_weight(x) else term for term, x in pairs]
        return func(f"{','.join(renamed)}->{right}", *copied)

    def _layer_norm(
        self, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        return self._affine(func(input, normalized_shape, None, None, eps), weight, bias)

    def _rms_norm(
        self, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
    ) -> Any:
        return self._affine(func(input, normalized_shape, None, eps), weight, None)

    def _rms_operator(self, func: Any, x: Tensor, weight: Tensor, eps: float) -> Any:
        return self._affine(func(x, torch.ones_like(weight.detach()), eps), weight, None)

    def _group_norm(
        self, func: Any, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        return self._affine(func(input, num_groups, None, None, eps), weight, bias, axes=input.dim() - 2)

    def _batch_norm(
        self, func: Any, input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
        training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Any:  # fmt: skip
        if training:
            return NotImplemented
        normal = func(input, running_mean, running_var, None, None, False, momentum, eps)
        return self._affine(normal, weight, bias, axes=input.dim() - 2)

    def _affine(self, normal: Tensor, weight: Any, bias: Any, *, axes: int = 0) -> Tensor:
        """Multiplies and adds along a channel axis that ``axes`` others follow, under this very trace."""
        with self:
            if weight is not None:
                normal = normal * (weight.reshape(-1, *[1] * axes) if axes else weight)
            if bias is not None:
                normal = normal + (bias.reshape(-1, *[1] * axes) if axes else bias)
        return normal

    def _channelwise(self, func: Any, *args: Any) -> Any:
        """Lays all samples' channels side by side in one sequence, so that each has weights of its own."""
        data = [a for a in args if self._is_data(a)]
        others = [a for a in args if isinstance(a, Tensor) and not self._is_data(a)]
        if not self._is_data(args[0]) or any(t.dim() < 3 or len(t) != len(data[0]) for t in data):
            return NotImplemented
        count, channels = args[0].shape[:2]
        if count % self.batch or any(w.shape[:1] != (channels,) for w in others):
            return NotImplemented
        found = func(*map(self._side_by_side, args))
        wide = (count // self.batch, self.batch * channels)
        apart = [
            t.unflatten(1, (self.batch, channels)).transpose(0, 1).flatten(0, 1) if t.shape[:2] == wide else t
            for t in tensors_of(found)
        ]
        return apart[0] if isinstance(found, Tensor) else tuple(apart)

    def _side_by_side(self, value: Any) -> Any:
        if self._is_data(value):  # [c r, channels, ...] -> [r, c channels, ...]
            return value.unflatten(0, (self.batch, -1)).transpose(0, 1).flatten(1, 2)
        if not isinstance(value, Tensor):
            return value
        copies = self._copies(value, value.dim() + 1, self.batch)
        return None if copies is None else copies.flatten(0, 1)

    def _copies(self, weight: Tensor, axes: int, rows: int) -> Tensor | None:
        """Returns [rows, ...] copies of a weight, those of one sample alike; None where its own first axis is used."""
        if weight.dim() > axes or (weight.dim() == axes and weight.shape[0] != 1):
            return None
        aligned = weight.reshape(*[1] * (axes - weight.dim()), *weight.shape)
        copies = aligned.expand(self.batch, *aligned.shape[1:])
        if self._is_weight(weight):
            self._record(Copies(weight=weight, edge=get_gradient_edge(copies), batch=self.batch))
        return copies if rows == self.batch else copies.repeat_interleave(rows // self.batch, dim=0)


_RULES: dict[Any, str] = {
    F.linear: "_linear",
    F.layer_norm: "_layer_norm",
    F.rms_norm: "_rms_norm",
    F.group_norm: "_group_norm",
    F.batch_norm: "_batch_norm",
}
