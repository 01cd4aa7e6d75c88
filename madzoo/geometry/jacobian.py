"""Rows of the parameter Jacobian of a network, by reverse mode in float64.

Legend: K elements in one sample's output, n samples, m = n K rows, P parameters (a complex one counts twice).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import DataError, ShapeError
from madzoo.geometry.selection import Output, count, resolve_output, select_parameters

__all__ = ["count_parameters", "float64_copy", "jacobian_rows"]


def float64_copy(model: nn.Module) -> nn.Module:
    """Returns a deep copy in eval mode, float64 (complex128), every parameter ready for differentiation.

    The caller's model keeps its mode, dtype and gradients. Tied parameters stay tied.
    """
    twin = copy.deepcopy(model).eval()
    twin._apply(_widen)
    for parameter in twin.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
            parameter.grad = None
    return twin


def count_parameters(model: nn.Module, parameters: str | Sequence[str] | None = None) -> int:
    """Counts real degrees of freedom: trainable or frozen alike, tied ones once, complex ones twice."""
    return count(select_parameters(model, parameters))


def jacobian_rows(
    model: nn.Module,
    inputs: Tensor,
    *,
    output: Output = "logits",
    parameters: str | Sequence[str] | None = None,
) -> Iterator[Tensor]:
    """Yields the m rows of ``D_theta f_theta(inputs)``, one [P] vector per element of the output tensor.

    The network runs in eval mode, one sample at a time (so normalisation never couples samples), and each output
    element is differentiated by one plain backward pass: any module autograd can differentiate will do.

    Args:
        model: any module whose forward takes one tensor.
        inputs: [n, ...], moved to the model's device, floating ones widened to float64; NaN may mark missing values
            where the model says so.
        output: what is differentiated. ``"logits"`` and ``"forecast"`` both mean the forward's own output,
            ``"median"`` the middle one of a forecast's quantiles;
            ``"log_probs"`` and ``"probabilities"`` put a softmax on its last axis, which loses directions exactly
            (a common shift of the logits) and numerically (saturation): prefer logits. Or a function of whatever the
            forward returns.
        parameters: the columns, see :func:`madzoo.geometry.selection.select_parameters`; None means all.

    Raises:
        ConfigError: when ``output`` is unknown, or a pattern of ``parameters`` matches nothing.
        ShapeError: when there is no tensor to differentiate, or one that is not float64 or has no row per sample.
        DataError: when a row is not finite.

    Cost: m backward passes of one sample; the consumer decides how many rows to keep.
    """
    function = resolve_output(output)
    if not isinstance(inputs, Tensor) or inputs.ndim == 0:
        raise ShapeError("inputs must be one tensor of samples [n, ...].", asked=_describe(inputs))
    twin, x = _prepare(model, inputs)
    columns = list(select_parameters(twin, parameters).values())
    for sample in x.split(1):
        for element in _output_elements(twin, sample, function):
            yield _row(element, columns)


# The caller may be under no_grad or inference_mode; a generator must not hold such a context across a yield,
# so each step leaves it on its own.
@torch.inference_mode(False)
def _prepare(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    device = next((p.device for p in model.parameters()), inputs.device)
    return float64_copy(model), _widen(inputs.detach().clone()).to(device)


@torch.inference_mode(False)
def _output_elements(twin: nn.Module, sample: Tensor, function: Callable[[Any], Tensor]) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        return _one_output(twin, sample, function).flatten().unbind()


@torch.inference_mode(False)
def _row(element: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    if not element.requires_grad:
        return element.new_zeros(sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters))
    grads = torch.autograd.grad(element, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    row = torch.cat([(torch.view_as_real(g) if g.is_complex() else g).flatten() for g in grads])
    if not row.isfinite().all():
        raise DataError(
            "the Jacobian is not finite.", looked="eval mode, float64", todo="check the inputs for NaN or inf"
        )
    return row


def _one_output(twin: nn.Module, sample: Tensor, function: Callable[[Any], Tensor]) -> Tensor:
    value = twin(sample)
    try:
        y = function(value)
    except (AttributeError, TypeError) as error:
        y = error if not isinstance(value, Tensor) else function(value)
    if not isinstance(y, Tensor):
        raise ShapeError(
            f"{type(twin).__name__} returns {_describe(value)}, of which there is no one tensor.",
            asked="the Jacobian of its forward",
            todo="output=a function of what it returns, giving the tensor to differentiate",
        )
    if y.dtype != torch.float64:
        raise ShapeError(
            f"{type(twin).__name__} answers in {y.dtype} to a float64 input.", todo="remove its dtype casts"
        )
    if y.ndim == 0 or y.shape[0] != 1:
        raise ShapeError(
            "the output has no row per sample.", asked=f"1 sample {tuple(sample.shape)}", resolved=tuple(y.shape)
        )
    return y


def _widen(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t.to(torch.complex128) if t.is_complex() else t


def _describe(value: object) -> str:
    return f"a {value.dtype} tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
