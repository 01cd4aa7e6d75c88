"""The S4 block in its diagonal mode: convolution by a learned system, nonlinearity, mixing of channels.

Axes: B batch, L length, H channels (d_model), N conjugate pairs (d_state / 2), M kernels per channel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, NotCausalError, ShapeError, nearest
from madzoo.layers.linear import Linear
from madzoo.ops.diagonal_scan import diagonal_scan
from madzoo.ops.discretize import discretize_bilinear, discretize_zoh
from madzoo.ops.hippo import diagonal_init
from madzoo.ops.long_conv import long_conv
from madzoo.ops.vandermonde import vandermonde

__all__ = ["S4Block", "S4Convolution", "S4DiagonalKernel"]

DISCRETIZATIONS = {"zoh": discretize_zoh, "bilinear": discretize_bilinear}
INITS = ("diag-lin", "diag-inv", "diag-legs", "diag-real")


class S4DiagonalKernel(nn.Module):
    """Makes convolution kernels from a diagonal system with free input and output vectors.

    ``A = -exp(A_real) - i A_imag``, step ``exp(inv_dt)``; parameter names are the published ones (``inv_dt`` is the
    logarithm of dt).

    Args:
        d_model: number of channels H, each with its own system.
        channels: kernels per channel M.
        d_state: real dimension of a state, even.
        init: ``"diag-lin"``, ``"diag-inv"``, ``"diag-legs"`` or ``"diag-real"``, see
            :func:`madzoo.ops.hippo.diagonal_init`.
        disc: ``"zoh"`` or ``"bilinear"``.
        dt_min, dt_max: steps are drawn log-uniformly between them.

    Raises:
        ConfigError: on an unknown init or disc, or an odd d_state.

    Source: arXiv 2206.11893; state-spaces/s4, models/s4/s4.py, ``SSMKernelDiag``.
    """

    def __init__(
        self, d_model: int, *, channels: int, d_state: int, init: str, disc: str, dt_min: float, dt_max: float
    ) -> None:
        super().__init__()
        _require("init", init, INITS)
        _require("disc", disc, DISCRETIZATIONS)
        self.disc = disc
        dtype = torch.get_default_dtype()
        with torch.device("cpu"):  # an eigenvalue problem, which the meta device cannot solve
            A_N, B_N = diagonal_init(init.removeprefix("diag-"), d_state)
        low, high = math.log(dt_min), math.log(dt_max)
        self.inv_dt = nn.Parameter(torch.rand(d_model, 1) * (high - low) + low)
        device = self.inv_dt.device
        self.C = nn.Parameter(torch.randn(channels, d_model, d_state // 2, 2) * 0.5**0.5)
        self.B = nn.Parameter(torch.view_as_real(B_N).to(device, dtype).repeat(1, d_model, 1, 1))
        # The published code keeps both parts of A away from 0, also where a frequency of 0 is meant.
        self.A_real = nn.Parameter((-A_N.real).clamp(min=1e-4).log().to(device, dtype).repeat(d_model, 1))
        self.A_imag = nn.Parameter((-A_N.imag).clamp(min=1e-4).to(device, dtype).repeat(d_model, 1))

    def forward(self, length: int) -> Tensor:
        """Returns the impulse responses, [M, H, length], real.

        Raises:
            ShapeError: when length is below 1.
        """
        return vandermonde(*self.modes(), length)

    def modes(self) -> tuple[Tensor, Tensor]:
        """Returns the residues [M, H, N] and the logarithms of the poles [H, N] of the responses, complex."""
        A_bar_HN, B_bar_HN, C_MHN, dtA_HN = self._discretize()
        return C_MHN * B_bar_HN, dtA_HN if self.disc == "zoh" else A_bar_HN.log()

    def recurrence(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns complex ``A_bar`` [H, N], ``B_bar`` [H, N], ``C`` [M, H, N] of the equivalent recurrence."""
        return self._discretize()[:3]

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"inv_dt", "A_real", "A_imag", "B"}

    def _discretize(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(self.inv_dt.dtype, torch.float32)
        dt_H1 = torch.exp(self.inv_dt.to(dtype))
        A_HN = torch.complex(-torch.exp(self.A_real.to(dtype)), -self.A_imag.to(dtype))
        B_HN, C_MHN = (torch.view_as_complex(part.to(dtype).contiguous()) for part in (self.B[0], self.C))
        A_bar_HN, B_bar_HN = DISCRETIZATIONS[self.disc](A_HN, B_HN, dt_H1)
        return A_bar_HN, B_bar_HN, C_MHN, A_HN * dt_H1


class S4Convolution(nn.Module):
    """Convolves by an :class:`S4DiagonalKernel`, adds a skip, applies dropout and a GELU.

    In the direction from the future a kernel starts one position ahead, as published: the present is seen once.

    Args:
        d_model: number of channels.
        l_max: longest kernel; None for as long as the input.
        bidirectional: add a second kernel, from the future.
        dropout: probability, per value, or per channel with ``tie_dropout``.
        tie_dropout: drop whole channels.
        kernel: the other arguments of :class:`S4DiagonalKernel`.

    Source: state-spaces/s4, models/s4/s4.py, ``FFTConv``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int | None,
        bidirectional: bool,
        dropout: float,
        tie_dropout: bool,
        d_state: int,
        init: str,
        disc: str,
        dt_min: float,
        dt_max: float,
    ) -> None:
        super().__init__()
        self.l_max = l_max
        self.bidirectional = bidirectional
        self.D = nn.Parameter(torch.randn(1, d_model))
        self.kernel = S4DiagonalKernel(
            d_model,
            channels=2 if bidirectional else 1,
            d_state=d_state,
            init=init,
            disc=disc,
            dt_min=dt_min,
            dt_max=dt_max,
        )
        self.drop = _dropout(dropout, tied=tie_dropout)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence, [B, H, L] -> [B, H, L]."""
        v_MHN, log_z_HN = self.kernel.modes()
        y = self._respond(x, v_MHN[0], log_z_HN) + x * self.D.T
        if self.bidirectional:
            y = y + self._respond(F.pad(x[..., 1:], (0, 1)), v_MHN[1], log_z_HN, reverse=True)
        return self.activation(self.drop(y))

    def _respond(self, x: Tensor, v: Tensor, log_z: Tensor, *, reverse: bool = False) -> Tensor:
        if self.l_max is None or x.shape[-1] <= self.l_max:
            return diagonal_scan(x, v, log_z, reverse=reverse)
        # A kernel that ends forgets, which the recurrence cannot.
        return long_conv(x, vandermonde(v, log_z, self.l_max), reverse=reverse)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Maps one position, x_t [B, H], state [B, H, N] -> y_t, the next state."""
        A_bar, B_bar, C_MHN = self.kernel.recurrence()
        state = A_bar * state + B_bar * x_t.unsqueeze(-1)
        y = 2 * (C_MHN[0] * state).sum(-1).real + x_t * self.D[0]
        return self.activation(self.drop(y.to(x_t.dtype).unsqueeze(-1))).squeeze(-1), state


class S4Block(nn.Module):
    """Applies an S4 convolution and mixes the channels by a (gated) linear map.

    Causal unless ``bidirectional``; :meth:`step` computes the same map one position at a time (with ``l_max`` shorter
    than the sequence, the convolution forgets and the recurrence does not). Parameter names are the published ones.

    Args:
        d_model: number of channels.
        d_state: real dimension of each channel's state, even.
        l_max: longest kernel; None for as long as the input.
        mode: ``"diag"``: a diagonal state matrix.
        init, disc, dt_min, dt_max: see :class:`S4DiagonalKernel`.
        bidirectional: add a kernel from the future.
        final_act: ``"glu"`` doubles the outputs of the linear map and gates, ``"id"`` leaves them, None leaves out the
            map.
        dropout: probability of dropping a value, before the GELU and before the linear map.
        tie_dropout: drop channels along the whole sequence instead.
        transposed: take and return [B, H, L] instead of [B, L, H].

    Raises:
        ConfigError: on an unknown mode, init, disc or final_act, or an odd d_state.

    Source: arXiv 2206.11893; state-spaces/s4, models/s4/s4.py, ``S4Block``.

    Example:
        >>> S4Block(4, d_state=8)(torch.randn(2, 16, 4)).shape
        torch.Size([2, 16, 4])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        l_max: int | None = None,
        mode: str = "diag",
        init: str = "diag-lin",
        disc: str = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        bidirectional: bool = False,
        final_act: str | None = "glu",
        dropout: float = 0.0,
        tie_dropout: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        _require("mode", mode, ("diag",))
        _require("final_act", final_act, ("glu", "id", None))
        self.d_model = d_model
        self.transposed = transposed
        self.layer = S4Convolution(
            d_model,
            l_max=l_max,
            bidirectional=bidirectional,
            dropout=dropout,
            tie_dropout=tie_dropout,
            d_state=d_state,
            init=init,
            disc=disc,
            dt_min=dt_min,
            dt_max=dt_max,
        )
        self.drop = _dropout(dropout, tied=tie_dropout)
        self.output_linear = _output_map(d_model, final_act)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, H] -> [B, L, H]; with ``transposed`` [B, H, L] -> [B, H, L].

        Raises:
            ShapeError: when x has another number of channels or axes.

        Cost: O(B H L (N + H)), or O(B H L (log L + H)) where the compiled kernels do not serve.
        """
        if x.dim() != 3 or x.shape[1 if self.transposed else 2] != self.d_model:
            raise self._misfit(x, "[B, H, L]" if self.transposed else "[B, L, H]")
        y_BHL = self.drop(self.layer(x if self.transposed else x.transpose(1, 2)))
        y_BLH = self.output_linear(y_BHL.transpose(1, 2))
        return y_BLH.transpose(1, 2) if self.transposed else y_BLH

    def init_state(self, batch_size: int) -> Tensor:
        """Returns the zero state, complex [B, H, N].

        Raises:
            NotCausalError: when the block is bidirectional.
        """
        self._require_causal()
        return torch.zeros_like(self.layer.kernel.recurrence()[0]).repeat(batch_size, 1, 1)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Maps one position.

        Shapes:
            x_t [B, H], state complex [B, H, N] -> y_t [B, H], the next state.

        Raises:
            NotCausalError: when the block is bidirectional.
            ShapeError: when x_t has another number of channels or axes.

        Cost: O(B H N), whatever came before.
        """
        self._require_causal()
        if x_t.dim() != 2 or x_t.shape[1] != self.d_model:
            raise self._misfit(x_t, "[B, H]")
        y_BH, state = self.layer.step(x_t, state)
        return self.output_linear(self.drop(y_BH.unsqueeze(-1)).transpose(1, 2)).squeeze(1), state

    def _require_causal(self) -> None:
        if self.layer.bidirectional:
            raise NotCausalError("a bidirectional block sees the future.", asked="step", todo="bidirectional=False")

    def _misfit(self, x: Tensor, layout: str) -> ShapeError:
        return ShapeError("x does not fit S4Block.", asked=list(x.shape), todo=f"{layout} with H = {self.d_model}")


def _require(option: str, value: str | None, known) -> None:  # noqa: ANN001
    if value not in known:
        words = [str(word) for word in known]
        raise ConfigError(f"unknown {option}.", asked=value, looked=", ".join(words), todo=nearest(str(value), words))


def _dropout(p: float, *, tied: bool) -> nn.Module:
    if p == 0:
        return nn.Identity()
    return nn.Dropout1d(p) if tied else nn.Dropout(p)


def _output_map(d_model: int, final_act: str | None) -> nn.Module:
    if final_act is None:
        return nn.Identity()
    if final_act == "glu":
        return nn.Sequential(Linear(d_model, 2 * d_model), nn.GLU(dim=-1))
    return nn.Sequential(Linear(d_model, d_model), nn.Identity())
