"""Normalisations that torch.nn lacks, or computes otherwise than the published models."""

import torch
from torch import Tensor, nn

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis and multiplies by a learned gain.

    The statistics are taken in at least float32; the output has the input's dtype.

    Args:
        dim: size D of the last axis.
        eps: added to the mean square.

    Shapes:
        [..., D] -> [..., D].

    Source: arXiv 1910.07467, equation 4.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised tensor."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.to(wide.dtype)).to(x.dtype)
