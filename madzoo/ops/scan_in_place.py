"""The pairwise linear scan in two buffers: pairs are joined in place, then the positions between them are filled.

One buffer holds the states, one the products of the factors; the backward pass is the same scan from the other end.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["in_place_scan"]


def in_place_scan(a: Tensor, b: Tensor, *, reverse: bool) -> Tensor:
    """Computes ``h_t = a_t h_{t-1} + b_t`` along the last axis; differentiable to any order, forward mode included.

    Shapes:
        a, b [..., L] of one dtype -> h [..., L].

    Cost: 3 L multiplications in 2 log2(L) steps, and two tensors of memory.
    """
    return _InPlaceScan.apply(a, b, reverse)


class _InPlaceScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, reverse: bool) -> Tensor:
        h = b.clone()
        _sweep(a.clone(), h, reverse=reverse)
        ctx.save_for_backward(a, h)
        ctx.save_for_forward(a, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, h = ctx.saved_tensors
        grad_b = in_place_scan(_next(a, reverse=ctx.reverse).conj(), grads[0], reverse=not ctx.reverse)
        grad_a = grad_b * _next(h, reverse=not ctx.reverse).conj() if ctx.needs_input_grad[0] else None
        return grad_a, grad_b, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (a, h), (along_a, along_b, _) = ctx.saved_tensors, tangents
        return in_place_scan(a, along_b + along_a * _next(h, reverse=not ctx.reverse), reverse=ctx.reverse)


def _next(x: Tensor, *, reverse: bool) -> Tensor:
    """Returns at each position what stands at the next one of the scan, 0 at its end."""
    return pad(x[..., :-1], (1, 0)) if reverse else pad(x[..., 1:], (0, 1))


def _sweep(a: Tensor, h: Tensor, *, reverse: bool) -> None:
    length = h.shape[-1]
    if length == 1:
        return
    # Of each pair the one the scan meets later takes the other in; the others then take in what precedes them.
    later, earlier, others, before = slice(1, None, 2), slice(0, -1, 2), slice(2, None, 2), slice(1, -1, 2)
    if reverse:
        odd = length % 2
        later, earlier = slice(odd, None, 2), slice(1 + odd, None, 2)
        others, before = slice(1 - odd, -1, 2), slice(2 - odd, None, 2)
    a_later, h_later = a[..., later], h[..., later]
    h_later.addcmul_(a_later, h[..., earlier])
    a_later.mul_(a[..., earlier])
    _sweep(a_later, h_later, reverse=reverse)
    h[..., others].addcmul_(a[..., others], h[..., before])
