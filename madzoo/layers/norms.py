"""Normalisations that torch.nn lacks, or computes otherwise than the published models."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.ops.rms_norm import rms_norm

__all__ = ["GatedRMSNorm", "RMSNorm"]


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
        return rms_norm(x, self.weight, self.eps)


class GatedRMSNorm(nn.Module):
    """Divides groups of channels by their root mean square, multiplies by a learned gain, and gates by ``silu(z)``.

    The gate comes last, or, with ``norm_before_gate=False``, before the statistics are taken. These are taken in at
    least float32; the output has the input's dtype.

    Args:
        dim: size D of the last axis.
        eps: added to the mean square.
        group_size: channels that share one mean square; None for all.
        norm_before_gate: whether the gate comes after the norm.

    Raises:
        ConfigError: when group_size does not divide dim.

    Source: arXiv 2405.21060, section 7.1; names of mamba_ssm's ops/triton/layernorm_gated.py.

    Example:
        >>> GatedRMSNorm(8, group_size=4)(torch.randn(2, 8), torch.randn(2, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, *, group_size: int | None = None, norm_before_gate: bool = True
    ) -> None:
        super().__init__()
        self.eps = eps
        self.group_size = dim if group_size is None else group_size
        self.norm_before_gate = norm_before_gate
        if self.group_size < 1 or dim % self.group_size:
            raise ConfigError("group_size divides the channels.", asked=f"{dim=}, {group_size=}")
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Returns the normalised, gated tensor; without a gate where z is None.

        Shapes:
            x, z [..., D] -> [..., D].
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        gate = None if z is None else F.silu(z.to(wide.dtype))
        if gate is not None and not self.norm_before_gate:
            wide = wide * gate
        groups = wide.unflatten(-1, (-1, self.group_size))
        scale = torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)
        y = (groups * scale).flatten(-2) * self.weight.to(wide.dtype)
        return (y * gate if gate is not None and self.norm_before_gate else y).to(x.dtype)
