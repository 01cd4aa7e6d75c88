"""The convolution kernels of S4: a state matrix that is diagonal (S4D), or diagonal plus low rank (S4).

Axes: H channels (d_model), M kernels per channel, N conjugate pairs (d_state / 2), S systems that the channels share
(n_ssm), R rank of the correction.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, check_choice
from madzoo.layers.s4_symmetries import kernel_symmetries
from madzoo.ops.discretize import discretize_bilinear, discretize_zoh
from madzoo.ops.dplr import dplr_kernel, dplr_real_system, readout_row, readout_times_power
from madzoo.ops.hippo import initial_systems
from madzoo.ops.vandermonde import vandermonde
from madzoo.symmetry import Symmetry

__all__ = ["DPLRState", "S4DPLRKernel", "S4DiagonalKernel", "S4Kernel", "S4KernelConfig", "make_kernel"]

DISCRETIZATIONS = {"zoh": discretize_zoh, "bilinear": discretize_bilinear}
DT_TRANSFORMS = ("exp", "softplus")
MODES = ("diag", "dplr", "nplr")  # the last two are one


@dataclass(frozen=True, kw_only=True, slots=True)
class S4KernelConfig:
    """Configures the systems behind a layer's convolution kernels.

    Attributes:
        d_state: real dimension of a state, even.
        mode: ``"diag"``: a diagonal state matrix; ``"dplr"``, also called ``"nplr"``: diagonal plus low rank.
        init: see :func:`madzoo.ops.hippo.initial_systems`; None for ``"diag-lin"`` or, beside a correction, ``"legs"``.
        rank: of the correction R.
        n_ssm: how many systems (A, B) there are for the channels to share in turn; None for one each.
        dt_min, dt_max: steps are drawn log-uniformly between them.
        dt_transform: ``"exp"`` or ``"softplus"``: from ``inv_dt`` to the step.
        disc: of a diagonal system, ``"zoh"`` or ``"bilinear"``; the other one is always bilinear.
        bandlimit: frequencies above half of this share of the sampling rate are silenced; None for none.

    Raises:
        ConfigError: on an unknown mode, dt_transform or disc.
    """

    d_state: int = 64
    mode: str = "diag"
    init: str | None = None
    rank: int = 1
    n_ssm: int | None = None
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_transform: str = "exp"
    disc: str = "zoh"
    bandlimit: float | None = None

    def __post_init__(self) -> None:
        """Checks the words."""
        check_choice("mode", self.mode, MODES)
        check_choice("dt_transform", self.dt_transform, DT_TRANSFORMS)
        check_choice("disc", self.disc, tuple(DISCRETIZATIONS))


def make_kernel(config: S4KernelConfig, d_model: int, *, channels: int, l_max: int | None) -> "S4Kernel":
    """Builds the kernel of a mode.

    Args:
        config: the systems.
        d_model: number of channels H.
        channels: kernels per channel M.
        l_max: length for which a :class:`S4DPLRKernel` truncates its output vectors; None to learn them whole.

    Raises:
        ConfigError: on an unknown init, an odd d_state, or n_ssm that does not divide d_model.
    """
    if config.mode == "diag":
        return S4DiagonalKernel(config, d_model, channels=channels)
    return S4DPLRKernel(config, d_model, channels=channels, l_max=l_max)


class S4Kernel(nn.Module, ABC):
    """Holds what both kernels learn; ``A = -exp(A_real) - i A_imag``, names and shapes as published.

    Args:
        config: the systems.
        d_model: number of channels H.
        channels: kernels per channel M.

    Raises:
        ConfigError: see :func:`make_kernel`.
    """

    def __init__(self, config: S4KernelConfig, d_model: int, *, channels: int) -> None:
        super().__init__()
        self.config = config
        systems = d_model if config.n_ssm is None else config.n_ssm
        if systems < 1 or d_model % systems:
            raise ConfigError("n_ssm divides d_model.", asked=f"n_ssm={systems}", looked=f"d_model={d_model}")
        self.shares = d_model // systems
        dtype = torch.get_default_dtype()
        with torch.device("cpu"):  # an eigenvalue problem, which the meta device cannot solve
            init = config.init or ("diag-lin" if config.mode == "diag" else "legs")
            A_SN, B_SN, P_RSN = initial_systems(init, config.d_state, systems=systems, rank=config.rank)
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        log_dt = torch.rand(d_model, 1) * (high - low) + low
        self.inv_dt = nn.Parameter(log_dt if config.dt_transform == "exp" else _inverse_softplus(log_dt.exp()))
        device = self.inv_dt.device
        self.C = nn.Parameter(torch.randn(channels, d_model, config.d_state // 2, 2) * 0.5**0.5)
        self.B = nn.Parameter(torch.view_as_real(B_SN).to(device, dtype).unsqueeze(0))
        # The published code keeps both parts of A away from 0, also where a frequency of 0 is meant.
        self.A_real = nn.Parameter((-A_SN.real).clamp(min=1e-4).log().to(device, dtype))
        self.A_imag = nn.Parameter((-A_SN.imag).clamp(min=1e-4).to(device, dtype))
        if config.mode != "diag":
            self.P = nn.Parameter(torch.view_as_real(P_RSN).to(device, dtype))

    @abstractmethod
    def forward(self, length: int) -> Tensor:
        """Returns the impulse responses, [M, H, length], real."""

    @abstractmethod
    def init_state(self, batch_size: int) -> "Tensor | DPLRState":
        """Returns the zero state."""

    @abstractmethod
    def step(self, u_BH: Tensor, state: Any) -> "tuple[Tensor, Tensor | DPLRState]":
        """Reads one position, and returns the responses [B, M, H] and the next state."""

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"inv_dt", "A_real", "A_imag", "B"}

    def symmetries(self) -> list[Symmetry]:
        """Declares the units of time and of the states of every system."""
        sizes = {"channels": len(self.inv_dt), "systems": len(self.A_real), "pairs": self.A_real.shape[1]}
        softplus, low_rank = self.config.dt_transform == "softplus", self.config.mode != "diag"
        return kernel_symmetries(**sizes, softplus=softplus, low_rank=low_rank)

    def _system(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns A, B [H, N], C [M, H, N], complex, and dt [H, 1]."""
        dtype = dtype or torch.promote_types(self.inv_dt.dtype, torch.float32)
        inv_dt_H1 = self.inv_dt.to(dtype)
        dt_H1 = torch.exp(inv_dt_H1) if self.config.dt_transform == "exp" else F.softplus(inv_dt_H1)
        A_HN = self._share(torch.complex(-torch.exp(self.A_real.to(dtype)), -self.A_imag.to(dtype)))
        B_HN, C_MHN = self._share(_complex(self.B[0], dtype)), _complex(self.C, dtype)
        return A_HN, B_HN, C_MHN, dt_H1

    def _limit(self, C_MHN: Tensor, A_HN: Tensor, dt_H1: Tensor) -> Tensor:
        """Silences what the bandlimit excludes."""
        if self.config.bandlimit is None:
            return C_MHN
        return C_MHN * (dt_H1 * A_HN.imag.abs() / (2 * math.pi) < self.config.bandlimit / 2)

    def _share(self, x: Tensor) -> Tensor:
        """Deals S systems out to H channels, in turn."""
        return x if self.shares == 1 else x.repeat(*[1] * (x.dim() - 2), self.shares, 1)


