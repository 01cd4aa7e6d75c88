"""The linear recurrence ``h_t = a_t h_{t-1} + b_t``: a loop as reference, a recursive pairwise scan as fast path.

The pairwise scan works in place; the same scan out of place serves function transforms and compilers.
"""

import torch
from torch import Tensor

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.scan_in_place import in_place_scan
from madzoo.ops.scan_taps import ScanTaps, current_taps

__all__ = ["linear_scan"]


def linear_scan(
    a: Tensor, b: Tensor, *, initial: Tensor | None = None, reverse: bool = False, backend: str = "auto"
) -> Tensor:
    """Computes ``h_t = a_t h_{t-1} + b_t`` along the last axis, real or complex.

    Args:
        a: factors.
        b: additions.
        initial: the state before the first step; zero by default.
        reverse: runs from the last position to the first.
        backend: ``"reference"`` (loop), ``"torch"`` (pairwise), ``"auto"`` (pairwise).

    Shapes:
        a, b: [..., L], broadcast against each other. initial: [...]. returns [..., L].

    Raises:
        ShapeError: when a and b do not broadcast, or L is 0.
        BackendError: on an unknown backend.

    Cost: L steps of the loop; about 3 L multiplications in 2 log2(L) steps for the pairwise form, and two tensors
    beside the inputs.

    Source: Blelloch 1990, section 1.4.1; used so by S5, arXiv 2208.04933, appendix A.

    Example:
        >>> linear_scan(torch.tensor([2.0, 2.0, 2.0]), torch.ones(3)).tolist()
        [1.0, 3.0, 7.0]
    """
    if backend not in ("auto", "reference", "torch"):
        raise BackendError(f"unknown backend {backend!r}.", asked=backend, looked="auto, reference, torch")
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError as error:
        raise ShapeError("linear_scan: a and b do not fit.", asked=f"{list(a.shape)} and {list(b.shape)}") from error
    if a.dim() == 0 or a.shape[-1] == 0:
        raise ShapeError("linear_scan: the sequence is empty.", asked=f"{list(a.shape)}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype)
    taps = current_taps()
    if taps is not None:
        (b,) = taps.start(b=b)
        if taps.need_loop:
            return _tapped_loop(a, b, initial, taps, reverse=reverse)
    if initial is not None:
        b = _begin(a, b, initial.unsqueeze(-1), reverse=reverse)
    if backend != "reference" and not _is_traced():
        return in_place_scan(a, b, reverse=reverse)
    scan = _loop if backend == "reference" else _pairwise
    return scan(a.flip(-1), b.flip(-1)).flip(-1) if reverse else scan(a, b)


def _begin(a: Tensor, b: Tensor, initial: Tensor, *, reverse: bool) -> Tensor:
    if reverse:
        return torch.cat([b[..., :-1], b[..., -1:] + a[..., -1:] * initial], dim=-1)
    return torch.cat([b[..., :1] + a[..., :1] * initial, b[..., 1:]], dim=-1)


def _is_traced() -> bool:
    # Neither can look into an autograd.Function that writes in place.
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _loop(a: Tensor, b: Tensor) -> Tensor:
    states = [b[..., 0]]
    for t in range(1, b.shape[-1]):
        states.append(a[..., t] * states[-1] + b[..., t])
    return torch.stack(states, dim=-1)


def _tapped_loop(a: Tensor, b: Tensor, initial: Tensor | None, taps: ScanTaps, *, reverse: bool) -> Tensor:
    h = torch.zeros_like(b[..., 0]) if initial is None else initial
    states = [h] * b.shape[-1]
    for t in reversed(range(b.shape[-1])) if reverse else range(b.shape[-1]):
        h = taps.after_step(taps.before_step(a[..., t]) * h + b[..., t])
        states[t] = h
    return torch.stack(states, dim=-1)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    length = b.shape[-1]
    if length == 1:
        return b
    a0, a1, b0, b1 = a[..., : length - 1 : 2], a[..., 1::2], b[..., : length - 1 : 2], b[..., 1::2]
    odd = _pairwise(a1 * a0, a1 * b0 + b1)
    inner = a[..., 2::2] * odd[..., : (length - 1) // 2] + b[..., 2::2]
    even = torch.cat([b[..., :1], inner], dim=-1)
    h = torch.stack([even[..., : odd.shape[-1]], odd], dim=-1).flatten(-2)
    return h if length % 2 == 0 else torch.cat([h, even[..., -1:]], dim=-1)
