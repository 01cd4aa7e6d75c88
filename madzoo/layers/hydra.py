"""Hydra: a gated block whose mixing matrix is quasiseparable, two shifted SSD scans and a diagonal of its own.

Axes: B batch, L length, D d_model, E d_inner, H heads, P headdim, G ngroups, N d_state, K d_conv,
S = E + 4 G N channels of the convolution.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from madzoo.errors import ConfigError
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import wide_decay
from madzoo.layers.mamba2 import initial_dt_bias
from madzoo.layers.mamba_symmetries import conv_scale
from madzoo.layers.norms import GatedRMSNorm
from madzoo.layers.ssd_symmetries import norm_gain, step_shift
from madzoo.ops.causal_conv1d import causal_conv1d
from madzoo.ops.ssd import ssd
from madzoo.symmetry import Symmetry

__all__ = ["Hydra"]


class Hydra(nn.Module):
    """Mixes a sequence in both directions: projection, centred convolution, two scans, gated norm, projection.

    Position t reads the scan of what lies before it, the scan of what lies behind it, and itself with a weight of its
    own. The directions share decays, step biases and the scanned x; step sizes, B and C are made for each. Not causal,
    so there is no step. Parameter names are the published ones, so published state dicts load strictly. Rows of
    ``in_proj`` are, in this order: the gate z, then x, B and C forward, B and C backward, which are convolved, and the
    step sizes forward and backward.

    Args:
        d_model: width of the sequence.
        d_state: states per channel and direction.
        d_conv: taps of the short convolution, odd: it looks as far ahead as back.
        conv_init: initial taps are uniform in [-conv_init, conv_init]; None for torch's default.
        expand: inner width over d_model.
        headdim: channels of a head.
        ngroups: groups of heads; a group shares B and C.
        dt_min, dt_max: initial steps are log-uniform between them, at least ``dt_init_floor``.
        dt_init_floor: smallest initial step.
        dt_limit: step sizes are clamped to it.
        learnable_init_states: learn the state from which both scans start, instead of zero.
        bias: whether the two outer projections have one.
        conv_bias: whether the convolution has one.
        chunk_size: the most steps that a scan treats as one matrix; changes rounding and time only. None for what
            :func:`madzoo.ops.ssd` finds best.

    Raises:
        ConfigError: when a size is below 1, d_conv is even, headdim does not divide the inner width, or ngroups does
            not divide the number of heads.

    Source: arXiv 2407.09941, section 3; names of goombalab/hydra's modules/hydra.py.

    Example:
        >>> Hydra(32, d_state=16, headdim=8)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        d_conv: int = 7,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        ngroups: int = 1,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        learnable_init_states: bool = False,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.headdim, self.ngroups, self.chunk_size = headdim, ngroups, chunk_size
        self.d_inner = int(expand * d_model)
        self.dt_limit = (float(dt_limit[0]), float(dt_limit[1]))
        if min(d_model, d_state, d_conv, headdim, self.d_inner, ngroups, 1 if chunk_size is None else chunk_size) < 1:
            sizes = f"{d_model=}, {d_state=}, {d_conv=}, {headdim=}, {ngroups=}, {expand=}, {chunk_size=}"
            raise ConfigError("a size of the block is below 1.", asked=sizes)
        if d_conv % 2 == 0:
            raise ConfigError("a centred convolution has an odd number of taps.", asked=f"{d_conv=}")
        if self.d_inner % headdim or (self.d_inner // headdim) % ngroups:
            asked = f"{headdim=}, {ngroups=}, inner width {self.d_inner}"
            raise ConfigError("the inner width makes no whole heads and groups.", asked=asked)
        self.nheads = self.d_inner // headdim
        self.conv_dim = self.d_inner + 4 * ngroups * d_state

        start = torch.zeros(self.nheads, headdim, d_state) if learnable_init_states else None
        self.init_states = None if start is None else nn.Parameter(start)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.nheads, low=dt_min, high=dt_max, floor=dt_init_floor))
        self.A_log = nn.Parameter(torch.zeros(self.nheads))
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.in_proj = Linear(d_model, self.d_inner + self.conv_dim + 2 * self.nheads, bias=bias)
        self.conv1d = nn.Conv1d(
            self.conv_dim, self.conv_dim, d_conv, groups=self.conv_dim, padding=d_conv // 2, bias=conv_bias
        )
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.fc_D = Linear(self.d_inner, self.nheads, bias=False)
        self.norm = GatedRMSNorm(self.d_inner, norm_before_gate=True)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E (D + N)), see :func:`madzoo.ops.ssd`.
        """
        check_axes("Hydra", x, "[B, L, D]", D=self.d_model)
        sizes = [self.d_inner, self.conv_dim, self.nheads, self.nheads]
        z, xBC, dt_forward, dt_backward = self.in_proj(x).split(sizes, dim=-1)
        shared = 2 * self.ngroups * self.d_state
        x_BLE, forward, backward = self._convolve(xBC).split([self.d_inner, shared, shared], dim=-1)
        x_BLHP = x_BLE.unflatten(-1, (self.nheads, self.headdim))
        # What a position writes it reads itself through the diagonal only: the scans are read one position later.
        before = pad(self._scan(x_BLHP, dt_forward, forward, reverse=False)[:, :-1], (0, 0, 0, 0, 1, 0))
        behind = pad(self._scan(x_BLHP, dt_backward, backward, reverse=True)[:, 1:], (0, 0, 0, 0, 0, 1))
        diagonal = (self.fc_D(x_BLE) + self.D).unsqueeze(-1)
        y_BLHP = before + behind + x_BLHP * diagonal
        return self.out_proj(self.norm(y_BLHP.flatten(-2), z))

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"A_log", "D", "dt_bias"} | ({"init_states"} if self.init_states is not None else set())

    def symmetries(self) -> list[Symmetry]:
        """Declares the scales that are free (conv inputs, the norm's gains) and doubled biases of the steps."""
        biased, convs = self.in_proj.bias is not None, {"conv1d.weight": 0}
        found = [
            conv_scale("hydra.conv_scale", self.conv_dim, convs=convs, in_proj_bias=biased, start=self.d_inner),
            norm_gain("hydra.norm_gain", self.d_inner),
        ]
        if biased:
            forward = self.d_inner + self.conv_dim
            found.append(step_shift("hydra.step_shift", self.nheads, starts=(forward, forward + self.nheads)))
        return found

    def _convolve(self, xBC: Tensor) -> Tensor:
        # A centred convolution is a causal one that runs K // 2 positions further and is read as much later.
        ahead = self.d_conv // 2
        xBC = pad(xBC, (0, 0, 0, ahead)).transpose(1, 2)
        mixed = causal_conv1d(xBC, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation="silu")
        return mixed[..., ahead:].transpose(1, 2)

    def _scan(self, x_BLHP: Tensor, dt_BLH: Tensor, BC: Tensor, *, reverse: bool) -> Tensor:
        B, C = (tensor.unflatten(-1, (self.ngroups, self.d_state)) for tensor in BC.chunk(2, dim=-1))
        start = None if self.init_states is None else self.init_states.expand(x_BLHP.shape[0], -1, -1, -1)
        return ssd(
            x_BLHP,
            dt_BLH,
            wide_decay(self.A_log),
            B,
            C,
            self.chunk_size,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
            initial_state=start,
            reverse=reverse,
        )
