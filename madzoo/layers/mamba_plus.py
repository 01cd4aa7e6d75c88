"""Mamba+: a Mamba block whose gate also decides how much of the input passes beside the scan.

Axes: B batch, L length, D d_model, E d_inner, N d_state, R dt_rank.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.layers.mamba import Mamba
from madzoo.ops.causal_conv1d import causal_conv1d
from madzoo.ops.selective_scan import selective_scan

__all__ = ["MambaPlus"]


class MambaPlus(Mamba):
    """Mixes a sequence as :class:`Mamba` does, with a forget gate on the skip path.

    Mamba's output is ``(C h + D u) silu(z)``, with u the convolved input; Mamba+'s is
    ``C h silu(z) + D u (1 - sigmoid(z))``: what the gate closes to the state it opens to the input. Parameters are
    Mamba's, and so are their names.

    Source: arXiv 2404.15772, section 4.3; Leopold2333/Bi-Mamba4TS, csrc/selective_scan/selective_scan_fwd_kernel.cuh.

    Example:
        >>> MambaPlus(32)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def forward(self, x: Tensor, *, reverse: bool = False) -> Tensor:
        """Maps a sequence.

        Args:
            x: the sequence.
            reverse: run from the last position to the first.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E (D + N)).
        """
        self._check(x, "[B, L, D]")
        u_BEL, z_BEL = self.in_proj(x).mT.chunk(2, dim=1)
        taps = self.conv1d.weight.squeeze(1)
        u_BEL = causal_conv1d(u_BEL, taps, self.conv1d.bias, activation="silu", reverse=reverse)
        features = self.x_proj(u_BEL.mT).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt_BLR, B_BLN, C_BLN = features
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        dt_BEL = F.linear(dt_BLR, self.dt_proj.weight).mT
        bias_E = self.dt_proj.bias.to(wide)
        A_EN = -torch.exp(self.A_log.to(wide))
        y_BEL = selective_scan(
            u_BEL, dt_BEL, A_EN, B_BLN.mT, C_BLN.mT, None, z_BEL, bias_E, delta_softplus=True, reverse=reverse
        )
        return self.out_proj((y_BEL + self._skip(u_BEL.mT, z_BEL.mT).mT).mT)

    def _gate(self, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        return y * F.silu(z) + self._skip(u, z)

    def _skip(self, u: Tensor, z: Tensor) -> Tensor:
        return self.D * u * torch.sigmoid(-z)  # 1 - sigmoid(z), without its cancellation
