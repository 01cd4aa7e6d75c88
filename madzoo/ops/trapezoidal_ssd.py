"""The scan of Mamba-3: state space duality whose steps are integrated by a weighted trapezoidal rule.

B batch, L length, H heads, P headdim, N states.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from madzoo.errors import BackendError, ConfigError, ShapeError, nearest
from madzoo.ops.scan_taps import refuse_taps
from madzoo.ops.trapezoidal_ssd_torch import (
    TrapezoidalState,
    advance,
    chunked_trapezoidal_ssd,
    reference_trapezoidal_ssd,
)

__all__ = ["TrapezoidalState", "trapezoidal_ssd", "trapezoidal_ssd_step"]

# On one CPU thread, forward and backward, 64 is about as quick as 32 and quicker than 16 and 128.
CHUNK_SIZE = 64
SCANS = {
    "auto": chunked_trapezoidal_ssd,
    "torch": chunked_trapezoidal_ssd,
    "reference": reference_trapezoidal_ssd,
}


@overload
def trapezoidal_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    mix: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    initial_state: TrapezoidalState | None = None,
    return_last_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def trapezoidal_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    mix: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    initial_state: TrapezoidalState | None = None,
    return_last_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, TrapezoidalState]: ...
def trapezoidal_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    mix: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    *,
    initial_state: TrapezoidalState | None = None,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TrapezoidalState]:
    """Runs ``h_t = a_t h_{t-1} + (1 - mix_t) dt_t a_t x_{t-1} B_{t-1}^T + mix_t dt_t x_t B_t^T``, ``y_t = h_t C_t``.

    ``a_t = exp(dt_t A_t)``. A step's integral is taken from both its ends; ``mix`` is the weight of the present one: 1
    is Mamba-2's rule (see :func:`madzoo.ops.ssd`), 1/2 the trapezoidal rule. A may change with the position, and every
    head has its own B and C, which a state that turns needs (see :mod:`madzoo.ops.rotary`). Half-precision inputs are
    computed in float32; the output has the dtype of ``x``.

    Args:
        x: the sequence.
        dt: step sizes, at least 0.
        A: decays, at most 0.
        mix: weights of the present end of a step, in [0, 1].
        B, C: input and output vectors.
        chunk_size: the most steps that are treated as one matrix; None for 64. Changes rounding only.
        initial_state: the state before the first step; zero by default.
        return_last_state: also returns the state after the last step.
        backend: ``"reference"`` (plain loop), ``"torch"`` (chunked), ``"auto"`` (chunked). Both are differentiable to
            any order and serve torch.func, torch.export and torch.compile.

    Shapes:
        x [B, L, H, P]; dt, A, mix [B, L, H]; B, C [B, L, H, N]; states see :class:`TrapezoidalState`.
        returns [B, L, H, P], and the last state.

    Raises:
        ShapeError: when shapes do not fit.
        ConfigError: when chunk_size is below 1.
        BackendError: on an unknown backend.

    Cost: with chunks of Q steps 2 B L H (Q P + 2 P N + Q N) operations in matrix products, B L H Q exponentials and
    numbers of memory; the reference B L H P N of both.

    Source: arXiv 2603.15569 (Mamba-3), the trapezoidal discretisation and its parallel form.

    Example:
        >>> x, dt, B = torch.randn(1, 50, 4, 8), torch.rand(1, 50, 4), torch.randn(1, 50, 4, 16)
        >>> trapezoidal_ssd(x, dt, -torch.ones(1, 50, 4), torch.full((1, 50, 4), 0.5), B, B).shape
        torch.Size([1, 50, 4, 8])
    """
    _check(x, {"dt": dt, "A": A, "mix": mix, "B": B, "C": C}, initial_state, "[B, L, H, P]")
    refuse_taps("trapezoidal_ssd")
    if backend not in SCANS:
        looked, todo = ", ".join(SCANS), nearest(backend, SCANS)
        raise BackendError(f"unknown backend {backend!r}.", asked=backend, looked=looked, todo=todo)
    chunk_size = CHUNK_SIZE if chunk_size is None else chunk_size
    if chunk_size < 1:
        raise ConfigError("chunk_size is at least 1.", asked=chunk_size)
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(device_type=x.device.type, enabled=False):
        wide = [tensor.to(dtype) for tensor in (x, dt, A, mix, B, C)]
        start = _zeros(wide[0], wide[4]) if initial_state is None else _widen(initial_state, dtype)
        y, state = SCANS[backend](*wide, state=start, chunk_size=chunk_size)
    return (y.to(x.dtype), state) if return_last_state else y.to(x.dtype)


def trapezoidal_ssd_step(
    x_t: Tensor, dt_t: Tensor, A_t: Tensor, mix_t: Tensor, B_t: Tensor, C_t: Tensor, state: TrapezoidalState
) -> tuple[Tensor, TrapezoidalState]:
    """Computes one position of :func:`trapezoidal_ssd` from the state before it.

    Shapes:
        x_t [B, H, P]; dt_t, A_t, mix_t [B, H]; B_t, C_t [B, H, N] -> y_t [B, H, P], the next state.

    Raises:
        ShapeError: when shapes do not fit.

    Cost: B H P N, whatever came before.

    Source: arXiv 2603.15569 (Mamba-3).
    """
    _check(x_t, {"dt": dt_t, "A": A_t, "mix": mix_t, "B": B_t, "C": C_t}, state, "[B, H, P]")
    dtype = torch.promote_types(x_t.dtype, torch.float32)
    with torch.autocast(device_type=x_t.device.type, enabled=False):
        y, state = advance(_widen(state, dtype), *(tensor.to(dtype) for tensor in (x_t, dt_t, A_t, mix_t, B_t, C_t)))
    return y.to(x_t.dtype), state


def _zeros(x: Tensor, B: Tensor) -> TrapezoidalState:
    batch, _, heads, width = x.shape
    states = B.shape[-1]
    return TrapezoidalState(
        x.new_zeros(batch, heads, width, states), x.new_zeros(batch, heads, width), x.new_zeros(batch, heads, states)
    )


def _widen(state: TrapezoidalState, dtype: torch.dtype) -> TrapezoidalState:
    return TrapezoidalState(*(tensor.to(dtype) for tensor in state))


def _check(x: Tensor, given: dict[str, Tensor], state: TrapezoidalState | None, layout: str) -> None:
    if x.dim() != layout.count(",") + 1 or not x.is_floating_point():
        raise ShapeError(
            f"trapezoidal_ssd: x must be a floating tensor {layout}.", asked=f"x {x.dtype} {list(x.shape)}"
        )
    *lead, heads, width = x.shape
    if 0 in lead[1:]:
        raise ShapeError("trapezoidal_ssd: the sequence is empty.", asked=f"x {list(x.shape)}")
    states = given["B"].shape[-1] if given["B"].dim() else 0
    scalar, vector = (*lead, heads), (*lead, heads, states)
    fitting = {"dt": scalar, "A": scalar, "mix": scalar, "B": vector, "C": vector}
    if state is not None:
        given = given | {f"state.{name}": tensor for name, tensor in state._asdict().items()}
        fitting |= {"state.ssm": (lead[0], heads, width, states), "state.x": (lead[0], heads, width)}
        fitting |= {"state.B": (lead[0], heads, states)}
    for name, tensor in given.items():
        if tuple(tensor.shape) != fitting[name]:
            todo = str(list(fitting[name]))
            raise ShapeError(f"trapezoidal_ssd: {name} does not fit x and B.", asked=list(tensor.shape), todo=todo)
