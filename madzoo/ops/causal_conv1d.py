"""A short convolution per channel that never looks ahead (or, reversed, never looks back).

Axes: B batch, D channels, L length, K taps.
"""

from torch import Tensor, cat
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError

__all__ = ["causal_conv1d", "causal_conv1d_step"]


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None, reverse: bool = False
) -> Tensor:
    """Convolves every channel with its own K taps: ``y_t = b + sum_k weight[:, K-1-k] x_{t-k}``.

    Args:
        x: the sequence; what lies before its first position counts as zero.
        weight: taps, the last one on the present position.
        bias: added per channel.
        activation: ``"silu"`` or None.
        reverse: run against time, ``y_t = b + sum_k weight[:, K-1-k] x_{t+k}``.

    Shapes:
        x [B, D, L], weight [D, K], bias [D] -> [B, D, L].

    Raises:
        ShapeError: when the channels of x, weight and bias differ.
        ConfigError: on an unknown activation.

    Cost: O(B D L K).

    Source: arXiv 2312.00752 (Mamba), figure 3; signature of causal_conv1d's ``causal_conv1d_fn``.

    Example:
        >>> import torch
        >>> causal_conv1d(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[10.0, 1.0]]))
        tensor([[[ 1., 12., 23.]]])
    """
    _check(x, 3, weight, bias, activation)
    taps, margin, length = weight.flip(-1) if reverse else weight, weight.shape[-1] - 1, x.shape[2]
    if x.stride(1) == 1:
        # Channel-last memory stays so in two dimensions (one of height 1) and would be copied in one: 2.5 times slower.
        taps_D11K = taps.unsqueeze(1).unsqueeze(2)
        y = F.conv2d(x.unsqueeze(2), taps_D11K, bias, padding=(0, margin), groups=len(weight)).squeeze(2)
        y = y.narrow(2, margin if reverse else 0, length)
    else:
        x = F.pad(x, (0, margin) if reverse else (margin, 0))
        y = F.conv1d(x, taps.unsqueeze(1), bias, groups=len(weight))
    return _activate(y, activation)


def causal_conv1d_step(
    x_t: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """Computes one position of :func:`causal_conv1d` from the K - 1 inputs before it.

    Shapes:
        x_t [B, D], conv_state [B, D, K-1] (oldest first), weight [D, K], bias [D] -> y_t [B, D], the next conv_state.

    Raises:
        ShapeError: when the channels of x_t, weight and bias, or the length of the state, do not fit.
        ConfigError: on an unknown activation.

    Cost: O(B D K).
    """
    _check(x_t, 2, weight, bias, activation)
    if conv_state.shape != (*x_t.shape, weight.shape[-1] - 1):
        raise ShapeError("conv_state holds the K - 1 inputs before x_t.", asked=list(conv_state.shape))
    window = cat([conv_state, x_t.unsqueeze(-1)], dim=-1)
    y_t = (window * weight).sum(-1)
    return _activate(y_t if bias is None else y_t + bias, activation), window[..., 1:]


def _check(x: Tensor, axes: int, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    fits = x.dim() == axes and weight.dim() == 2 and weight.shape[0] == x.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [None if tensor is None else list(tensor.shape) for tensor in (x, weight, bias)]
        raise ShapeError("x, weight and bias do not fit.", asked=shapes, todo="x [B, D, L], weight [D, K], bias [D]")
    if activation not in (None, "silu"):
        raise ConfigError(f"unknown activation {activation!r}.", asked=activation, looked="'silu', None")


def _activate(y: Tensor, activation: str | None) -> Tensor:
    return F.silu(y) if activation == "silu" else y
