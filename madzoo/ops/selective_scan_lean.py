"""The selective scan in plain PyTorch with nothing of size B D L N in memory.

One exponential per step; the forward keeps one state in every eight, the backward recomputes the others. Time is the
leading axis and channels the last, so that a step reads contiguous memory and every product runs along channels.
L length, B batch times groups, N states, P channels of a group.
"""

from typing import Any

import torch
from torch import Tensor

from madzoo.ops.selective_scan_reference import around_scan

__all__ = ["lean_scan", "lean_selective_scan", "why_not_lean"]

STRIDE = 8  # states kept: L / STRIDE; states recomputed at a time: STRIDE


def why_not_lean(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Returns why the lean loop does not serve these inputs, or None when it does."""
    if A.is_complex():
        return "complex A"
    return "constant B or C" if B.dim() == 2 or C.dim() == 2 else None


def lean_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Does all of :func:`madzoo.ops.selective_scan`, the scan itself by :func:`lean_scan`."""
    return around_scan(lean_scan, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)


def lean_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Scans with in-place steps and a backward written by hand.

    Shapes:
        u, dt: [B, D, L]. A: [D, N], real. B, C: [B, N, L] or [B, G, N, L]. returns y [B, D, L], last state [B, D, N].
    """
    batch, channels, length = u.shape
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    groups = max(B.shape[1], C.shape[1])
    B, C = (x if x.shape[1] == groups else x.repeat_interleave(groups // x.shape[1], dim=1) for x in (B, C))
    if reverse:
        u, dt, B, C = (x.flip(-1) for x in (u, dt, B, C))
    u_LBP, dt_LBP = (
        x.unflatten(1, (groups, -1)).permute(3, 0, 1, 2).reshape(length, batch * groups, -1) for x in (u, dt)
    )
    B_LBN, C_LBN = (x.permute(3, 0, 1, 2).reshape(length, batch * groups, -1) for x in (B, C))
    A_BNP = A.unflatten(0, (groups, -1)).transpose(1, 2)
    A_BNP = A_BNP if groups == 1 else A_BNP.repeat(batch, 1, 1)
    inputs = (u_LBP, dt_LBP, A_BNP, B_LBN, C_LBN)
    y_LBP, state_BNP = _LeanScan.apply(*(x.contiguous() for x in inputs))
    y = y_LBP.reshape(length, batch, channels).permute(1, 2, 0)
    return (y.flip(-1) if reverse else y), state_BNP.transpose(1, 2).reshape(batch, channels, -1)


class _LeanScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        state = u.new_zeros(u.shape[1], *A.shape[1:])
        drive, decay, y, kept = u * dt, torch.empty_like(state), torch.empty_like(u), []
        for t in range(len(u)):
            if t % STRIDE == 0:
                kept.append(state.clone())
            torch.mul(dt[t].unsqueeze(1), A, out=decay).exp_()
            state.mul_(decay).addcmul_(drive[t].unsqueeze(1), B[t].unsqueeze(2))
            torch.bmm(C[t].unsqueeze(1), state, out=y[t].unsqueeze(1))
        ctx.save_for_backward(u, dt, A, B, C, *kept)
        return y, state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        grad_y, grad_last = grads
        # Read once: block checkpointing unpacks saved tensors a single time.
        u, dt, A, B, C, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a second derivative is wanted
            return _differentiable_backward((u, dt, A, B, C), grads)
        return _backward(u, dt, A, B, C, kept, grad_y, grad_last)


def _backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: list[Tensor], grad_y: Tensor, grad_last: Tensor
) -> tuple[Tensor, ...]:
    grad_y, drive = grad_y.contiguous(), u * dt
    grad_drive, grad_dt, grad_B, grad_C = (torch.empty_like(x) for x in (u, dt, B, C))
    grad_state, grad_A, product = grad_last.clone(), torch.zeros_like(kept[0]), torch.empty_like(kept[0])
    decay, states = kept[0].new_empty(STRIDE, *kept[0].shape), kept[0].new_empty(STRIDE + 1, *kept[0].shape)
    for chunk in reversed(range(len(kept))):
        steps = list(enumerate(range(chunk * STRIDE, min((chunk + 1) * STRIDE, len(u)))))
        states[0] = kept[chunk]
        for i, t in steps:
            torch.mul(dt[t].unsqueeze(1), A, out=decay[i]).exp_()
            torch.mul(decay[i], states[i], out=states[i + 1]).addcmul_(drive[t].unsqueeze(1), B[t].unsqueeze(2))
        for i, t in reversed(steps):
            grad_state.addcmul_(grad_y[t].unsqueeze(1), C[t].unsqueeze(2))
            # A product and a sum: along this axis quicker than the matrix-vector form.
            torch.sum(torch.mul(states[i + 1], grad_y[t].unsqueeze(1), out=product), dim=-1, out=grad_C[t])
            torch.sum(torch.mul(grad_state, drive[t].unsqueeze(1), out=product), dim=-1, out=grad_B[t])
            torch.bmm(B[t].unsqueeze(1), grad_state, out=grad_drive[t].unsqueeze(1))
            grad_state.mul_(decay[i])
            # Now product = (dL/d decay) decay, the gradient of dt A.
            torch.mul(grad_state, states[i], out=product)
            grad_A.addcmul_(product, dt[t].unsqueeze(1))
            torch.sum(product.mul_(A), dim=1, out=grad_dt[t])
    grad_A = grad_A.sum(0, keepdim=True) if A.shape[0] == 1 else grad_A
    return grad_drive * dt, grad_dt + grad_drive * u, grad_A, grad_B, grad_C


def _differentiable_backward(inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    outputs = _out_of_place(*inputs)
    return torch.autograd.grad(outputs, inputs, grads, create_graph=True, allow_unused=True)


def _out_of_place(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    state, outputs = u.new_zeros(u.shape[1], *A.shape[1:]), []
    for t in range(len(u)):
        drive_BNP = (u[t] * dt[t]).unsqueeze(1) * B[t].unsqueeze(2)
        state = torch.exp(dt[t].unsqueeze(1) * A) * state + drive_BNP
        outputs.append((state * C[t].unsqueeze(2)).sum(1))
    return torch.stack(outputs), state
