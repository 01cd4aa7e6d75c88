"""A short convolution per channel that never looks ahead (or, reversed, never looks back).

Axes: B batch, D channels, L length, K taps.
"""

from collections.abc import Callable

import torch
from torch import Tensor, cat
from torch.nn import functional as F

from madzoo.errors import BackendError, ConfigError, ShapeError, nearest
from madzoo.ops.causal_conv1d_torch import causal_conv1d_by_torch
from madzoo.ops.kernels.c_abi import kernels_are_here
from madzoo.ops.kernels.conv1d_cpu import cpu_causal_conv1d, why_not_cpu
from madzoo.ops.onnx_export import is_onnx_export

__all__ = ["cast_for_kernel", "causal_conv1d", "causal_conv1d_step"]

BACKENDS = ("auto", "torch", "cpu")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Convolves every channel with its own K taps: ``y_t = b + sum_k weight[:, K-1-k] x_{t-k}``.

    Under autocast on the CPU the compiled kernel computes and returns float32, as the scan behind it wants.

    Args:
        x: the sequence; what lies before its first position counts as zero.
        weight: taps, the last one on the present position.
        bias: added per channel.
        activation: ``"silu"`` or None.
        reverse: run against time, ``y_t = b + sum_k weight[:, K-1-k] x_{t+k}``.
        backend: ``"cpu"`` (the compiled kernel, everything in one pass; float32 and float64, up to 16 taps),
            ``"torch"`` (PyTorch's operators), ``"auto"`` (the first that serves).

    Shapes:
        x [B, D, L], weight [D, K], bias [D] -> [B, D, L].

    Raises:
        ShapeError: when the channels of x, weight and bias differ.
        ConfigError: on an unknown activation.
        BackendError: when the backend is unknown or does not serve these inputs.

    Cost: O(B D L K). The result lies as x does, channel-last or not; "cpu" keeps nothing for the backward.

    Source: arXiv 2312.00752 (Mamba), figure 3; signature of causal_conv1d's ``causal_conv1d_fn``.

    Example:
        >>> import torch
        >>> causal_conv1d(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[10.0, 1.0]]))
        tensor([[[ 1., 12., 23.]]])
    """
    _check(x, 3, weight, bias, activation)
    inputs = _as_autocast(x, weight, bias)
    serve = _choose(backend, *inputs)
    if serve is causal_conv1d_by_torch:
        inputs = (x, weight, bias)
    return serve(*inputs, activation == "silu", reverse)


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
    y_t = y_t if bias is None else y_t + bias
    return F.silu(y_t) if activation == "silu" else y_t, window[..., 1:]


def cast_for_kernel(x: Tensor) -> Tensor:
    """Returns x as the compiled kernel takes it under autocast, in float32, for a caller that convolves it twice.

    To the kernel autocast means float32, as to the scan that follows: half the precision would not halve its time.
    """
    is_half = x.dtype.itemsize < 4 and x.is_cpu and torch.is_autocast_enabled("cpu")
    return x.float() if is_half and kernels_are_here() else x


def _as_autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    wide = cast_for_kernel(x)
    if wide is x:
        return x, weight, bias
    return wide, weight.float(), None if bias is None else bias.float()


def _choose(backend: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Callable[..., Tensor]:
    if backend not in BACKENDS:
        raise BackendError(
            f"unknown backend {backend!r}.", asked=backend, looked=", ".join(BACKENDS), todo=nearest(backend, BACKENDS)
        )
    if backend == "torch":
        return causal_conv1d_by_torch
    lacking = _why_not_cpu(x, weight, bias)
    if lacking and backend == "cpu":
        raise BackendError(f"backend 'cpu' does not serve {lacking}.", asked=backend, todo="backend='auto'")
    return causal_conv1d_by_torch if lacking else cpu_causal_conv1d


def _why_not_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms"
    return "an ONNX program" if is_onnx_export() else why_not_cpu(x, weight, bias)


def _check(x: Tensor, axes: int, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    fits = x.dim() == axes and weight.dim() == 2 and weight.shape[0] == x.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [None if tensor is None else list(tensor.shape) for tensor in (x, weight, bias)]
        raise ShapeError("x, weight and bias do not fit.", asked=shapes, todo="x [B, D, L], weight [D, K], bias [D]")
    if activation not in (None, "silu"):
        raise ConfigError(f"unknown activation {activation!r}.", asked=activation, looked="'silu', None")
