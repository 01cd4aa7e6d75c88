"""The delta rule, the scan of DeltaNet: one signature, one dispatcher, a reference, a chunked form, and one step.

B batch, L length, H heads, N width of a key, P width of a value.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from madzoo.errors import BackendError, ConfigError, ShapeError, nearest
from madzoo.ops.delta_rule_torch import advance, chunked_delta_rule, reference_delta_rule
from madzoo.ops.scan_taps import refuse_taps

__all__ = ["delta_rule", "delta_rule_step"]

# On one CPU thread 16 and 32 are about equally quick, 8 and 64 slower; of the two, 32 makes the shorter loop.
CHUNK_SIZE = 32
SCANS = {"auto": chunked_delta_rule, "chunked": chunked_delta_rule, "reference": reference_delta_rule}


@overload
def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_last_state: Literal[False] = False,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> Tensor: ...
@overload
def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_last_state: Literal[True],
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Writes values under keys into a matrix, correcting what it said of the key before, and reads it by queries.

    ``S_t = S_{t-1} + beta_t (v_t - S_{t-1} k_t) k_t^T`` and ``o_t = S_t q_t``. Nothing is normalised here. While
    ``beta_t |k_t|^2`` lies between 0 and 2, a step makes nothing larger that was written before; with keys of length 1
    and beta = 1 it replaces the value of its key.

    Args:
        q: queries.
        k: keys.
        v: values.
        beta: which share of the error is corrected.
        initial_state: the state before the first position; zero by default.
        return_last_state: also return the state after the last position, in float32 at least.
        chunk_size: the most positions that the chunked form treats as one matrix; changes rounding and time only. None
            for what is quick on a CPU.
        backend: ``"reference"`` (one position after another), ``"chunked"`` (matrix products), ``"auto"`` (chunked).

    Shapes:
        q, k [B, L, H, N]; v [B, L, H, P]; beta [B, L, H]; initial_state [B, H, P, N] -> o [B, L, H, P] in the dtype of
        v, and the last state.

    Raises:
        ShapeError: when shapes do not fit, a tensor is not floating, or the sequence is empty.
        ConfigError: when chunk_size is below 1.
        BackendError: on an unknown backend.

    Cost: O(B L H N P), in L steps or, chunked, O(B L H (N + P) (C + N)) in L / C steps of C positions; no state but the
    present one is kept outside the backward.

    Source: arXiv 2406.06484, section 2.2 (the recurrence) and 3.2 (the chunks; there the UT transform).

    Example:
        >>> k = torch.nn.functional.normalize(torch.randn(2, 63, 4, 8), dim=-1)
        >>> delta_rule(k, k, torch.randn(2, 63, 4, 5), torch.rand(2, 63, 4)).shape
        torch.Size([2, 63, 4, 5])
    """
    _check(q, k, v, beta, initial_state, "[B, L, H, P]")
    refuse_taps("delta_rule")
    if backend not in SCANS:
        looked, todo = ", ".join(SCANS), nearest(backend, SCANS)
        raise BackendError(f"unknown backend {backend!r}.", asked=backend, looked=looked, todo=todo)
    chunk_size = CHUNK_SIZE if chunk_size is None else chunk_size
    if chunk_size < 1:
        raise ConfigError("chunk_size is at least 1.", asked=chunk_size)
    dtype = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(device_type=v.device.type, enabled=False):
        start = _zeros(k, v, dtype) if initial_state is None else initial_state.to(dtype)
        wide = (tensor.to(dtype) for tensor in (q, k, v, beta))
        o, state = SCANS[backend](*wide, state=start, chunk_size=chunk_size)
    o = o.to(v.dtype)
    return (o, state) if return_last_state else o


def delta_rule_step(q_t: Tensor, k_t: Tensor, v_t: Tensor, beta_t: Tensor, *, state: Tensor) -> tuple[Tensor, Tensor]:
    """Computes one position of :func:`delta_rule` from the state before it.

    Args: see :func:`delta_rule`; ``state`` starts as zeros in the dtype of the computation, float32 at least.

    Shapes:
        q_t, k_t [B, H, N]; v_t [B, H, P]; beta_t [B, H]; state [B, H, P, N] -> o_t [B, H, P], the next state.

    Raises:
        ShapeError: when shapes do not fit, or a tensor is not floating.

    Cost: B H N P, whatever came before.

    Source: arXiv 2406.06484, section 2.2.

    Example:
        >>> key, value = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[3.0]]])
        >>> delta_rule_step(key, key, value, torch.ones(1, 1), state=torch.tensor([[[[5.0, 7.0]]]]))
        (tensor([[[3.]]]), tensor([[[[5., 3.]]]]))
    """
    _check(q_t, k_t, v_t, beta_t, state, "[B, H, P]")
    dtype = torch.promote_types(v_t.dtype, torch.float32)
    with torch.autocast(device_type=v_t.device.type, enabled=False):
        now = (tensor.to(dtype) for tensor in (q_t, k_t, v_t, beta_t))
        o_t, state = advance(*now, state=state.to(dtype))
    return o_t.to(v_t.dtype), state


def _zeros(k: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    return v.new_zeros(v.shape[0], *v.shape[2:], k.shape[-1], dtype=dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None, layout: str) -> None:
    named = {"q": q, "k": k, "v": v, "beta": beta, "state": state}
    given = {name: tensor for name, tensor in named.items() if tensor is not None}
    if strange := [f"{name} {tensor.dtype}" for name, tensor in given.items() if not tensor.is_floating_point()]:
        raise ShapeError("delta_rule takes floating tensors.", asked=", ".join(strange))
    if v.dim() != layout.count(",") + 1 or k.dim() != v.dim() or 0 in (*v.shape[1:], k.shape[-1]):
        raise ShapeError(f"delta_rule: v must be {layout}, without an empty axis.", asked=f"v {list(v.shape)}")
    *lead, heads, width = v.shape
    keys = [*lead, heads, k.shape[-1]]
    fitting = {"q": keys, "k": keys, "v": list(v.shape), "beta": [*lead, heads]}
    fitting["state"] = [lead[0], heads, width, k.shape[-1]]
    for name, tensor in given.items():
        if list(tensor.shape) != fitting[name]:
            raise ShapeError(
                f"delta_rule: {name} does not fit v and k.", asked=list(tensor.shape), todo=str(fitting[name])
            )
