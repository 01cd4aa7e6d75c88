"""State space duality in chunks: inside a chunk one masked matrix per head, from chunk to chunk one state per head.

B batch, L length, K chunks, Q steps of a chunk, G groups, R heads of a group, H = G R heads, P headdim, N states.
Inside a chunk, j is the position that writes and i the position that reads.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["chunked_ssd"]


def chunked_ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, state: Tensor, reverse: bool, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Scans chunk after chunk by matrix products, in plain differentiable PyTorch.

    The products C_i B_j of a chunk are made once per group. A decay is the exponential of a sum over just the steps
    between two positions, not of a difference of longer sums, nor of a masked infinity: nothing cancels, nothing
    overflows while A <= 0, and no gradient is NaN. What torch.compile and torch.export trace does not grow with L: they
    get the states of all chunks from one product, which holds B K H P N numbers, instead of a loop.

    Shapes:
        x [B, L, H, P], dt [B, L, H], A [H], B, C [B, L, G, N], state [B, H, P, N] -> y [B, L, H, P], the last state.
    """
    length, groups = x.shape[1], B.shape[2]
    count = -(-length // chunk_size)
    size = -(-length // count)  # chunks of equal length: fewer padded steps than with chunks of chunk_size
    x, dt, B, C = (_split(tensor, count, size) for tensor in (x, dt, B, C))
    a_BKHQ = (dt * A).transpose(2, 3)
    between_BKHji, since_BKHi = _decays(a_BKHQ, reverse=reverse)
    end = 0 if reverse else -1

    drive_BKQHP = x * dt.unsqueeze(-1)
    inner = _inside(between_BKHji, B, C, drive_BKQHP, reverse=reverse)
    kept_BKQHP = drive_BKQHP * between_BKHji[..., end].transpose(2, 3).unsqueeze(-1)
    chunks = (
        inner,
        _by_group(kept_BKQHP, groups),
        since_BKHi.transpose(2, 3).unsqueeze(-1),
        since_BKHi[..., end].unflatten(2, (groups, -1)),
        B.permute(0, 1, 3, 4, 2),
        C.transpose(2, 3),
    )
    if torch.compiler.is_compiling():
        y, state = _across_at_once(chunks, a_BKHQ.sum(-1), state, reverse=reverse)
    else:
        y, state = _across(chunks, state.unflatten(1, (groups, -1)), reverse=reverse)
    return y[:, :length], state


def _split(tensor: Tensor, count: int, size: int) -> Tensor:
    # A padded step has dt = 0: it keeps the state, and its output is cut off.
    missing = count * size - tensor.shape[1]
    tensor = pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing)) if missing else tensor
    return tensor.unflatten(1, (count, size))


def _decays(a: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Returns exp of the sum of a after j up to i (1 where i does not follow j), and from the chunk's edge up to i."""
    a = a.flip(-1) if reverse else a
    later_ji = torch.ones(a.shape[-1], a.shape[-1], dtype=a.dtype, device=a.device).triu(1)
    between = (a.unsqueeze(-2) * later_ji).cumsum(-1).exp()
    since = a.cumsum(-1).exp()
    return (between.flip(-1, -2), since.flip(-1)) if reverse else (between, since)


def _inside(between: Tensor, B: Tensor, C: Tensor, drive: Tensor, *, reverse: bool) -> Tensor:
    """Returns what the positions of a chunk read from each other, [B, K, Q, H, P]."""
    gram_BKGji = B.transpose(2, 3) @ C.permute(0, 1, 3, 4, 2)
    gram_BKGji = gram_BKGji.tril() if reverse else gram_BKGji.triu()
    mixed = (between.unflatten(2, (B.shape[3], -1)) * gram_BKGji.unsqueeze(3)).flatten(2, 3)
    return (mixed.mT @ drive.transpose(2, 3)).transpose(2, 3)


def _by_group(x_BKQHP: Tensor, groups: int) -> Tensor:
    return x_BKQHP.unflatten(3, (groups, -1)).transpose(2, 3).flatten(4)  # [B, K, G, Q, R P]


def _across(chunks: tuple[Tensor, ...], state: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    # Chunk after chunk, so that what a chunk needs stays in the cache; the states of all chunks at once would not.
    batch, groups, heads, width, states = state.shape
    h = state.permute(0, 1, 4, 2, 3).reshape(batch * groups, states, heads * width)
    steps, outputs = list(zip(*(part.unbind(1) for part in chunks), strict=True)), []
    for inner, kept, since, whole, B_BGNQ, C_BGQN in reversed(steps) if reverse else steps:
        outer = torch.bmm(C_BGQN.flatten(0, 1), h).unflatten(0, (batch, groups)).transpose(1, 2)
        outputs.append(torch.addcmul(inner, outer.reshape(inner.shape), since))
        decayed = h.unflatten(-1, (heads, width)) * whole.reshape(batch * groups, 1, heads, 1)
        h = torch.baddbmm(decayed.flatten(-2), B_BGNQ.flatten(0, 1), kept.flatten(0, 1))
    h = h.reshape(batch, groups, states, heads, width).permute(0, 1, 3, 4, 2).flatten(1, 2)
    return torch.cat(outputs[::-1] if reverse else outputs, dim=1), h


def _across_at_once(
    chunks: tuple[Tensor, ...], a_BKH: Tensor, state: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    # A compiler would write every round of the loop out: hundreds of nodes per scan of an image, minutes of compiling.
    inner, kept, since, _, B_BKGNQ, C_BKGQN = chunks
    batch, count, groups, states = *inner.shape[:2], *B_BKGNQ.shape[2:4]
    heads, width = inner.shape[3:]
    between_BHji, since_BHi = _decays(a_BKH.transpose(1, 2), reverse=reverse)
    between_BHji = between_BHji.tril() if reverse else between_BHji.triu()
    wrote_BHjS = (B_BKGNQ @ kept).unflatten(-1, (-1, width)).permute(0, 2, 4, 1, 3, 5).reshape(batch, heads, count, -1)
    start_BH1S = state.mT.reshape(batch, heads, 1, -1)
    after_BHiS = between_BHji.mT @ wrote_BHjS + since_BHi.unsqueeze(-1) * start_BH1S
    order = [after_BHiS[:, :, 1:], start_BH1S] if reverse else [start_BH1S, after_BHiS[:, :, :-1]]
    before = torch.cat(order, dim=2).unflatten(-1, (states, width)).unflatten(1, (groups, -1))
    h_BKGNE = before.permute(0, 3, 1, 4, 2, 5).flatten(-2)
    outer_BKGQE = C_BKGQN @ h_BKGNE
    y = torch.addcmul(inner, outer_BKGQE.transpose(2, 3).reshape(inner.shape), since)
    last = after_BHiS[:, :, 0 if reverse else -1].unflatten(-1, (states, width)).mT
    return y.flatten(1, 2), last
