"""A long convolution with a free kernel: one learned number per channel and lag, behind a gate.

Axes: B batch, L length, D channels (d_model), K lags of the kernel (kernel_size), S taps of the gate (d_conv).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, scale
from madzoo.layers.axes import check_axes
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import depthwise_conv1d
from madzoo.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from madzoo.ops.long_conv import long_conv
from madzoo.symmetry import Symmetry

__all__ = ["LongConv", "LongConvState"]


class LongConvState(NamedTuple):
    """Holds what a :class:`LongConv` remembers: the last S - 1 inputs of the gate, the last K - 1 gated inputs.

    Attributes:
        gate: [B, D, S-1].
        past: [B, D, K-1].
    """

    gate: Tensor
    past: Tensor


class LongConv(nn.Module):
    """Gates every channel by what is near, convolves it with a kernel of its own, and maps across channels.

    ``y = W (kernel * (g x))`` with ``g = sigmoid(V silu(short convolution of x))``. The kernel has no structure: unlike
    a state space model's it is K free numbers a channel. It begins as noise under envelopes whose decay times spread
    from one step to the whole kernel. Causal: position t sees the K positions up to t. :meth:`step` computes the same
    map one position at a time, in memory of K inputs.

    Args:
        d_model: number of channels.
        kernel_size: lags of the kernel; a shorter sequence uses the first of them.
        d_conv: taps of the gate's short convolution.

    Raises:
        ConfigError: when a size is below 1.

    Source: arXiv 2602.17634 (long convolutions with a learned kernel and an input gate, in a forecaster).

    Example:
        >>> LongConv(4, kernel_size=64)(torch.randn(2, 16, 4)).shape
        torch.Size([2, 16, 4])
    """

    def __init__(self, d_model: int, *, kernel_size: int, d_conv: int = 3) -> None:
        super().__init__()
        if min(d_model, kernel_size, d_conv) < 1:
            raise ConfigError("a size of the layer is below 1.", asked=f"{d_model=}, {kernel_size=}, {d_conv=}")
        self.d_model, self.kernel_size, self.d_conv = d_model, kernel_size, d_conv
        self.kernel = nn.Parameter(_initial_kernel(d_model, kernel_size))
        self.gate_conv1d = depthwise_conv1d(d_model, d_conv)
        self.gate_proj = Linear(d_model, d_model)
        self.out_proj = Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps a sequence.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L D (D + log L)), see :func:`madzoo.ops.long_conv`.
        """
        check_axes("LongConv", x, "[B, L, D]", D=self.d_model)
        taps, bias = self.gate_conv1d.weight.squeeze(1), self.gate_conv1d.bias
        near = causal_conv1d(x.mT, taps, bias, activation="silu").mT
        gated_BDL = (x * self.gate_proj(near).sigmoid()).mT
        return self.out_proj(long_conv(gated_BDL, self.kernel[:, : x.shape[1]]).mT)

    def init_state(self, batch_size: int) -> LongConvState:
        """Returns the state before the first position: zeros."""
        return LongConvState(
            self.kernel.new_zeros(batch_size, self.d_model, self.d_conv - 1),
            self.kernel.new_zeros(batch_size, self.d_model, self.kernel_size - 1),
        )

    def step(self, x_t: Tensor, state: LongConvState) -> tuple[Tensor, LongConvState]:
        """Maps one position.

        Shapes:
            x_t [B, D] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another width or number of axes.

        Cost: O(B D (D + K)), whatever came before.
        """
        check_axes("LongConv", x_t, "[B, D]", D=self.d_model)
        taps, bias = self.gate_conv1d.weight.squeeze(1), self.gate_conv1d.bias
        near, gate = causal_conv1d_step(x_t, state.gate, taps, bias, "silu")
        seen = torch.cat([state.past, (x_t * self.gate_proj(near).sigmoid()).unsqueeze(-1)], dim=-1)
        return self.out_proj((seen * self.kernel.flip(-1)).sum(-1)), LongConvState(gate, seen[..., 1:])

    def symmetries(self) -> list[Symmetry]:
        """Declares that a channel's kernel may grow if the column of ``out_proj`` that reads it shrinks."""
        grow, shrink = {"kernel": Slices()}, {"out_proj.weight": Slices(axis=1)}
        return [scale("long_conv.kernel_scale", self.d_model, grow=grow, shrink=shrink)]


def _initial_kernel(channels: int, lags: int) -> Tensor:
    decay_times = torch.logspace(0, math.log10(lags), channels).unsqueeze(-1)
    kernel = torch.randn(channels, lags) * torch.exp(-torch.arange(lags) / decay_times)
    return kernel / kernel.norm(dim=-1, keepdim=True)
