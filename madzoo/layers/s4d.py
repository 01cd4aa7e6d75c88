"""S4D: a diagonal state space model, applied as a long convolution or stepped as a recurrence.

Axes: B batch, L length, D channels (d_model), N conjugate pairs (d_state / 2).
"""

import math

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import Places, Slices, rows_of, scale
from madzoo.layers.axes import check_axes
from madzoo.ops.diagonal_scan import diagonal_scan
from madzoo.ops.discretize import discretize_zoh
from madzoo.ops.long_conv import long_conv
from madzoo.ops.onnx_export import is_onnx_export
from madzoo.ops.oscillator_kernel import oscillator_kernel
from madzoo.ops.vandermonde import vandermonde
from madzoo.symmetry import Symmetry

__all__ = ["S4D", "S4DKernel"]


class S4DKernel(nn.Module):
    """Makes one convolution kernel per channel from a diagonal complex system (S4D-Lin initialisation).

    The system is ``x' = A x + u``, ``y = 2 Re(C x)`` with ``A = -exp(log_A_real) + i A_imag`` and step
    ``exp(log_dt)``, held constant over each step. ``kernel(L)`` is its impulse response: convolve with it by
    :func:`madzoo.ops.long_conv` (``reverse=True`` for the direction from the future). Parameter names are the
    published ones.

    Args:
        d_model: number of channels, each with its own system.
        d_state: real dimension of a state; d_state / 2 conjugate pairs are stored.
        dt_min, dt_max: steps are drawn log-uniformly between them; 1 / dt is about the memory in samples.

    Raises:
        ConfigError: when d_state is odd or below 2, or 0 < dt_min <= dt_max fails.

    Source: arXiv 2206.11893; parameter names of state-spaces/s4, models/s4/s4d.py.

    Example:
        >>> S4DKernel(4, d_state=8)(16).shape
        torch.Size([4, 16])
    """

    def __init__(self, d_model: int, *, d_state: int = 64, dt_min: float = 0.001, dt_max: float = 0.1) -> None:
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ConfigError("d_state counts conjugate pairs twice, so it is even.", asked=f"d_state={d_state}")
        if not 0 < dt_min <= dt_max:
            raise ConfigError("steps need 0 < dt_min <= dt_max.", asked=f"dt_min={dt_min}, dt_max={dt_max}")
        pairs = d_state // 2
        low, high = math.log(dt_min), math.log(dt_max)
        self.C = nn.Parameter(torch.randn(d_model, pairs, 2) * 0.5**0.5)
        self.log_dt = nn.Parameter(torch.rand(d_model) * (high - low) + low)
        self.log_A_real = nn.Parameter(torch.full((d_model, pairs), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(pairs).to(self.C.dtype).repeat(d_model, 1))

    def forward(self, length: int) -> Tensor:
        """Returns the impulse response.

        Shapes: -> k [D, length], real, in the parameters' dtype (float32 at least).

        Raises:
            ShapeError: when length is below 1.
        """
        if is_onnx_export():
            dtype = torch.promote_types(self.log_dt.dtype, torch.float32)
            log_dt, log_A_real, A_imag, C = (x.to(dtype) for x in (self.log_dt, self.log_A_real, self.A_imag, self.C))
            return oscillator_kernel(-torch.exp(log_A_real), A_imag, C, torch.exp(log_dt).unsqueeze(-1), length)
        A_DN, B_bar_DN, C_DN, dt_D1 = self._system()
        return vandermonde(C_DN * B_bar_DN, A_DN * dt_D1, length)

    def convolve(self, u: Tensor, D: Tensor | None = None, *, reverse: bool = False) -> Tensor:
        """Convolves with the impulse response and adds ``D u``, without making the response where a scan is quicker.

        Args:
            u: the sequences.
            D: skip weights.
            reverse: from the future.

        Shapes:
            u [..., D, L], D [D] -> [..., D, L].

        Raises:
            ShapeError: when u has other channels.

        Cost: see :func:`madzoo.ops.diagonal_scan`.
        """
        if is_onnx_export():
            y = long_conv(u, self(u.shape[-1]), reverse=reverse)
            return y if D is None else y + D.unsqueeze(-1) * u
        A_DN, B_bar_DN, C_DN, dt_D1 = self._system()
        return diagonal_scan(u, C_DN * B_bar_DN, A_DN * dt_D1, D, reverse=reverse)

    def recurrence(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ``(A_bar, B_bar, C)``, complex [D, N]: ``x_t = A_bar x_{t-1} + B_bar u_t``, ``y_t = 2 Re(C x_t)``."""
        A_DN, B_bar_DN, C_DN, dt_D1 = self._system()
        return torch.exp(A_DN * dt_D1), B_bar_DN, C_DN

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"log_dt", "log_A_real", "A_imag"}

    def symmetries(self) -> list[Symmetry]:
        """Declares that time has no unit: dt -> c dt, A -> A / c, C -> C / c keeps each channel's kernel."""
        shrink = {"log_A_real": Slices(additive=True), "A_imag": Slices(), "C": Slices()}
        return [scale("s4d.time_unit", len(self.log_dt), grow={"log_dt": Slices(additive=True)}, shrink=shrink)]

    def _system(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(self.log_dt.dtype, torch.float32)
        dt_D1 = torch.exp(self.log_dt.to(dtype)).unsqueeze(-1)
        A_DN = torch.complex(-torch.exp(self.log_A_real.to(dtype)), self.A_imag.to(dtype))
        _, B_bar_DN = discretize_zoh(A_DN, torch.ones_like(A_DN), dt_D1)
        return A_DN, B_bar_DN, torch.view_as_complex(self.C.to(dtype).contiguous()), dt_D1


class S4D(nn.Module):
    """Applies an S4D convolution per channel, a skip, GELU, and a gated linear map across channels.

    Causal: position t sees positions up to t, and :meth:`step` computes the same map one position at a time.

    Args:
        d_model: number of channels.
        d_state, dt_min, dt_max: see :class:`S4DKernel`.
        dropout: probability of dropping a channel along the whole sequence, after the GELU.
        transposed: take and return [B, D, L], the published layout, instead of [B, L, D].

    Raises:
        ConfigError: see :class:`S4DKernel`.

    Source: arXiv 2206.11893; parameter names of state-spaces/s4, models/s4/s4d.py.

    Example:
        >>> S4D(4, d_state=8)(torch.randn(2, 16, 4)).shape
        torch.Size([2, 16, 4])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dropout: float = 0.0,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.transposed = transposed
        self.D = nn.Parameter(torch.randn(d_model))
        self.kernel = S4DKernel(d_model, d_state=d_state, dt_min=dt_min, dt_max=dt_max)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout1d(dropout) if dropout > 0 else nn.Identity()
        self.output_linear = nn.Sequential(nn.Conv1d(d_model, 2 * d_model, kernel_size=1), nn.GLU(dim=-2))

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D]; with ``transposed`` [B, D, L] -> [B, D, L].

        Raises:
            ShapeError: when x has another number of channels or axes.

        Cost: O(B D L (N + D)), or O(B D L (log L + D)) where the compiled kernels do not serve.
        """
        check_axes("S4D", x, "[B, D, L]" if self.transposed else "[B, L, D]", D=self.d_model)
        x_BDL = x if self.transposed else x.transpose(1, 2)
        y_BDL = self._mix_channels(self.kernel.convolve(x_BDL, self.D))
        return y_BDL if self.transposed else y_BDL.transpose(1, 2)

    def init_state(self, batch_size: int) -> Tensor:
        """Returns the zero state, complex [B, D, N]."""
        return torch.zeros_like(self.kernel.recurrence()[0]).repeat(batch_size, 1, 1)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Maps one position.

        Shapes:
            x_t [B, D], state complex [B, D, N] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another number of channels or axes.

        Cost: O(B D N), whatever came before.
        """
        check_axes("S4D", x_t, "[B, D]", D=self.d_model)
        A_bar, B_bar, C = self.kernel.recurrence()
        state = A_bar * state + B_bar * x_t.unsqueeze(-1)
        y_BD = 2 * (C * state).sum(-1).real + x_t * self.D
        return self._mix_channels(y_BD.to(x_t.dtype).unsqueeze(-1)).squeeze(-1), state

    def channel_readers(self) -> Places:
        """Returns what reads the channels of the input, each its own: the kernels' output vectors and the skip."""
        return {"D": Slices(), "kernel.C": Slices()}

    def channel_writers(self) -> tuple[dict[str, Slices], dict[str, Slices]]:
        """Returns what a channel of the output grows with, and what alone adds to it: nothing, for it is gated."""
        return rows_of("output_linear.0.weight", bias=True), {}

    def _mix_channels(self, y_BDL: Tensor) -> Tensor:
        return self.output_linear(self.dropout(self.activation(y_BDL)))
