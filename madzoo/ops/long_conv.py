"""Long convolution: one kernel as long as the sequence for every channel, by FFT or as one small matrix product.

Axes: H channels, L sequence length, K kernel length, ``...`` any batch axes.
"""

import torch
from torch import Tensor

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.scan_taps import refuse_taps

__all__ = ["long_conv"]

METHODS = ("auto", "fft", "toeplitz", "reference")

# On one CPU thread the matrix takes less than half of the FFT's time up to here, forward and backward; further on they
# meet, where exactly depends on H and the batch (scripts/bench_ops.py).
TOEPLITZ_MAX_LENGTH = 128


def long_conv(u: Tensor, k: Tensor, *, reverse: bool = False, method: str = "auto") -> Tensor:
    """Convolves every channel with its own causal kernel: ``y[..., h, t] = sum_s k[h, s] u[..., h, t - s]``.

    Shapes:
        u: ``[..., H, L]``; k: ``[H, K]`` with ``K <= L``; returns ``[..., H, L]`` in the dtype of ``u``.

    Args:
        u: the sequences; what lies before the first step counts as zero.
        k: one kernel per channel, lag 0 first.
        reverse: anti-causal, ``y[t] = sum_s k[s] u[t + s]``.
        method: ``"fft"`` (zero-padded to ``2 L``, nothing wraps around), ``"toeplitz"`` (a matrix ``[H, L, L]``),
            ``"reference"`` (the direct sum, for tests), or ``"auto"``: the matrix up to L = 128, FFT above.

    Both fast methods are differentiable in ``u`` and ``k``; halves are computed in float32.

    Raises:
        ShapeError: when the channels disagree, or the kernel is longer than the sequence, or a tensor is complex.
        BackendError: on an unknown method.

    Cost: FFT O(B H L log L); matrix O(B H L^2) operations and H L^2 numbers, but at the speed of matrix products.

    Source: arXiv:2111.00396, section 2.4 (the convolutional view of a linear state space model).

    Example:
        >>> long_conv(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.5]]))
        tensor([[1.0000, 0.5000, 2.0000]])
    """
    _check(u, k, method)
    refuse_taps("long_conv")
    dtype = torch.promote_types(torch.promote_types(u.dtype, k.dtype), torch.float32)
    if method == "auto":
        method = "toeplitz" if u.shape[-1] <= TOEPLITZ_MAX_LENGTH else "fft"
    convolve = {"fft": _by_fft, "toeplitz": _by_matrix, "reference": _by_sum}[method]
    return convolve(u.to(dtype), k.to(dtype), reverse).to(u.dtype)


def _check(u: Tensor, k: Tensor, method: str) -> None:
    if method not in METHODS:
        raise BackendError(f"long_conv has no method {method!r}.", asked=method, looked=", ".join(METHODS))
    asked = f"u {tuple(u.shape)} {u.dtype}, k {tuple(k.shape)} {k.dtype}"
    if k.ndim != 2 or u.ndim < 2 or u.shape[-2] != k.shape[0] or k.shape[1] > u.shape[-1]:
        raise ShapeError("long_conv takes u [..., H, L] and k [H, K] with K <= L.", asked=asked)
    if not (u.is_floating_point() and k.is_floating_point()):
        raise ShapeError("long_conv takes real floating-point tensors.", asked=asked)


def _by_fft(u: Tensor, k: Tensor, reverse: bool) -> Tensor:
    if u.numel() == 0:  # rfft refuses an empty batch
        return _by_matrix(u, k, reverse)
    length = u.shape[-1]
    k_f = torch.fft.rfft(k, n=2 * length)
    u_f = torch.fft.rfft(u, n=2 * length)
    return torch.fft.irfft(u_f * (k_f.conj() if reverse else k_f), n=2 * length)[..., :length]


def _by_matrix(u: Tensor, k: Tensor, reverse: bool) -> Tensor:
    # The Hankel matrix W[i, j] = k[i + j - L + 1] is a strided view and serves both directions, since
    # y = W flip(u) is the causal and flip(y) = W u the anti-causal convolution.
    length = u.shape[-1]
    padded = torch.nn.functional.pad(k, (length - 1, length - k.shape[1]))
    hankel_HLL = padded.unfold(-1, length, 1)
    flat_HLB = (u if reverse else u.flip(-1)).reshape(-1, *u.shape[-2:]).permute(1, 2, 0)
    y = torch.bmm(hankel_HLL, flat_HLB).permute(2, 0, 1).reshape(u.shape)
    return y.flip(-1) if reverse else y


def _by_sum(u: Tensor, k: Tensor, reverse: bool) -> Tensor:
    length = u.shape[-1]
    u = u.flip(-1) if reverse else u
    terms = [torch.nn.functional.pad(u, (s, 0))[..., :length] * k[:, s, None] for s in range(k.shape[1])]
    y = torch.stack(terms).sum(0) if terms else torch.zeros_like(u)
    return y.flip(-1) if reverse else y
