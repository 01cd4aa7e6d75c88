"""Batch norms: the variance they divide by, and what their gain and bias do about a scale or a shift of their input.

Recorded statistics stay as they are: gain and bias take a scale back. The statistics of the batch follow a scale, all
but eps, and the gain makes up for that: exactly, by a factor that hangs on the variance, so on the batch.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from madzoo.gauges import Slices, diagonal_term
from madzoo.geometry.flow import Norm
from madzoo.geometry.flow_notes import BATCH_NORM, arguments_of
from madzoo.symmetry import Parameters, Term

__all__ = ["BatchVariances", "added_term", "scale_terms", "shift_terms"]


class BatchVariances:
    """Computes what batch norms divide by at any parameters of a model, on one sample.

    Args:
        model: in eval mode; its forward takes one tensor.
        inputs: one sample alone: then what a norm calls the batch is the same however samples are grouped.

    Cost: one forward pass per point.
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.model, self.inputs = model, inputs
        self._known: list[tuple[list[Tensor], list[Tensor]]] = []

    def at(self, params: Parameters, number: int) -> Tensor:
        """Returns the variances [channels], without eps, of the norm that is called as number ``number``."""
        point = list(params.values())
        for known, variances in self._known:
            if len(known) == len(point) and all(a is b for a, b in zip(known, point, strict=True)):
                return variances[number]
        with torch.no_grad(), _Watch() as watch:
            functional_call(self.model, dict(params), (self.inputs,))
        self._known.append((point, watch.variances))
        return watch.variances[number]


class _Watch(TorchFunctionMode):
    """Notes the variance of every batch that a batch norm takes its statistics from."""

    def __init__(self) -> None:
        super().__init__()
        self.variances: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "batch_norm":
            x, *_, training, _, _ = arguments_of(args, kwargs or {}, *BATCH_NORM)
            if training:
                self.variances.append(x.var([a for a in range(x.ndim) if a != 1], correction=0))
        return func(*args, **(kwargs or {}))


def scale_terms(norm: Norm, params: Parameters, power: float) -> Iterator[Term]:
    """Yields what keeps the output where generator i lets channel i of the input grow, at the rate ``power``."""
    assert norm.gain is not None
    gain = params[norm.gain]
    if norm.variance is not None:
        # (x - mean) / sqrt(variance + eps) grows at the rate power (1 - variance / (variance + eps)).
        yield added_term(norm.gain, -power * gain * norm.eps / (norm.variance(params) + norm.eps))
        return
    assert norm.bias is not None
    assert norm.mean is not None
    assert norm.deviation is not None
    yield diagonal_term(norm.gain, gain, Slices(), len(gain), -power)
    yield added_term(norm.bias, -power * gain * norm.mean / norm.deviation)


def shift_terms(norm: Norm, params: Parameters, amount: float) -> Iterator[Term]:
    """Yields what keeps the output where generator i adds ``amount`` to channel i of the input."""
    if norm.mean is None:  # that of the batch moves along
        return
    assert norm.gain is not None
    assert norm.bias is not None
    assert norm.deviation is not None
    yield added_term(norm.bias, -amount * params[norm.gain] / norm.deviation)


def added_term(name: str, amounts: Tensor, *, axis: int = 0, others: tuple[int, ...] = ()) -> Term:
    """Returns the term by which generator i adds amounts[i] everywhere on slice i."""
    every = torch.arange(len(amounts))
    return Term(
        parameter=name,
        axis=axis,
        rows=every,
        coefficients=every,
        source=torch.ones((1, *others), dtype=torch.float64),
        source_rows=torch.zeros_like(every),
        weights=amounts.double(),
    )
