"""Mamba-1: a gated block whose state space model chooses its step, input and output vectors from the input.

Axes: B batch, L length, D d_model, E d_inner = expand * D, N d_state, R dt_rank, K d_conv.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba_symmetries import conv_scale, dt_basis, input_output_scale, output_scale
from madzoo.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from madzoo.ops.discretize import discretize_euler
from madzoo.ops.selective_scan import selective_scan
from madzoo.symmetry import Symmetry

__all__ = [
    "Mamba",
    "MambaState",
    "depthwise_conv1d",
    "init_dt_proj",
    "resolve_dt_rank",
    "selective_branch",
    "state_decay_log",
    "wide_decay",
]


class MambaState(NamedTuple):
    """Holds what a :class:`Mamba` block remembers: the last K - 1 conv inputs [B, E, K-1], the state [B, E, N]."""

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """Mixes a sequence causally: project, short convolution, selective scan, gate, project back.

    :meth:`step` computes the same map one position at a time in constant memory. Parameter names are the published
    ones, so published state dicts load strictly.

    Args:
        d_model: width of the sequence.
        d_state: states per channel.
        d_conv: taps of the short convolution.
        expand: inner width over d_model.
        dt_rank: rank of the map from input to step size; ``"auto"`` is ceil(d_model / 16).
        dt_min, dt_max: initial steps are log-uniform between them, at least ``dt_init_floor``.
        dt_init: initial weights of the step projection: ``"random"`` (uniform) or ``"constant"``.
        dt_scale: factor on the size of those weights.
        dt_init_floor: smallest initial step.
        conv_bias: whether the convolution has a bias.
        bias: whether the two outer projections have one.

    Raises:
        ConfigError: on an unknown dt_init or a size below 1.

    Source: arXiv 2312.00752, section 3.4; parameter names of mamba_ssm's modules/mamba_simple.py.

    Example:
        >>> Mamba(32)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = int(expand * d_model)
        self.dt_rank = resolve_dt_rank(dt_rank, d_model)
        if min(d_model, d_state, d_conv, self.d_inner, self.dt_rank) < 1:
            raise ConfigError(
                "a size of the block is below 1.", asked=f"{d_model=}, {d_state=}, {d_conv=}, {expand=}, {dt_rank=}"
            )
        self.A_log = nn.Parameter(state_decay_log(self.d_inner, d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.in_proj = Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = depthwise_conv1d(self.d_inner, d_conv, bias=conv_bias)
        self.x_proj = Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(self.dt_rank, self.d_inner)
        init_dt_proj(self.dt_proj, low=dt_min, high=dt_max, kind=dt_init, scale=dt_scale, floor=dt_init_floor)
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E (D + N)).
        """
        self._check(x, "[B, L, D]")
        x_BEL, z_BEL = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        y_BEL = selective_branch(
            x_BEL, conv1d=self.conv1d, x_proj=self.x_proj, dt_proj=self.dt_proj, A_log=self.A_log, D=self.D, z=z_BEL
        )
        return self.out_proj(y_BEL.transpose(1, 2))

    def init_state(self, batch_size: int) -> MambaState:
        """Returns the state before the first position: zeros."""
        conv = self.conv1d.weight.new_zeros(batch_size, self.d_inner, self.d_conv - 1)
        wide = torch.promote_types(conv.dtype, torch.float32)
        return MambaState(conv, conv.new_zeros(batch_size, self.d_inner, self.d_state, dtype=wide))

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Maps one position.

        Shapes:
            x_t [B, D] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another width or number of axes.

        Cost: O(B E (D + N)), whatever came before.
        """
        self._check(x_t, "[B, D]")
        x_BE, z_BE = self.in_proj(x_t).chunk(2, dim=-1)
        x_BE, conv = causal_conv1d_step(x_BE, state.conv, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        dt, B_BN, C_BN = self.x_proj(x_BE).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt_BE = F.softplus(self.dt_proj(dt).to(state.ssm.dtype))
        A_EN = -torch.exp(self.A_log.to(state.ssm.dtype))
        A_bar, B_bar = discretize_euler(A_EN, B_BN.unsqueeze(1), dt_BE.unsqueeze(-1))
        ssm = A_bar * state.ssm + B_bar * x_BE.unsqueeze(-1)
        y_BE = self._gate((ssm * C_BN.unsqueeze(1)).sum(-1), x_BE, z_BE)
        return self.out_proj(y_BE.to(x_t.dtype)), MambaState(conv, ssm)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"A_log", "D", "dt_proj.bias"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the changes of basis inside the block: conv gains, units of state and output, step features."""
        biased, sizes = self.in_proj.bias is not None, (self.d_state, self.dt_rank)
        return [
            conv_scale("mamba.conv_scale", self.d_inner, convs={"conv1d.weight": 0}, in_proj_bias=biased),
            input_output_scale(*sizes, x_proj="x_proj"),
            dt_basis(self.dt_rank, x_proj="x_proj", dt_proj="dt_proj"),
            output_scale(*sizes, d_inner=self.d_inner, directions={"x_proj": "D"}),
        ]

    def _gate(self, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        """Joins what the state gives with the input beside it."""
        return (y + self.D * u) * F.silu(z)

    def _check(self, x: Tensor, layout: str) -> None:
        check_axes(type(self).__name__, x, layout, D=self.d_model)


def selective_branch(
    x: Tensor,
    *,
    conv1d: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Runs one direction of a Mamba block between its two outer projections: convolution, SiLU, selective scan, gate.

    Args:
        x: the projected sequence.
        conv1d: its depthwise convolution.
        x_proj: makes step features, B and C of every position.
        dt_proj: makes step sizes of the step features.
        A_log: log(-A).
        D: skip weights.
        z: gate, or None for an ungated result.
        reverse: run from the last position to the first.

    Shapes:
        x, z [B, E, L], A_log [E, N], D [E] -> [B, E, L].

    Source: arXiv 2312.00752, algorithm 2.
    """
    rank, states = dt_proj.in_features, A_log.shape[1]
    x = causal_conv1d(x, conv1d.weight.squeeze(1), conv1d.bias, activation="silu", reverse=reverse)
    dt_BLR, B_BLN, C_BLN = x_proj(x.transpose(1, 2)).split([rank, states, states], dim=-1)
    # In half precision the bias is left to the scan, which adds it in float32: softplus(-7) would lose half its digits.
    wide = dt_BLR.dtype.itemsize >= 4
    dt_BEL = (dt_proj(dt_BLR) if wide else F.linear(dt_BLR, dt_proj.weight)).transpose(1, 2)
    bias = None if wide else dt_proj.bias
    B_BNL, C_BNL = B_BLN.transpose(1, 2), C_BLN.transpose(1, 2)
    return selective_scan(x, dt_BEL, wide_decay(A_log), B_BNL, C_BNL, D, z, bias, True, reverse=reverse)


def resolve_dt_rank(dt_rank: int | str, d_model: int) -> int:
    """Returns the rank of the step projection; ``"auto"`` is ceil(d_model / 16).

    Raises:
        ConfigError: on any other word.
    """
    if isinstance(dt_rank, str):
        if dt_rank != "auto":
            raise ConfigError("dt_rank is a number or 'auto'.", asked=dt_rank)
        return math.ceil(d_model / 16)
    return dt_rank


def depthwise_conv1d(channels: int, taps: int, *, bias: bool = True) -> nn.Conv1d:
    """Returns the module that holds the taps of :func:`madzoo.ops.causal_conv1d`, under the published names."""
    return nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1, bias=bias)


def state_decay_log(channels: int, states: int) -> Tensor:
    """Returns the initial ``log(-A) = log(1 ... N)`` of every channel, [E, N] (S4D-Real)."""
    return torch.log(torch.arange(1, states + 1, dtype=torch.get_default_dtype())).repeat(channels, 1)


def wide_decay(A_log: Tensor) -> Tensor:
    """Returns A = -exp(A_log) in at least float32: in half precision a large decay would overflow."""
    return -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))


@torch.no_grad()
def init_dt_proj(
    dt_proj: nn.Linear,
    *,
    low: float = 0.001,
    high: float = 0.1,
    kind: str = "random",
    scale: float = 1.0,
    floor: float = 1e-4,
) -> None:
    """Sets a step projection so that softplus(bias) is log-uniform in [low, high] and the weights keep the variance.

    Raises:
        ConfigError: on an unknown kind.

    Source: arXiv 2312.00752, section 3.6.
    """
    bound = scale * dt_proj.in_features**-0.5
    if kind == "random":
        nn.init.uniform_(dt_proj.weight, -bound, bound)
    elif kind == "constant":
        nn.init.constant_(dt_proj.weight, bound)
    else:
        raise ConfigError(f"no dt_init is named {kind!r}.", asked=kind, looked="'random', 'constant'")
    log_dt = torch.rand_like(dt_proj.bias) * (math.log(high) - math.log(low)) + math.log(low)
    dt = log_dt.exp().clamp(min=floor)
    dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
