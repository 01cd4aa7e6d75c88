"""Mamba-3, single input and output: a selective scan with trapezoidal steps and a state that turns as it decays.

Axes: B batch, L length, D d_model, E d_inner = expand * D, H heads, P headdim, G ngroups, N d_state, S rotated pairs.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, joined, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba2 import initial_dt_bias
from madzoo.layers.norms import GatedRMSNorm, RMSNorm
from madzoo.layers.ssd_symmetries import norm_gain
from madzoo.ops.rotary import accumulate_angles, rotate_pairs
from madzoo.ops.trapezoidal_ssd import TrapezoidalState, trapezoidal_ssd, trapezoidal_ssd_step
from madzoo.symmetry import Symmetry

__all__ = ["Mamba3", "Mamba3State"]

ROPE_FRACTIONS = (0.5, 1.0)


class Mamba3State(NamedTuple):
    """Holds what a :class:`Mamba3` block remembers: the angle [B, H, S] turned by so far, and the scan's state."""

    angle: Tensor
    scan: TrapezoidalState


class Projections(NamedTuple):
    """Holds what a position gives: z [..., E], x [..., H, P], B, C [..., H, N], turn [..., H, S], others [..., H]."""

    z: Tensor
    x: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    A: Tensor
    mix: Tensor
    turn: Tensor


