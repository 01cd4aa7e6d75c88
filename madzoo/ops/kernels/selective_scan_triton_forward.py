# ruff: noqa: ANN001, ANN201 - the arguments are pointers, numbers and tiles: Triton has no Python types for them
# ruff: noqa: RUF005 - tuples grow by addition in Triton
# pyright: reportOptionalMemberAccess=false, reportInvalidTypeForm=false, reportOperatorIssue=false
"""The forward Triton kernel of the selective scan: one program walks one block of channels of one sequence.

The state [BLOCK_D, BLOCK_N] stays in registers. Time is walked in chunks of CHUNK steps: a chunk's loads are issued
together, so that a program waits for memory once per chunk and not once per step. For a backward pass the state
before every chunk is kept.

Time runs along strides that may be negative: the reverse direction costs nothing here. Columns of the state
beyond ``states``, channels beyond the group and steps beyond ``length`` are masked: with A = B = C = u = 0 a column
stays zero, with dt = 0 a step changes nothing.
"""

from __future__ import annotations

from madzoo.ops.kernels.triton_functions import fetch, jit, sigmoid, step_sizes, tl

__all__ = ["forward_kernel"]


@jit
def forward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,  # None when absent, like z, bias and kept
    z,
    bias,
    y,
    last,  # [batch, channels, states]
    kept,  # [batch, chunks, channels, states]: the state before every chunk
    channels,
    length,
    states,
    blocks,  # programs of one sequence; blocks_per_group of them share one row of B and C
    blocks_per_group,
    group_channels,
    B_channels,  # channels that share a group of B; of C
    C_channels,
    u_strides,  # batch, channel
    delta_strides,
    z_strides,
    y_strides,
    A_strides,  # channel, state
    B_strides,  # batch, group, state
    C_strides,
    u_step: tl.constexpr,  # from one position to the next: constant, so that the steps of a chunk share an address
    delta_step: tl.constexpr,
    z_step: tl.constexpr,
    y_step: tl.constexpr,
    B_step: tl.constexpr,
    C_step: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    TERMS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Scans one block of channels of one sequence from the first step to the last."""
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    within = (block % blocks_per_group) * BLOCK_D  # of the group
    d0 = (block // blocks_per_group).to(tl.int64) * group_channels + within
    d = tl.arange(0, BLOCK_D)[:, None]  # from d0 on
    on_d = within + d < group_channels
    n = tl.arange(0, BLOCK_N)[None, :]
    on_n = n < states
    on_tile = on_d & on_n
    tile = d * states + n
    zero = tl.zeros([1, 1], tl.int32)  # makes masks of time tiles like the others

    A += d0 * A_strides[0]
    rate = fetch(A + (d * A_strides[0] + n * A_strides[1]), on_tile, ACC) * 1.4426950408889634
    skip = tl.zeros([BLOCK_D, 1], ACC)
    if D is not None:
        skip = fetch(D + d0 + d, on_d, ACC)
    shift = tl.zeros([BLOCK_D, 1], ACC)
    if bias is not None:
        shift = fetch(bias + d0 + d, on_d, ACC)
    u += batch * u_strides[0] + d0 * u_strides[1]
    delta += batch * delta_strides[0] + d0 * delta_strides[1]
    y += batch * y_strides[0] + d0 * y_strides[1]
    if z is not None:
        z += batch * z_strides[0] + d0 * z_strides[1]
    B += batch * B_strides[0] + (d0 // B_channels) * B_strides[1]
    C += batch * C_strides[0] + (d0 // C_channels) * C_strides[1]
    last += (batch * channels + d0) * states
    if kept is not None:
        kept += (batch * tl.cdiv(length, CHUNK) * channels + d0) * states

    state = tl.zeros([BLOCK_D, BLOCK_N], ACC)
    for start in range(0, length, CHUNK):
        now = zero + start
        if kept is not None:
            tl.store(kept + tile, state, mask=on_tile)
            kept += channels * states
        us = ()
        dts = ()
        zs = ()
        Bs = ()
        Cs = ()
        for i in tl.static_range(CHUNK):
            on = now + i < length
            us = us + (fetch(u + d * u_strides[1] + i * u_step, on_d & on, ACC),)
            dt, _ = step_sizes(delta + d * delta_strides[1] + i * delta_step, on_d & on, shift, SOFTPLUS, TERMS)
            dts = dts + (dt,)
            Bs = Bs + (fetch(B + n * B_strides[2] + i * B_step, on_n & on, ACC),)
            Cs = Cs + (fetch(C + n * C_strides[2] + i * C_step, on_n & on, ACC),)
            if z is not None:
                zs = zs + (fetch(z + d * z_strides[1] + i * z_step, on_d & on, ACC),)
        for i in tl.static_range(CHUNK):
            state = tl.exp2(dts[i] * rate) * state + (dts[i] * us[i]) * Bs[i]
            out = tl.sum(state * Cs[i], axis=1, keep_dims=True) + skip * us[i]
            if z is not None:
                out = out * zs[i] * sigmoid(zs[i])
            tl.store(y + d * y_strides[1] + i * y_step, out, mask=on_d & (now + i < length))
        u += CHUNK * u_step
        delta += CHUNK * delta_step
        y += CHUNK * y_step
        B += CHUNK * B_step
        C += CHUNK * C_step
        if z is not None:
            z += CHUNK * z_step
    tl.store(last + tile, state, mask=on_tile)
