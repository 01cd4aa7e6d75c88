"""The scan of a constant diagonal system, by the quickest of three ways.

B batch, H channels, L length, N conjugate pairs, ``...`` any batch axes.
"""

import math
from functools import partial

import torch
from torch import Tensor

from madzoo.errors import BackendError, ShapeError, nearest
from madzoo.ops.diagonal_scan_torch import (
    diagonal_scan_by_convolution,
    diagonal_scan_by_reference,
    tapped_diagonal_scan,
)
from madzoo.ops.kernels.diagonal_scan_cpu import TILE, cpu_diagonal_scan, why_not_cpu
from madzoo.ops.long_conv import TOEPLITZ_MAX_LENGTH
from madzoo.ops.onnx_export import is_onnx_export
from madzoo.ops.scan_taps import current_taps

__all__ = ["diagonal_scan"]

SERVE = {
    "reference": diagonal_scan_by_reference,
    "toeplitz": partial(diagonal_scan_by_convolution, method="toeplitz"),
    "fft": partial(diagonal_scan_by_convolution, method="fft"),
    "cpu": cpu_diagonal_scan,
}
BACKENDS = ("auto", *SERVE)


def diagonal_scan(
    u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None = None, *, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """Runs ``h_t = z h_{t-1} + u_t``, ``y_t = 2 Re(sum_n v_n h_{n,t}) + D u_t`` of every channel, z = exp(log_z).

    The same as ``long_conv(u, vandermonde(v, log_z, L)) + D u``: a system whose coefficients do not change is also a
    convolution. A half-precision u is computed in float32; the result has the dtype of u.

    Args:
        u: the sequences.
        v: residues, complex; one of each conjugate pair. With B and C of a state space model, ``v = C B_bar``.
        log_z: logarithms of the poles, complex, real parts at most 0.
        D: skip weights.
        reverse: scan from the last position to the first.
        backend: ``"cpu"`` (the recurrence in the compiled kernel), ``"toeplitz"`` and ``"fft"`` (the convolution, see
            :func:`madzoo.ops.long_conv`), ``"reference"`` (a plain loop), or ``"auto"``: the quickest that serves.

    Shapes:
        u [..., H, L]; v, log_z [H, N]; D [H] -> [..., H, L].

    Raises:
        ShapeError: when the shapes do not fit, or v and log_z are not complex, or u is.
        BackendError: when the backend is unknown or does not serve these inputs.

    Cost: "cpu" O(B H L N), "toeplitz" O(B H L^2 + H L N), "fft" O(B H L log L + H L N).

    Source: arXiv 2206.11893 (S4D), section 2; the recurrence and the convolution are equations 1 and 2.

    Example:
        >>> import torch
        >>> v, log_z = torch.tensor([[0.5 + 0j]]), torch.log(torch.tensor([[0.5 + 0j]]))
        >>> diagonal_scan(torch.tensor([[1.0, 0.0, 2.0]]), v, log_z)
        tensor([[1.0000, 0.5000, 2.2500]])
    """
    _check(u, v, log_z, D)
    real = torch.float64 if torch.float64 in (u.dtype, v.real.dtype, log_z.real.dtype) else torch.float32
    whole = torch.complex128 if real == torch.float64 else torch.complex64
    v, log_z = v.to(whole), log_z.to(whole)
    D = None if D is None else D.to(real)
    serve, taps = SERVE[_choose(backend, u, v, log_z, D)], current_taps()
    serve = serve if taps is None else partial(tapped_diagonal_scan, serve, taps)
    y_BHL = serve(u.reshape(math.prod(u.shape[:-2]), *u.shape[-2:]).to(real), v, log_z, D, reverse)
    return y_BHL.reshape(u.shape).to(u.dtype)


def _choose(backend: str, u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None) -> str:
    if backend not in BACKENDS:
        raise BackendError(
            f"unknown backend {backend!r}.", asked=backend, looked=", ".join(BACKENDS), todo=nearest(backend, BACKENDS)
        )
    if backend not in ("auto", "cpu"):
        return backend
    lacking = _why_not_cpu(u, v, log_z, D)
    if lacking and backend == "cpu":
        raise BackendError(f"backend 'cpu' does not serve {lacking}.", asked=backend, todo="backend='auto'")
    if backend == "cpu":
        return backend
    gradients = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (u, v, log_z, D))
    return quickest(*u.shape[-2:], gradients=gradients, kernels=not lacking)


def quickest(channels: int, length: int, *, gradients: bool, kernels: bool) -> str:
    """Returns the way that takes the least time on the CPU, as scripts/bench_ops.py measures it.

    The recurrence wins at every length measured, 16 to 16384, and up to 128 pairs, as long as the channels fill the 16
    lanes of its vectors: half of them for a forward, three quarters with a backward. Else it is long_conv's own choice.
    """
    lanes = -(-channels // TILE) * TILE
    if kernels and channels >= (0.75 if gradients else 0.5) * lanes:
        return "cpu"
    return "toeplitz" if length <= TOEPLITZ_MAX_LENGTH else "fft"


def _why_not_cpu(u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None) -> str | None:
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms"
    return "an ONNX program" if is_onnx_export() else why_not_cpu(u, v, log_z, D)


def _check(u: Tensor, v: Tensor, log_z: Tensor, D: Tensor | None) -> None:
    tensors = (u, v, log_z, D)
    asked = [None if x is None else (list(x.shape), x.dtype) for x in tensors]
    fits = u.dim() >= 2 and v.dim() == 2 and v.shape == log_z.shape and v.shape[0] == u.shape[-2]
    if not fits or (D is not None and D.shape != v.shape[:1]):
        raise ShapeError("u, v, log_z and D do not fit.", asked=asked, todo="u [..., H, L], v and log_z [H, N], D [H]")
    if not (v.is_complex() and log_z.is_complex() and u.is_floating_point()):
        raise ShapeError("u is real, v and log_z are complex.", asked=asked)
