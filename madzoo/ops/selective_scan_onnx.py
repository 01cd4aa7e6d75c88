"""The selective scan as one ``Scan`` node of ONNX, which has no operator of its own for it.

B batch, D channels, G groups, R channels of a group, L length, N states.
"""

import torch
from torch import Tensor

from madzoo.ops.selective_scan_reference import around_scan

__all__ = ["selective_scan_for_onnx", "why_not_onnx"]


def why_not_onnx(A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Returns why the node cannot hold these inputs, or None when it can."""
    return "complex A" if A.is_complex() else "constant B or C" if B.dim() == 2 or C.dim() == 2 else None


def selective_scan_for_onnx(
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
    """Does all of :func:`madzoo.ops.selective_scan` while ``torch.onnx.export`` looks on.

    The program is as long for any L, where a loop would be written out position by position, and its memory does not
    grow with L N.
    """
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    return around_scan(_scan_node, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)


def _scan_node(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    # No program for ONNX is differentiated; the node could not be, where the batch has no fixed size.
    u, dt, A, B, C = (x.detach() for x in (u, dt, A, B, C))
    A_GRN = A.unflatten(0, (B.shape[1], -1))
    u_LBGR, dt_LBGR = (x.unflatten(1, A_GRN.shape[:2]).permute(3, 0, 1, 2) for x in (u, dt))
    inputs = [u_LBGR, dt_LBGR, B.permute(3, 0, 1, 2), C.permute(3, 0, 1, 2)]
    if reverse:
        inputs = [x.flip(0) for x in inputs]

    def step(state_BGRN: Tensor, *inputs: Tensor) -> list[Tensor]:
        u_BGR, dt_BGR, B_BGN, C_BGN, A_GRN = inputs
        dt_BGR1 = dt_BGR.unsqueeze(-1)
        state_BGRN = torch.exp(dt_BGR1 * A_GRN) * state_BGRN + dt_BGR1 * u_BGR.unsqueeze(-1) * B_BGN.unsqueeze(2)
        return [state_BGRN, (state_BGRN * C_BGN.unsqueeze(2)).sum(-1)]

    start = u.new_zeros(u.shape[0], *A_GRN.shape)
    state, y_LBGR = torch.ops.higher_order.scan(step, [start], inputs, (A_GRN,))
    y_LBGR = y_LBGR.flip(0) if reverse else y_LBGR
    return y_LBGR.permute(1, 2, 3, 0).flatten(1, 2), state.flatten(1, 2)
