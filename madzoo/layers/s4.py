"""The S4 block: convolution by a learned system, nonlinearity, mixing of channels.

Axes: B batch, L length, H channels (d_model), N conjugate pairs (d_state / 2), M outputs per channel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, NotCausalError, nearest
from madzoo.gauges import Places, Slices, rows_of
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.s4_kernels import DPLRState, S4DiagonalKernel, S4Kernel, S4KernelConfig, make_kernel
from madzoo.ops.diagonal_scan import diagonal_scan
from madzoo.ops.long_conv import long_conv

__all__ = ["S4Block", "S4Convolution"]

FINAL_ACTS = ("glu", "id", None)
State = Tensor | DPLRState


class S4Convolution(nn.Module):
    """Convolves by S4 kernels, adds a skip, applies dropout and a GELU.

    In the direction from the future a kernel starts one position ahead, as published: the present is seen once.

    Args:
        config: the systems behind the kernels.
        d_model: number of channels H.
        l_max: longest kernel; None for as long as the input.
        channels: outputs per channel M.
        bidirectional: add as many kernels from the future.
        dropout: probability, per value, or per channel with ``tie_dropout``.
        tie_dropout: drop whole channels.

    Source: state-spaces/s4, models/s4/s4.py, ``FFTConv``.
    """

    def __init__(
        self,
        config: S4KernelConfig,
        d_model: int,
        *,
        l_max: int | None,
        channels: int,
        bidirectional: bool,
        dropout: float,
        tie_dropout: bool,
    ) -> None:
        super().__init__()
        self.l_max, self.channels, self.bidirectional = l_max, channels, bidirectional
        self.D = nn.Parameter(torch.randn(channels, d_model))
        kernels = 2 * channels if bidirectional else channels
        self.kernel: S4Kernel = make_kernel(config, d_model, channels=kernels, l_max=l_max)
        self.drop = _dropout(dropout, tied=tie_dropout)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence, [B, H, L] -> [B, M H, L]."""
        length = x.shape[-1] if self.l_max is None else min(self.l_max, x.shape[-1])
        if isinstance(self.kernel, S4DiagonalKernel) and length == x.shape[-1]:
            v_MHN, log_z_HN = self.kernel.modes()
            ys = [diagonal_scan(x, v_HN, log_z_HN) for v_HN in v_MHN[: self.channels]]
            future = [diagonal_scan(_ahead(x), v_HN, log_z_HN, reverse=True) for v_HN in v_MHN[self.channels :]]
        else:  # a kernel that ends forgets, which a recurrence cannot
            k_MHL = self.kernel(length)
            ys = [long_conv(x, k_HL) for k_HL in k_MHL[: self.channels]]
            future = [long_conv(_ahead(x), k_HL, reverse=True) for k_HL in k_MHL[self.channels :]]
        if self.bidirectional:
            ys = [y + later for y, later in zip(ys, future, strict=True)]
        y_BCL = torch.cat([y + x * D_H.unsqueeze(-1) for y, D_H in zip(ys, self.D, strict=True)], 1)
        return self.activation(self.drop(y_BCL))

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps one position, x_t [B, H] -> y_t [B, M H], the next state."""
        y_BMH, state = self.kernel.step(x_t, state)
        y = (y_BMH.to(x_t.dtype) + x_t.unsqueeze(1) * self.D).flatten(1)
        return self.activation(self.drop(y.unsqueeze(-1))).squeeze(-1), state


class S4Block(nn.Module):
    """Applies an S4 convolution and mixes the channels by a (gated) linear map.

    Causal unless ``bidirectional``; :meth:`step` computes the same map one position at a time (with ``l_max`` shorter
    than the sequence, the convolution forgets and the recurrence does not). Parameter names are the published ones.

    Args:
        d_model: number of channels.
        d_state: real dimension of each channel's state, even.
        l_max: longest kernel; None for as long as the input.
        mode: ``"diag"``: a diagonal state matrix; ``"dplr"`` (also ``"nplr"``): diagonal plus low rank.
        init, rank, n_ssm, disc, dt_min, dt_max, dt_transform, bandlimit: see
            :class:`madzoo.layers.s4_kernels.S4KernelConfig`.
        channels: outputs of the convolution per channel.
        bidirectional: add as many kernels from the future.
        final_act: ``"glu"`` doubles the outputs of the linear map and gates, ``"id"`` leaves them, None leaves out the
            map.
        dropout: probability of dropping a value, before the GELU and before the linear map.
        tie_dropout: drop channels along the whole sequence instead.
        transposed: take and return [B, H, L] instead of [B, L, H].

    Raises:
        ConfigError: on an unknown mode, init, disc, dt_transform or final_act, an odd d_state, a rank below that of
            the init, n_ssm that does not divide d_model, or several channels without a map.

    Source: arXiv 2111.00396, 2206.11893; state-spaces/s4, models/s4/s4.py, ``S4Block``.

    Example:
        >>> S4Block(4, d_state=8, mode="dplr")(torch.randn(2, 16, 4)).shape
        torch.Size([2, 16, 4])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        l_max: int | None = None,
        mode: str = "diag",
        init: str | None = None,
        rank: int = 1,
        n_ssm: int | None = None,
        disc: str = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_transform: str = "exp",
        bandlimit: float | None = None,
        channels: int = 1,
        bidirectional: bool = False,
        final_act: str | None = "glu",
        dropout: float = 0.0,
        tie_dropout: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        _check_map(final_act, channels)
        config = S4KernelConfig(
            d_state=d_state,
            mode=mode,
            init=init,
            rank=rank,
            n_ssm=n_ssm,
            disc=disc,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_transform=dt_transform,
            bandlimit=bandlimit,
        )
        self.d_model = d_model
        self.transposed = transposed
        self.layer = S4Convolution(
            config,
            d_model,
            l_max=l_max,
            channels=channels,
            bidirectional=bidirectional,
            dropout=dropout,
            tie_dropout=tie_dropout,
        )
        self.drop = _dropout(dropout, tied=tie_dropout)
        self.output_linear = _output_map(channels * d_model, d_model, final_act)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, H] -> [B, L, H]; with ``transposed`` [B, H, L] -> [B, H, L].

        Raises:
            ShapeError: when x has another number of channels or axes.

        Cost: O(B H L (N + H)), or O(B H L (log L + H)) where the compiled kernels do not serve; with a low-rank part
            O(H N L) more.
        """
        check_axes("S4Block", x, "[B, H, L]" if self.transposed else "[B, L, H]", H=self.d_model)
        y_BCL = self.drop(self.layer(x if self.transposed else x.transpose(1, 2)))
        y_BLH = self.output_linear(y_BCL.transpose(1, 2))
        return y_BLH.transpose(1, 2) if self.transposed else y_BLH

    def init_state(self, batch_size: int) -> State:
        """Returns the zero state: complex [B, H, N], or a :class:`madzoo.layers.s4_kernels.DPLRState`.

        Raises:
            NotCausalError: when the block is bidirectional.
        """
        self._require_causal()
        return self.layer.kernel.init_state(batch_size)

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps one position.

        Shapes:
            x_t [B, H], a state -> y_t [B, H], the next state.

        Raises:
            NotCausalError: when the block is bidirectional.
            ShapeError: when x_t has another number of channels or axes.

        Cost: O(B H N), with a low-rank part O(B H N^2), whatever came before.
        """
        self._require_causal()
        check_axes("S4Block", x_t, "[B, H]", H=self.d_model)
        y_BC, state = self.layer.step(x_t, state)
        return self.output_linear(self.drop(y_BC.unsqueeze(-1)).transpose(1, 2)).squeeze(1), state

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {f"layer.kernel.{name}" for name in self.layer.kernel.no_weight_decay()}

    def channel_readers(self) -> Places:
        """Returns what reads the channels of the input, each its own: the kernels' output vectors and the skip."""
        return {"layer.D": Slices(axis=1), "layer.kernel.C": Slices(axis=1)}

    def channel_writers(self) -> tuple[dict[str, Slices], dict[str, Slices]]:
        """Returns what a channel of the output grows with, and what alone adds to it: all of it where it is linear."""
        if not isinstance(self.output_linear, nn.Sequential):
            return {}, {}
        rows = rows_of("output_linear.0.weight", bias=True)
        return rows, {} if isinstance(self.output_linear[1], nn.GLU) else rows

    def _require_causal(self) -> None:
        if self.layer.bidirectional:
            raise NotCausalError("a bidirectional block sees the future.", asked="step", todo="bidirectional=False")


def _ahead(x: Tensor) -> Tensor:
    return F.pad(x[..., 1:], (0, 1))


def _check_map(final_act: str | None, channels: int) -> None:
    if final_act not in FINAL_ACTS:
        words = [str(word) for word in FINAL_ACTS]
        todo = nearest(str(final_act), words)
        raise ConfigError("unknown final_act.", asked=final_act, looked=", ".join(words), todo=todo)
    if final_act is None and channels != 1:
        raise ConfigError("without a map the channels stay.", asked=f"channels={channels}", todo="final_act='id'")


def _dropout(p: float, *, tied: bool) -> nn.Module:
    if p == 0:
        return nn.Identity()
    return nn.Dropout1d(p) if tied else nn.Dropout(p)


def _output_map(d_inner: int, d_model: int, final_act: str | None) -> nn.Module:
    if final_act is None:
        return nn.Identity()
    if final_act == "glu":
        return nn.Sequential(Linear(d_inner, 2 * d_model), nn.GLU(dim=-1))
    return nn.Sequential(Linear(d_inner, d_model), nn.Identity())