class S4DiagonalKernel(S4Kernel):
    """Makes convolution kernels from a diagonal system with free input and output vectors.

    Args:
        config, d_model, channels: see :func:`make_kernel`.

    Source: arXiv 2206.11893; state-spaces/s4, models/s4/s4.py, ``SSMKernelDiag``.
    """

    def forward(self, length: int) -> Tensor:
        """Returns the impulse responses, [M, H, length], real.

        Raises:
            ShapeError: when length is below 1.
        """
        return vandermonde(*self.modes(), length)

    def modes(self) -> tuple[Tensor, Tensor]:
        """Returns the residues [M, H, N] and the logarithms of the poles [H, N] of the responses, complex."""
        A_bar_HN, B_bar_HN, C_MHN, dtA_HN = self._discretize()
        return C_MHN * B_bar_HN, dtA_HN if self.config.disc == "zoh" else A_bar_HN.log()

    def init_state(self, batch_size: int) -> Tensor:
        """Returns the zero state, complex [B, H, N]."""
        return torch.zeros_like(self._discretize()[0]).repeat(batch_size, 1, 1)

    def step(self, u_BH: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Reads one position, and returns the responses [B, M, H] and the next state."""
        A_bar, B_bar, C_MHN, _ = self._discretize()
        state = A_bar * state + B_bar * u_BH.unsqueeze(-1)
        return 2 * (C_MHN * state.unsqueeze(1)).sum(-1).real, state

    def _discretize(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        A_HN, B_HN, C_MHN, dt_H1 = self._system()
        A_bar_HN, B_bar_HN = DISCRETIZATIONS[self.config.disc](A_HN, B_HN, dt_H1)
        return A_bar_HN, B_bar_HN, self._limit(C_MHN, A_HN, dt_H1), A_HN * dt_H1


class DPLRState(NamedTuple):
    """Holds a state and the discrete system that moves it, which is derived once per sequence.

    Shapes:
        x [B, H, S]; A_bar [H, S, S], B_bar [H, S], readout [H, M, S], real; S = 2 N.
    """

    x: Tensor
    A_bar: Tensor
    B_bar: Tensor
    readout: Tensor


class S4DPLRKernel(S4Kernel):
    """Makes convolution kernels from a system that is diagonal plus low rank, by the bilinear rule.

    As published, what is learned is the output vector truncated for ``l_kernel`` samples, ``C (1 - A_bar^l_kernel)``;
    a longer kernel doubles that length until it suffices. With ``l_max`` the vector is truncated at initialisation and
    when a state dict is loaded that was saved before its first use (``l_kernel`` = 0); without, at every call.

    Args:
        config, d_model, channels, l_max: see :func:`make_kernel`.

    Source: arXiv 2111.00396; state-spaces/s4, models/s4/s4.py, ``SSMKernelDPLR``.
    """

    l_kernel: Tensor

    def __init__(self, config: S4KernelConfig, d_model: int, *, channels: int, l_max: int | None) -> None:
        super().__init__(config, d_model, channels=channels)
        self.l_max, self.truncated = l_max, 0
        self.register_buffer("l_kernel", torch.tensor(0))
        self._truncate()
        self.register_load_state_dict_post_hook(_truncate_what_was_loaded)

    def forward(self, length: int) -> Tensor:
        """Returns the impulse responses, [M, H, length], real.

        Raises:
            ShapeError: when length is below 1.

        Cost: O(H N L) where L is l_kernel, or the first of its doubles that suffices; at another length than l_kernel
            O(H N^3 log L) more.
        """
        A, B, C, dt = self._system()
        P, at = self._share(_complex(self.P, A.real.dtype)), self.truncated
        if at < length:
            A_bar, _ = dplr_real_system(A, P, B, dt)
            if not at:
                C, at = C - readout_times_power(C, A_bar, length), length
            while at < length:
                C, at = C + readout_times_power(C, A_bar, at), 2 * at
        # Published: the bandlimit cuts what is truncated, and steps know nothing of it.
        return dplr_kernel(A, P, B, self._limit(C, A, dt), dt, at)[..., :length]

    def init_state(self, batch_size: int) -> DPLRState:
        """Returns the zero state, and the discrete system."""
        A, B, C, dt = self._system()
        A_bar, B_bar = dplr_real_system(A, self._share(_complex(self.P, A.real.dtype)), B, dt)
        readout = readout_row(C)
        if self.truncated:
            one = torch.eye(A_bar.shape[-1], dtype=A_bar.dtype, device=A_bar.device)
            rest = one - torch.linalg.matrix_power(A_bar, self.truncated)
            readout = torch.linalg.solve(rest, readout, left=False)
        return DPLRState(torch.zeros_like(B_bar).repeat(batch_size, 1, 1), A_bar, B_bar, readout)

    def step(self, u_BH: Tensor, state: DPLRState) -> tuple[Tensor, DPLRState]:
        """Reads one position, and returns the responses [B, M, H] and the next state."""
        moved = torch.einsum("hij,bhj->bhi", state.A_bar, state.x) + state.B_bar * u_BH.unsqueeze(-1)
        return 2 * torch.einsum("hmi,bhi->bmh", state.readout, moved), state._replace(x=moved)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return super().no_weight_decay() | {"P"}

    @torch.no_grad()
    def _truncate(self) -> None:
        if not self.l_max:
            return
        self.truncated = self.l_max
        self.l_kernel.fill_(self.l_max)
        if not self.C.is_meta:
            A, B, C, dt = self._system(torch.float64)
            A_bar, _ = dplr_real_system(A, self._share(_complex(self.P, torch.float64)), B, dt)
            self.C.copy_(torch.view_as_real(C - readout_times_power(C, A_bar, self.l_max)))


def _truncate_what_was_loaded(kernel: nn.Module, _incompatible: object) -> None:
    assert isinstance(kernel, S4DPLRKernel)
    if not kernel.l_kernel.is_meta:
        kernel.truncated = int(kernel.l_kernel)
        if not kernel.truncated:
            kernel._truncate()


def _complex(pairs: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_complex(pairs.to(dtype).contiguous())


def _inverse_softplus(dt: Tensor) -> Tensor:
    return torch.log(torch.expm1(dt.clamp(min=1e-4)))
