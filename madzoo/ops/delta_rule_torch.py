"""The delta rule twice in PyTorch: as its recurrence is written, and in chunks of matrix products.

B batch, L length, H heads, N width of a key, P width of a value, K chunks, C steps of a chunk, Z = B H sequences.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.ops.onnx_export import is_onnx_export

__all__ = ["advance", "chunked_delta_rule", "reference_delta_rule"]


def reference_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Runs one position at a time; no tensor is written in place, so every transform and derivative order works.

    Shapes:
        q, k [B, L, H, N], v [B, L, H, P], beta [B, L, H], state [B, H, P, N] -> o [B, L, H, P], the last state.
    """
    outputs = []
    for now in zip(*(tensor.unbind(1) for tensor in (q, k, v, beta)), strict=True):
        o_t, state = advance(*now, state=state)
        outputs.append(o_t)
    return torch.stack(outputs, dim=1), state


def advance(q_t: Tensor, k_t: Tensor, v_t: Tensor, beta_t: Tensor, *, state: Tensor) -> tuple[Tensor, Tensor]:
    """Computes one position: what the state says of the key is moved towards the value by the share beta.

    Shapes:
        q_t, k_t [B, H, N], v_t [B, H, P], beta_t [B, H], state [B, H, P, N] -> o_t [B, H, P], the next state.
    """
    error_BHP = v_t - (state @ k_t.unsqueeze(-1)).squeeze(-1)
    state = state + (beta_t.unsqueeze(-1) * error_BHP).unsqueeze(-1) * k_t.unsqueeze(-2)
    return (state @ q_t.unsqueeze(-1)).squeeze(-1), state


def chunked_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Runs chunk after chunk by matrix products, in plain differentiable PyTorch.

    What the positions of a chunk write solves a triangular system, in which position i sees those before it with the
    weights ``beta_i k_i k_j``. It is solved for all chunks at once, for an empty state and for what any other state
    adds, which is linear in it. A few products per chunk are left for the loop.

    Shapes:
        q, k [B, L, H, N], v [B, L, H, P], beta [B, L, H], state [B, H, P, N] -> o [B, L, H, P], the last state.
    """
    batch, length, heads, width = *v.shape[:2], *v.shape[2:]
    count = -(-length // chunk_size)
    size = -(-length // count)  # chunks of equal length: fewer padded steps than with chunks of chunk_size
    q, k, v, beta = (_split(tensor, count, size) for tensor in (q, k, v, beta.unsqueeze(-1)))
    weights_KZCC = beta * (k @ k.mT)
    solved_KZCS = _solve(weights_KZCC, beta * torch.cat([v, k], dim=-1))
    own, seen = solved_KZCS.split([width, k.shape[-1]], dim=-1)
    reads_KZCC = (q @ k.mT).tril()

    h_ZNP, outputs = state.flatten(0, 1).mT, []
    for q_, k_, own_, seen_, reads in zip(*(x.unbind(0) for x in (q, k, own, seen, reads_KZCC)), strict=True):
        error_ZCP = torch.baddbmm(own_, seen_, h_ZNP, alpha=-1)
        outputs.append(torch.baddbmm(q_ @ h_ZNP, reads, error_ZCP))
        h_ZNP = torch.baddbmm(h_ZNP, k_.mT, error_ZCP)
    o = torch.stack(outputs, 1).unflatten(0, (batch, heads)).flatten(2, 3).transpose(1, 2)
    return o[:, :length], h_ZNP.mT.unflatten(0, (batch, heads))


def _split(x_BLHN: Tensor, count: int, size: int) -> Tensor:
    """Returns [K, Z, C, N]; a padded step has beta = 0 and keeps the state, and its output is cut off."""
    missing = count * size - x_BLHN.shape[1]
    x_BLHN = pad(x_BLHN, (0, 0, 0, 0, 0, missing)) if missing else x_BLHN
    return x_BLHN.unflatten(1, (count, size)).permute(1, 0, 3, 2, 4).flatten(1, 2)


def _solve(weights: Tensor, right: Tensor) -> Tensor:
    """Returns ``(I + the strictly lower part of weights)^-1 right``."""
    if not is_onnx_export():
        return torch.linalg.solve_triangular(weights, right, upper=False, unitriangular=True)
    rows = right.unbind(-2)  # ONNX has no triangular solver
    solved = [rows[0]]
    for i in range(1, len(rows)):
        seen = weights[..., i : i + 1, :i] @ torch.stack(solved, dim=-2)
        solved.append(rows[i] - seen.squeeze(-2))
    return torch.stack(solved, dim=-2)
