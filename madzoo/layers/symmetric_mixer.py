"""The symmetric mixer of MambaVision: half of the channels are scanned, the other half only convolved, none is gated.

Both halves pass a convolution that looks to both sides, and are put side by side before the output projection.
Written from arXiv 2407.08083 (section 3.2, algorithm 1) and from what is publicly said about the published model;
the authors' code, whose licence is non-commercial, was not read.

Axes: B batch, L length, D d_model, E = expand D, F = E / 2 channels of a half, N d_state, R dt_rank, K d_conv.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.gauges import joined
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import init_dt_proj, resolve_dt_rank, state_decay_log, wide_decay
from madzoo.layers.mamba_symmetries import conv_scale, dt_basis, input_output_scale, output_scale
from madzoo.ops.linear import linear
from madzoo.ops.selective_scan import selective_scan
from madzoo.symmetry import Symmetry

__all__ = ["SymmetricMixer"]


class SymmetricMixer(nn.Module):
    """Mixes a sequence: project, convolve two halves to both sides, scan one of them, project both back.

    Parameter names are those of the published weight files.

    Args:
        d_model: width of the sequence.
        d_state: states per scanned channel.
        d_conv: taps of the two convolutions; the sequence is padded with zeros, one more behind for an even number.
        expand: inner width over d_model.
        dt_rank: rank of the map from input to step size; ``"auto"`` is ceil(d_model / 16).
        dt_min, dt_max, dt_init, dt_scale, dt_init_floor: initial steps, as in :class:`madzoo.layers.Mamba`; the
            published model overwrites them.
        bias: whether the two outer projections have one.

    Raises:
        ConfigError: on an unknown dt_init, a size below 1, or an inner width without halves.

    Source: arXiv 2407.08083, section 3.2 and algorithm 1. In the published model the bias of ``dt_proj`` counts twice
    (NVlabs/MambaVision, issue 32), and the convolutions never have a bias.

    Example:
        >>> SymmetricMixer(32)(torch.randn(2, 49, 32)).shape
        torch.Size([2, 49, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 8,
        d_conv: int = 3,
        expand: float = 1,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner, self.dt_rank = int(expand * d_model), resolve_dt_rank(dt_rank, d_model)
        if min(d_model, d_state, d_conv, self.d_inner, self.dt_rank) < 1 or self.d_inner % 2:
            asked = f"{d_model=}, {d_state=}, {d_conv=}, {expand=}, {dt_rank=}"
            raise ConfigError("sizes of the mixer are at least 1, and its inner width is even.", asked=asked)
        half = self.d_inner // 2
        self.A_log = nn.Parameter(state_decay_log(half, d_state))
        self.D = nn.Parameter(torch.ones(half))
        self.in_proj = Linear(d_model, self.d_inner, bias=bias)
        self.x_proj = Linear(half, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(self.dt_rank, half)
        init_dt_proj(self.dt_proj, low=dt_min, high=dt_max, kind=dt_init, scale=dt_scale, floor=dt_init_floor)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)
        self.conv1d_x, self.conv1d_z = (
            nn.Conv1d(half, half, d_conv, groups=half, padding=(d_conv - 1) // 2, bias=False) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E (D + N)).
        """
        check_axes("the mixer", x, "[B, L, D]", D=self.d_model)
        x_BFL, z_BFL = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        x_BFL, z_BFL = self._convolve(self.conv1d_x, x_BFL), self._convolve(self.conv1d_z, z_BFL)
        both_BEL = torch.cat([self._scan(x_BFL), z_BFL], dim=1)
        return self.out_proj(both_BEL.transpose(1, 2))

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"A_log", "D", "dt_proj.bias"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the changes of basis inside the mixer: conv gains, units of state and output, step features."""
        biased, half, sizes = self.in_proj.bias is not None, self.d_inner // 2, (self.d_state, self.dt_rank)
        halves = [
            conv_scale("mixer.conv_scale", half, convs={f"{conv}.weight": 0}, in_proj_bias=biased, start=start)
            for conv, start in (("conv1d_x", 0), ("conv1d_z", half))
        ]
        return [
            joined("mixer.conv_scale", halves),
            input_output_scale(*sizes, x_proj="x_proj"),
            dt_basis(self.dt_rank, x_proj="x_proj", dt_proj="dt_proj"),
            output_scale(*sizes, d_inner=half, directions={"x_proj": "D"}),
        ]

    def _convolve(self, conv: nn.Conv1d, x_BFL: Tensor) -> Tensor:
        return F.silu(conv(x_BFL if self.d_conv % 2 else F.pad(x_BFL, (0, 1))))

    def _scan(self, x_BFL: Tensor) -> Tensor:
        sizes = [self.dt_rank, self.d_state, self.d_state]
        dt_BLR, B_BLN, C_BLN = self.x_proj(x_BFL.transpose(1, 2)).split(sizes, dim=-1)
        dt_BFL = linear(dt_BLR, self.dt_proj.weight).transpose(1, 2)
        # Once by the projection and once by the scan, as published; the scan adds both, in at least float32.
        bias = 2 * self.dt_proj.bias
        A_FN, B_BNL, C_BNL = wide_decay(self.A_log), B_BLN.transpose(1, 2), C_BLN.transpose(1, 2)
        return selective_scan(x_BFL, dt_BFL, A_FN, B_BNL, C_BNL, self.D, None, bias, True)