class Mamba3(nn.Module):
    """Mixes a sequence causally: project, turn, scan by trapezoidal steps, gate, project back. No convolution.

    The state of every head decays by ``exp(dt A)`` and its first S pairs of components turn by ``dt pi tanh(angle)``,
    all chosen by the input: a diagonal system with complex, data-dependent eigenvalues. B and C are normalised and
    have a bias per head. :meth:`step` computes the same map one position at a time in constant memory. Parameter names
    are the published ones, so published state dicts load strictly.

    Args:
        d_model: width of the sequence.
        d_state: states per channel.
        expand: inner width over d_model.
        headdim: channels of a head, which share step size, decay and angles.
        ngroups: groups of heads that share B and C before their biases.
        rope_fraction: part of the state that turns, 0.5 or 1.
        dt_min, dt_max: initial steps are log-uniform between them, at least ``dt_init_floor``.
        dt_init_floor: smallest initial step.
        A_floor: smallest decay rate.
        is_outproj_norm: normalise every head's output before the gate.
        chunk_size: the most steps that are treated as one matrix; None for 64. Changes rounding only.

    Raises:
        ConfigError: on a size below 1, sizes that do not divide each other, or another rope_fraction.

    Source: arXiv 2603.15569; parameter names of mamba_ssm's modules/mamba3.py.

    Example:
        >>> Mamba3(32, d_state=16, headdim=16)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        expand: float = 2,
        headdim: int = 64,
        ngroups: int = 1,
        rope_fraction: float = 0.5,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        A_floor: float = 1e-4,
        is_outproj_norm: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.headdim, self.ngroups = d_model, d_state, headdim, ngroups
        self.d_inner = int(expand * d_model)
        self.nheads = self.d_inner // max(headdim, 1)
        self.num_rope_angles = int(d_state * rope_fraction) // 2
        self.A_floor, self.chunk_size = A_floor, chunk_size
        self._check_sizes(rope_fraction)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.nheads, low=dt_min, high=dt_max, floor=dt_init_floor))
        self.B_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state))
        self.C_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state))
        self.D = nn.Parameter(torch.ones(self.nheads))
        # z, x, B, C, dt, A, mix, angle
        inner, states, heads = [self.d_inner] * 2, [d_state * ngroups] * 2, [self.nheads] * 3
        self.widths = [*inner, *states, *heads, self.num_rope_angles]
        self.in_proj = Linear(d_model, sum(self.widths), bias=False)
        self.B_norm, self.C_norm = RMSNorm(d_state), RMSNorm(d_state)
        self.norm = GatedRMSNorm(self.d_inner, group_size=headdim) if is_outproj_norm else None
        self.out_proj = Linear(self.d_inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L E (D + N)) and, in chunks of Q steps, O(B L H Q (N + P)).
        """
        check_axes("Mamba3", x, "[B, L, D]", D=self.d_model)
        now = self._project(x)
        angle_BLHS = accumulate_angles(now.turn)
        B_BLHN, C_BLHN = rotate_pairs(now.B, angle_BLHS), rotate_pairs(now.C, angle_BLHS)
        y_BLHP = trapezoidal_ssd(now.x, now.dt, now.A, now.mix, B_BLHN, C_BLHN, self.chunk_size)
        return self._finish(y_BLHP, now).to(x.dtype)

    def init_state(self, batch_size: int) -> Mamba3State:
        """Returns the state before the first position: zeros."""
        wide = torch.promote_types(self.D.dtype, torch.float32)

        def zeros(*shape: int) -> Tensor:
            return self.D.new_zeros(batch_size, self.nheads, *shape, dtype=wide)

        scan = TrapezoidalState(zeros(self.headdim, self.d_state), zeros(self.headdim), zeros(self.d_state))
        return Mamba3State(zeros(self.num_rope_angles), scan)

    def step(self, x_t: Tensor, state: Mamba3State) -> tuple[Tensor, Mamba3State]:
        """Maps one position.

        Shapes:
            x_t [B, D] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another width or number of axes.

        Cost: O(B E (D + N)), whatever came before.
        """
        check_axes("Mamba3", x_t, "[B, D]", D=self.d_model)
        now = self._project(x_t)
        angle_BHS = torch.remainder(state.angle + now.turn, 2 * math.pi)
        B_BHN, C_BHN = rotate_pairs(now.B, angle_BHS), rotate_pairs(now.C, angle_BHS)
        y_BHP, scan = trapezoidal_ssd_step(now.x, now.dt, now.A, now.mix, B_BHN, C_BHN, state.scan)
        return self._finish(y_BHP, now).to(x_t.dtype), Mamba3State(angle_BHS, scan)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"dt_bias", "D"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the units of the state and, without an output norm, of the inner channels; with one, its gains."""
        found = [self._state_units(), self._input_scale()]
        if self.norm is not None:
            return [*found, norm_gain("mamba3.norm_gain", self.d_inner)]
        # The scan and the skip are linear in a channel, and the gate multiplies it; a norm behind them would not be.
        grow, shrink = {"in_proj.weight": Slices(start=self.d_inner)}, {"out_proj.weight": Slices(axis=1)}
        return [*found, scale("mamba3.value_scale", self.d_inner, grow=grow, shrink=shrink)]

    def _input_scale(self) -> Symmetry:
        """Declares that all channels together may shrink where B and the skip grow."""
        grow = {"B_norm.weight": Slices(block=self.d_state), "D": Slices(block=self.nheads)}
        grow["B_bias"] = Slices(block=self.nheads)
        shrink = {"in_proj.weight": Slices(start=self.d_inner, block=self.d_inner)}
        return scale("mamba3.input_scale", 1, grow=grow, shrink=shrink)

    def _state_units(self) -> Symmetry:
        # The two states of a pair that turns share one unit: a turn would mix two different ones.
        turning, rest = self.num_rope_angles, self.d_state - 2 * self.num_rope_angles
        parts = []
        for count, slices in ((turning, Slices(axis=-1, block=2)), (rest, Slices(axis=-1, start=2 * turning))):
            grow, shrink = ({f"{x}_norm.weight": slices, f"{x}_bias": slices} for x in "BC")
            parts.append(scale("mamba3.BC_scale", count, grow=grow, shrink=shrink))
        return joined("mamba3.BC_scale", parts)

    def _project(self, x: Tensor) -> Projections:
        wide = torch.promote_types(self.D.dtype, torch.float32)
        z, v, B, C, dt, A, mix, angle = self.in_proj(x).to(wide).split(self.widths, dim=-1)
        dt = F.softplus(dt + self.dt_bias)
        return Projections(
            z=z,
            x=v.unflatten(-1, (self.nheads, -1)),
            B=self._every_head(self.B_norm(B.unflatten(-1, (self.ngroups, -1))), self.B_bias),
            C=self._every_head(self.C_norm(C.unflatten(-1, (self.ngroups, -1))), self.C_bias),
            dt=dt,
            A=-_heavy_tail(A).clamp(min=self.A_floor),
            mix=torch.sigmoid(mix),
            turn=math.pi * torch.tanh(angle).unsqueeze(-2) * dt.unsqueeze(-1),
        )

    def _finish(self, y: Tensor, now: Projections) -> Tensor:
        y = (y + self.D.unsqueeze(-1) * now.x).flatten(-2)
        y = y * F.silu(now.z) if self.norm is None else self.norm(y, now.z)
        return self.out_proj(y.to(self.out_proj.weight.dtype))

    def _every_head(self, x: Tensor, bias: Tensor) -> Tensor:
        # [..., G, N] + [H, 1, N] -> [..., H, N]
        return (x.unsqueeze(-2) + bias.view(self.ngroups, -1, self.d_state)).flatten(-3, -2)

    def _check_sizes(self, rope_fraction: float) -> None:
        asked = f"d_model={self.d_model}, d_state={self.d_state}, headdim={self.headdim}, ngroups={self.ngroups}"
        if rope_fraction not in ROPE_FRACTIONS:
            raise ConfigError("rope_fraction is 0.5 or 1.", asked=rope_fraction)
        if min(self.d_model, self.num_rope_angles, self.headdim, self.ngroups, self.nheads) < 1:
            raise ConfigError("a size of the block is below 1, or no pair of states turns.", asked=asked)
        if self.d_inner % self.headdim or self.nheads % self.ngroups:
            todo = f"headdim a divisor of {self.d_inner}, ngroups one of the number of heads"
            raise ConfigError("heads do not divide the inner width, or groups the heads.", asked=asked, todo=todo)


def _heavy_tail(x: Tensor) -> Tensor:
    # 1 + x on the right of 0, 1 / (1 - x) on the left; the clamp keeps the unused side out of the backward pass.
    return torch.where(x >= 0, 1 + x, 1 / (1 - x.clamp(max=0)))
