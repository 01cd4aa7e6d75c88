"""What autograd needs of a selective scan by a kernel: what is kept, and both orders of derivative.

B batch, D channels, L length, N states.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from madzoo.ops.selective_scan_reference import selective_scan_by_reference

__all__ = ["differentiate_by", "save"]


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keeps the eight tensors of the scan and the states that its forward kept."""
    *tensors, ctx.delta_softplus, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)  # zeros as large as the kept states would be written at every backward


def differentiate_by(kernel: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """Returns the derivative of the scan: by the kernel, or by the reference where it is differentiated again.

    Args:
        kernel: takes dL/dy [B, D, L], dL/d(last state) [B, D, N] or None, the eight tensors, the kept states,
            delta_softplus and reverse; returns eight gradients.
    """

    def differentiate(
        ctx: Any, grad_y: Tensor | None, grad_last_state: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        *tensors, kept = ctx.saved_tensors
        if grad_y is None:  # only the last state was used
            grad_y = torch.zeros_like(tensors[0])
        if torch.is_grad_enabled():  # create_graph=True: a second derivative is wanted
            grads = _by_reference(tensors, ctx.delta_softplus, ctx.reverse, grad_y, grad_last_state)
        else:
            grads = kernel(grad_y, grad_last_state, *tensors, kept, ctx.delta_softplus, ctx.reverse)
        found = (None if x is None else grad for x, grad in zip(tensors, grads, strict=True))
        return *found, None, None, None

    return differentiate


def _by_reference(
    tensors: list[Any], delta_softplus: bool, reverse: bool, grad_y: Tensor, grad_last_state: Tensor | None
) -> tuple[Tensor | None, ...]:
    # Seen through a view each: u is often what delta, B and C were computed from, and the derivative by u itself would
    # follow those ways too, which the scan's caller counts already.
    tensors = [None if x is None else x.view_as(x) for x in tensors]
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    wide: list[Any] = [None if x is None else x.to(dtype) for x in tensors]
    y, last_state = selective_scan_by_reference(*wide, delta_softplus=delta_softplus, reverse=reverse)
    outputs, grads = (y.to(tensors[0].dtype),), (grad_y,)
    if grad_last_state is not None:
        outputs, grads = (*outputs, last_state), (*grads, grad_last_state)
    wanted = [x for x in tensors if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in tensors)
