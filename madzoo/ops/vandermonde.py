"""The convolution kernel of a diagonal system, as a Vandermonde product factored in two.

Axes: D channels, N conjugate pairs, L length = (q rows) x (r columns).
"""

import math

import torch
from torch import Tensor

from madzoo.errors import ShapeError

__all__ = ["vandermonde"]


def vandermonde(v: Tensor, log_z: Tensor, length: int) -> Tensor:
    """Sums decaying exponentials: ``k[d, t] = 2 Re sum_n v[d, n] exp(t log_z[d, n])`` for t = 0 ... length-1.

    With t = r i + j the exponential splits into exp(r i log_z) exp(j log_z), so that the sum over n is one small
    matrix product per channel and nothing of size D N L is ever formed.

    Args:
        v: residues, complex; one of each conjugate pair.
        log_z: logarithms of the poles, complex, real parts at most 0.
        length: number of samples.

    Shapes:
        v, log_z [..., D, N] -> k [..., D, length], real.

    Raises:
        ShapeError: when length is below 1, or an argument is not complex.

    Cost: 2 D N sqrt(L) exponentials, D N L complex multiplications, D N sqrt(L) memory beyond the result.

    Source: arXiv 2206.11893 (S4D), equation 6.

    Example:
        >>> k = vandermonde(torch.tensor([[1 + 0j]]), torch.tensor([[-1 + 0j]]), 3)
        >>> [round(x, 4) for x in k[0].tolist()]
        [2.0, 0.7358, 0.2707]
    """
    if length < 1:
        raise ShapeError("a kernel has at least one sample.", asked=f"length {length}")
    if not (v.is_complex() and log_z.is_complex()):
        raise ShapeError("v and log_z are complex.", asked=f"{v.dtype} and {log_z.dtype}", todo="v.to(torch.complex64)")
    columns = math.isqrt(length - 1) + 1
    rows = -(-length // columns)
    steps = torch.arange(max(rows, columns), device=v.device, dtype=v.real.dtype)
    fine = torch.exp(log_z.unsqueeze(-1) * steps[:columns])
    coarse = v.unsqueeze(-1) * torch.exp(log_z.unsqueeze(-1) * (columns * steps[:rows]))
    k = 2 * (coarse.transpose(-1, -2) @ fine).real
    return k.flatten(-2)[..., :length]
