"""State space duality read aloud: one position, one head after another, with none of the package's operators."""

import torch
from torch.nn.functional import silu

__all__ = ["convolved", "grouped_norm", "scanned"]


def convolved(u_BLS, weight_S1K, bias, *, ahead=0):
    """Convolves every channel with its taps, the last ``ahead`` of which lie on later positions; then SiLU."""
    length, taps = u_BLS.shape[1], weight_S1K.shape[-1]
    rows = []
    for t in range(length):
        row = torch.zeros_like(u_BLS[:, 0]) if bias is None else bias.expand_as(u_BLS[:, 0])
        for k in range(taps):
            at = t + ahead - (taps - 1 - k)
            if 0 <= at < length:
                row = row + weight_S1K[:, 0, k] * u_BLS[:, at]
        rows.append(silu(row))
    return torch.stack(rows, 1)


def scanned(x_BLE, dt_BLH, A_H, B_BLGN, C_BLGN, *, start=None):
    """Runs h <- exp(dt A) h + dt x B^T, y = h C from the first position to the last; returns y [B, L, E]."""
    batch, length, width = x_BLE.shape
    heads, groups, states = len(A_H), B_BLGN.shape[2], B_BLGN.shape[3]
    size, rows = width // heads, []
    h = [
        x_BLE.new_zeros(batch, size, states) if start is None else start[i].expand(batch, -1, -1) for i in range(heads)
    ]
    for t in range(length):
        row = []
        for i in range(heads):
            group, dt = i // (heads // groups), dt_BLH[:, t, i]
            x = x_BLE[:, t, i * size : (i + 1) * size]
            write = torch.einsum("b,bp,bn->bpn", dt, x, B_BLGN[:, t, group])
            h[i] = torch.exp(dt * A_H[i])[:, None, None] * h[i] + write
            row.append(torch.einsum("bpn,bn->bp", h[i], C_BLGN[:, t, group]))
        rows.append(torch.cat(row, -1))
    return torch.stack(rows, 1)


def grouped_norm(x, gain, groups):
    """Divides each group of channels by its root mean square."""
    parts = [part * (part.square().mean(-1, keepdim=True) + 1e-5) ** -0.5 for part in x.chunk(groups, -1)]
    return torch.cat(parts, -1) * gain
