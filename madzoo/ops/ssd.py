"""State space duality, the scan of Mamba-2: one signature, one dispatcher, a reference, a chunked form, and one step.

B batch, L length, H heads, P headdim, G groups, N states.
"""

from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.errors import BackendError, ConfigError, ShapeError, nearest
from madzoo.ops.scan_taps import current_taps
from madzoo.ops.ssd_chunked import chunked_ssd
from madzoo.ops.ssd_reference import advance, reference_ssd, tapped_ssd

__all__ = ["ssd", "ssd_step"]

# On one CPU thread 32 is quicker than 64 and 128, and with a backward also than 16 (scripts/bench_ops.py).
CHUNK_SIZE = 32
ANY_STEP = (0.0, float("inf"))
SCANS = {"auto": chunked_ssd, "torch": chunked_ssd, "reference": reference_ssd}


@overload
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = ANY_STEP,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = ANY_STEP,
    initial_state: Tensor | None = None,
    return_last_state: Literal[True],
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = ANY_STEP,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T``, ``y_t = h_t C_t + D x_t``, one scalar A per head.

    With ``z`` the output is gated, ``y_t * silu(z_t)``. It is the selective scan in which the P channels of a head
    share step size and A, which turns the work inside a chunk into matrix products. Half-precision inputs are computed
    in float32; the output has the dtype of ``x``.

    Args:
        x: the sequence.
        dt: step sizes, before ``dt_bias``, softplus and ``dt_limit``.
        A: continuous-time decay of each head, below 0.
        B, C: input and output vectors, shared by the H/G heads of a group.
        chunk_size: the most steps that are treated as one matrix; None for 32. Changes rounding only.
        D: skip weights, per head or per channel.
        z: gate.
        dt_bias: added to ``dt``.
        dt_softplus: applies softplus to the step sizes.
        dt_limit: clamps the step sizes, last.
        initial_state: the state before the first step; zero by default.
        return_last_state: also returns the state after the last step.
        reverse: scans from the last position to the first.
        backend: ``"reference"`` (plain loop), ``"torch"`` (chunked), ``"auto"`` (chunked). Both are differentiable to
            any order and serve torch.func, torch.export and torch.compile.

    Shapes:
        x, z [B, L, H, P]; dt [B, L, H]; A, dt_bias [H]; B, C [B, L, G, N]; D [H] or [H, P]; states [B, H, P, N].
        returns [B, L, H, P], and [B, H, P, N] for the last state.

    Raises:
        ShapeError: when shapes do not fit.
        ConfigError: when chunk_size is below 1.
        BackendError: on an unknown backend.

    Cost: with chunks of Q steps 2 B L (H Q P + 2 H P N + G Q N) operations in matrix products, B L H Q exponentials
    and numbers of memory; the reference B L H P N of both.

    Source: arXiv 2405.21060, section 6; names and shapes of mamba_ssm's ``mamba_chunk_scan_combined``.

    Example:
        >>> x, dt, B = torch.randn(1, 50, 4, 8), torch.rand(1, 50, 4), torch.randn(1, 50, 2, 16)
        >>> ssd(x, dt, -torch.ones(4), B, B).shape
        torch.Size([1, 50, 4, 8])
    """
    _check(x, {"dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias, "state": initial_state}, "L")
    if backend not in SCANS:
        looked, todo = ", ".join(SCANS), nearest(backend, SCANS)
        raise BackendError(f"unknown backend {backend!r}.", asked=backend, looked=looked, todo=todo)
    chunk_size = CHUNK_SIZE if chunk_size is None else chunk_size
    if chunk_size < 1:
        raise ConfigError("chunk_size is at least 1.", asked=chunk_size)
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(device_type=x.device.type, enabled=False):
        start = _zeros(x, B, dtype) if initial_state is None else initial_state.to(dtype)
        wide = (x.to(dtype), _steps(dt.to(dtype), dt_bias, dt_softplus, dt_limit), *(t.to(dtype) for t in (A, B, C)))
        scan, taps = SCANS[backend], current_taps()
        if taps is not None:
            wide, scan = tapped_ssd(scan, taps, *wide)
        y, state = scan(*wide, state=start, reverse=reverse, chunk_size=chunk_size)
        y = _finish(y, wide[0], D, z).to(x.dtype)
    return (y, state) if return_last_state else y


def ssd_step(
    x_t: Tensor,
    dt_t: Tensor,
    A: Tensor,
    B_t: Tensor,
    C_t: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    z_t: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = ANY_STEP,
) -> tuple[Tensor, Tensor]:
    """Computes one position of :func:`ssd` from the state before it.

    Args: see :func:`ssd`; ``state`` starts as zeros in the dtype of the computation, float32 at least.

    Shapes:
        x_t, z_t [B, H, P]; dt_t [B, H]; B_t, C_t [B, G, N]; state [B, H, P, N] -> y_t [B, H, P], the next state.

    Raises:
        ShapeError: when shapes do not fit.

    Cost: B H P N, whatever came before.

    Source: arXiv 2405.21060, equation 1.
    """
    _check(x_t, {"dt": dt_t, "A": A, "B": B_t, "C": C_t, "D": D, "z": z_t, "dt_bias": dt_bias, "state": state}, "")
    dtype = torch.promote_types(x_t.dtype, torch.float32)
    with torch.autocast(device_type=x_t.device.type, enabled=False):
        step = _steps(dt_t.to(dtype), dt_bias, dt_softplus, dt_limit)
        y, state = advance(state.to(dtype), x_t.to(dtype), step, A.to(dtype), B_t.to(dtype), C_t.to(dtype))
        return _finish(y, x_t.to(dtype), D, z_t).to(x_t.dtype), state


def _zeros(x: Tensor, B: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1], dtype=dtype)


def _steps(dt: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float]) -> Tensor:
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    dt = F.softplus(dt) if softplus else dt
    return dt if limit == ANY_STEP else dt.clamp(*limit)


def _finish(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    if D is not None:
        y = y + x * (D.unsqueeze(-1) if D.dim() == 1 else D).to(y.dtype)
    return y if z is None else y * F.silu(z.to(y.dtype))


def _check(x: Tensor, given: dict[str, Tensor | None], positions: Literal["L", ""]) -> None:
    layout = "[B, L, H, P]" if positions else "[B, H, P]"
    if x.dim() != layout.count(",") + 1 or not x.is_floating_point():
        raise ShapeError(f"ssd: x must be a floating tensor {layout}.", asked=f"x {x.dtype} {list(x.shape)}")
    *lead, heads, width = x.shape
    if 0 in lead[1:]:
        raise ShapeError("ssd: the sequence is empty.", asked=f"x {list(x.shape)}")
    B = given["B"]
    if B is None or B.dim() != x.dim() or 0 in B.shape[-2:] or heads % B.shape[-2]:
        todo = f"{[*lead, 'G', 'N']} with G a divisor of {heads}"
        raise ShapeError("ssd: B does not fit x.", asked=None if B is None else list(B.shape), todo=todo)
    groups, states = B.shape[-2:]
    fitting = {
        "dt": [(*lead, heads)],
        "A": [(heads,)],
        "B": [(*lead, groups, states)],
        "C": [(*lead, groups, states)],
        "D": [(heads,), (heads, width)],
        "z": [tuple(x.shape)],
        "dt_bias": [(heads,)],
        "state": [(lead[0], heads, width, states)],
    }
    for name, tensor in given.items():
        if tensor is not None and tuple(tensor.shape) not in fitting[name]:
            todo = " or ".join(str(list(shape)) for shape in fitting[name])
            raise ShapeError(f"ssd: {name} does not fit x and B.", asked=list(tensor.shape), todo=todo)
