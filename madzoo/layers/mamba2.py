"""Mamba-2: a gated block around state space duality, whose heads of channels share one decay and one step size.

Axes: B batch, L length, D d_model, E d_ssm, H heads, P headdim, G ngroups, N d_state, K d_conv, M channels of the MLP,
S = E + 2 G N channels of the convolution.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, rows_of, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import depthwise_conv1d, wide_decay
from madzoo.layers.mamba_symmetries import conv_scale
from madzoo.layers.norms import GatedRMSNorm
from madzoo.layers.ssd_symmetries import norm_gain, step_shift
from madzoo.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from madzoo.ops.ssd import ssd, ssd_step
from madzoo.symmetry import Symmetry

__all__ = ["Mamba2", "Mamba2State", "initial_dt_bias", "wide_decay"]


class Mamba2State(NamedTuple):
    """Holds what a :class:`Mamba2` block remembers: the last K - 1 conv inputs [B, S, K-1], the state [B, H, P, N]."""

    conv: Tensor
    ssm: Tensor


class Mamba2(nn.Module):
    """Mixes a sequence causally: one projection for all inputs, short convolution, SSD scan, gated norm, project back.

    :meth:`step` computes the same map one position at a time in constant memory. Parameter names are the published
    ones, so published state dicts load strictly. Rows of ``in_proj`` are, in this order: two halves of the MLP (where
    there is one), the gate z, then x, B, C, which are convolved, and the step sizes.

    Args:
        d_model: width of the sequence.
        d_state: states per channel.
        d_conv: taps of the short convolution.
        conv_init: initial taps are uniform in [-conv_init, conv_init]; None for torch's default.
        expand: inner width over d_model.
        headdim: channels of a head.
        d_ssm: inner channels that are scanned; the others are a gated MLP without mixing. None for all.
        ngroups: groups of heads; a group shares B and C, and its channels share the norm's mean square.
        A_init_range: initial decays -A are uniform in it.
        D_has_hdim: one skip weight per channel instead of per head.
        rmsnorm: normalise before the output projection; without, the gate stands alone.
        norm_before_gate: whether the gate comes after the norm.
        dt_min, dt_max: initial steps are log-uniform between them, at least ``dt_init_floor``.
        dt_init_floor: smallest initial step.
        dt_limit: step sizes are clamped to it.
        bias: whether the two outer projections have one.
        conv_bias: whether the convolution has one.
        chunk_size: the most steps that the scan treats as one matrix; changes rounding and time only. None for what
            :func:`madzoo.ops.ssd` finds best.

    Raises:
        ConfigError: when a size is below 1, d_ssm is above the inner width, headdim does not divide d_ssm, ngroups
            does not divide the number of heads, or A_init_range is not positive and increasing.

    Source: arXiv 2405.21060, section 7; names of mamba_ssm's modules/mamba2.py.

    Example:
        >>> Mamba2(32, d_state=16, headdim=8)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.headdim, self.ngroups, self.chunk_size = headdim, ngroups, chunk_size
        self.d_inner = int(expand * d_model)
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        self.d_mlp = self.d_inner - self.d_ssm
        self.D_has_hdim, self.rmsnorm = D_has_hdim, rmsnorm
        self.dt_limit = (float(dt_limit[0]), float(dt_limit[1]))
        if min(d_model, d_state, d_conv, headdim, self.d_ssm, ngroups, 1 if chunk_size is None else chunk_size) < 1:
            sizes = f"{d_model=}, {d_state=}, {d_conv=}, {headdim=}, {d_ssm=}, {ngroups=}, {expand=}, {chunk_size=}"
            raise ConfigError("a size of the block is below 1.", asked=sizes)
        if self.d_mlp < 0 or self.d_ssm % headdim or (self.d_ssm // headdim) % ngroups:
            asked = f"{d_ssm=}, {headdim=}, {ngroups=}, inner width {self.d_inner}"
            raise ConfigError("the inner width makes no whole heads and groups.", asked=asked)
        self.nheads = self.d_ssm // headdim
        self.conv_dim = self.d_ssm + 2 * ngroups * d_state

        self.dt_bias = nn.Parameter(initial_dt_bias(self.nheads, low=dt_min, high=dt_max, floor=dt_init_floor))
        self.A_log = nn.Parameter(_initial_decay_log(self.nheads, A_init_range))
        self.D = nn.Parameter(torch.ones(self.d_ssm if D_has_hdim else self.nheads))
        self.in_proj = Linear(d_model, 2 * self.d_mlp + self.d_ssm + self.conv_dim + self.nheads, bias=bias)
        self.conv1d = depthwise_conv1d(self.conv_dim, d_conv, bias=conv_bias)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        if rmsnorm:
            self.norm = GatedRMSNorm(self.d_ssm, group_size=self.d_ssm // ngroups, norm_before_gate=norm_before_gate)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E (D + N)), see :func:`madzoo.ops.ssd`.
        """
        check_axes("Mamba2", x, "[B, L, D]", D=self.d_model)
        mlp_gate, mlp_value, z, xBC, dt = self._project(x)
        taps = self.conv1d.weight.squeeze(1)
        xBC = causal_conv1d(xBC.transpose(1, 2), taps, self.conv1d.bias, activation="silu").transpose(1, 2)
        x_BLHP, B, C = self._split(xBC)
        A, gate = wide_decay(self.A_log), None if self.rmsnorm else self._heads(z)
        y = ssd(
            x_BLHP,
            dt,
            A,
            B,
            C,
            self.chunk_size,
            D=self._skip(),
            z=gate,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
        )
        return self._finish(y, z, mlp_gate, mlp_value)

    def init_state(self, batch_size: int) -> Mamba2State:
        """Returns the state before the first position: zeros."""
        conv = self.conv1d.weight.new_zeros(batch_size, self.conv_dim, self.d_conv - 1)
        wide = torch.promote_types(conv.dtype, torch.float32)
        return Mamba2State(conv, conv.new_zeros(batch_size, self.nheads, self.headdim, self.d_state, dtype=wide))

    def step(self, x_t: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        """Maps one position.

        Shapes:
            x_t [B, D] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another width or number of axes.

        Cost: O(B E (D + N)), whatever came before.
        """
        check_axes("Mamba2", x_t, "[B, D]", D=self.d_model)
        mlp_gate, mlp_value, z, xBC, dt = self._project(x_t)
        xBC, conv = causal_conv1d_step(xBC, state.conv, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        x_BHP, B, C = self._split(xBC)
        A, gate = wide_decay(self.A_log), None if self.rmsnorm else self._heads(z)
        y, ssm = ssd_step(
            x_BHP,
            dt,
            A,
            B,
            C,
            state.ssm,
            D=self._skip(),
            z_t=gate,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
        )
        return self._finish(y, z, mlp_gate, mlp_value), Mamba2State(conv, ssm)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"A_log", "D", "dt_bias"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the scales that are free (conv inputs, the norm's gains, the MLP's values) and doubled biases.

        B and C pass a SiLU each before they meet, so the states have no change of scale.
        """
        biased, start = self.in_proj.bias is not None, 2 * self.d_mlp + self.d_ssm
        convs = {"conv1d.weight": 0}
        found = [conv_scale("mamba2.conv_scale", self.conv_dim, convs=convs, in_proj_bias=biased, start=start)]
        if self.rmsnorm:
            found.append(norm_gain("mamba2.norm_gain", self.d_ssm, start=self.d_mlp))
        if self.d_mlp:
            grow = rows_of("in_proj.weight", bias=biased, start=self.d_mlp)
            shrink = {"out_proj.weight": Slices(axis=1)}
            found.append(scale("mamba2.mlp_scale", self.d_mlp, grow=grow, shrink=shrink))
        if biased:
            found.append(step_shift("mamba2.step_shift", self.nheads, starts=(len(self.in_proj.weight) - self.nheads,)))
        return found

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.in_proj(x).split([self.d_mlp, self.d_mlp, self.d_ssm, self.conv_dim, self.nheads], dim=-1)

    def _split(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shared = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, shared, shared], dim=-1)
        return self._heads(x), B.unflatten(-1, (self.ngroups, -1)), C.unflatten(-1, (self.ngroups, -1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.nheads, self.headdim))

    def _skip(self) -> Tensor:
        return self._heads(self.D) if self.D_has_hdim else self.D

    def _finish(self, y: Tensor, z: Tensor, gate: Tensor, value: Tensor) -> Tensor:
        y = y.flatten(-2)
        y = self.norm(y, z) if self.rmsnorm else y
        return self.out_proj(torch.cat([F.silu(gate) * value, y], dim=-1) if self.d_mlp else y)


def initial_dt_bias(heads: int, *, low: float, high: float, floor: float) -> Tensor:
    """Returns [H] whose softplus is log-uniform in [low, high], at least floor.

    Source: arXiv 2312.00752, section 3.6.
    """
    dt = torch.exp(torch.rand(heads) * (math.log(high) - math.log(low)) + math.log(low)).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def _initial_decay_log(heads: int, bounds: tuple[float, float]) -> Tensor:
    if not 0 < bounds[0] <= bounds[1]:
        raise ConfigError("A_init_range is positive and increasing.", asked=f"A_init_range={bounds}")
    return torch.empty(heads).uniform_(*bounds).log()
