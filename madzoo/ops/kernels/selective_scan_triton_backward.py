# ruff: noqa: ANN001, ANN201 - the arguments are pointers, numbers and tiles: Triton has no Python types for them
# ruff: noqa: RUF005 - tuples grow by addition in Triton
# pyright: reportOptionalMemberAccess=false, reportInvalidTypeForm=false, reportOperatorIssue=false
"""The backward Triton kernel of the selective scan: the forward kernel's program, walking back.

It reads the state kept before every chunk, recomputes the chunk's states into registers, and walks the chunk from its
end. Sums over time (for A, D and the bias) stay in registers; sums over channels (for B and C) are written per block
and added up by the caller, so that two runs give the same bits.
"""

from __future__ import annotations

from madzoo.ops.kernels.triton_functions import fetch, jit, sigmoid, step_sizes, tl

__all__ = ["backward_kernel"]


@jit
def backward_kernel(
    grad_y,
    grad_last,  # None when the last state was not used, like D, z, bias, grad_z
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    bias,
    kept,
    grad_u,
    grad_delta,
    grad_z,
    grad_A,  # [batch, channels, states], summed over the batch by the caller; grad_D and grad_bias [batch, channels]
    grad_B,  # [batch, blocks, length, states], summed over the blocks of a group by the caller; grad_C alike
    grad_C,
    grad_D,
    grad_bias,
    channels,
    length,
    states,
    blocks,
    blocks_per_group,
    group_channels,
    B_channels,
    C_channels,
    grad_y_strides,
    u_strides,
    delta_strides,
    z_strides,
    grad_u_strides,
    grad_delta_strides,
    grad_z_strides,
    A_strides,
    B_strides,
    C_strides,
    grad_y_step: tl.constexpr,
    u_step: tl.constexpr,
    delta_step: tl.constexpr,
    z_step: tl.constexpr,
    grad_u_step: tl.constexpr,
    grad_delta_step: tl.constexpr,
    grad_z_step: tl.constexpr,
    B_step: tl.constexpr,
    C_step: tl.constexpr,
    grad_BC_step: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    TERMS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    AHEAD: tl.constexpr,  # steps by which loads run ahead of their use: a store holds back later loads
):
    """Walks one block of channels of one sequence back, from the last chunk to the first."""
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
    carry = tl.zeros([BLOCK_D, BLOCK_N], ACC)  # the gradient of the state, as the later steps have it
    if grad_last is not None:
        carry = fetch(grad_last + (batch * channels + d0) * states + tile, on_tile, ACC)

    chunks = tl.cdiv(length, CHUNK)
    head = batch * 0 + (chunks - 1) * CHUNK  # of the last chunk, in 64 bits
    grad_y += batch * grad_y_strides[0] + d0 * grad_y_strides[1] + head * grad_y_step
    u += batch * u_strides[0] + d0 * u_strides[1] + head * u_step
    delta += batch * delta_strides[0] + d0 * delta_strides[1] + head * delta_step
    grad_u += batch * grad_u_strides[0] + d0 * grad_u_strides[1] + head * grad_u_step
    grad_delta += batch * grad_delta_strides[0] + d0 * grad_delta_strides[1] + head * grad_delta_step
    if z is not None:
        z += batch * z_strides[0] + d0 * z_strides[1] + head * z_step
        grad_z += batch * grad_z_strides[0] + d0 * grad_z_strides[1] + head * grad_z_step
    B += batch * B_strides[0] + (d0 // B_channels) * B_strides[1] + head * B_step
    C += batch * C_strides[0] + (d0 // C_channels) * C_strides[1] + head * C_step
    partial = (batch * blocks + block) * length * states + head * grad_BC_step
    grad_B += partial
    grad_C += partial
    kept += ((batch * chunks + chunks - 1) * channels + d0) * states

    sum_A = tl.zeros([BLOCK_D, BLOCK_N], ACC)
    sum_D = tl.zeros([BLOCK_D, 1], ACC)
    sum_bias = tl.zeros([BLOCK_D, 1], ACC)
    for chunk in range(chunks):
        now = zero + (chunks - 1 - chunk) * CHUNK
        us = ()
        dts = ()
        slopes = ()
        Bs = ()
        for i in tl.static_range(CHUNK):
            on = now + i < length
            us = us + (fetch(u + d * u_strides[1] + i * u_step, on_d & on, ACC),)
            dt, slope = step_sizes(delta + d * delta_strides[1] + i * delta_step, on_d & on, shift, SOFTPLUS, TERMS)
            dts = dts + (dt,)
            slopes = slopes + (slope,)
            Bs = Bs + (fetch(B + n * B_strides[2] + i * B_step, on_n & on, ACC),)
        state = tl.load(kept + tile, mask=on_tile, other=0)
        before = (state,)
        for i in tl.static_range(CHUNK):
            state = tl.exp2(dts[i] * rate) * state + (dts[i] * us[i]) * Bs[i]
            before = before + (state,)

        # The exponentials are computed again: kept from above they would fill the registers. With A read again the
        # compiler cannot see that they are the same.
        again = fetch(A + (d * A_strides[0] + n * A_strides[1]), on_tile, ACC) * 1.4426950408889634
        Bs = ()  # from here on in the order of the walk back: position i at CHUNK - 1 - i
        Cs = ()
        grads = ()
        gates = ()
        for i in tl.static_range(CHUNK - 1 + AHEAD, -1, -1):
            if i >= AHEAD:
                on = now + (i - AHEAD) < length
                Bs = Bs + (fetch(B + n * B_strides[2] + (i - AHEAD) * B_step, on_n & on, ACC),)
                Cs = Cs + (fetch(C + n * C_strides[2] + (i - AHEAD) * C_step, on_n & on, ACC),)
                grads = grads + (fetch(grad_y + d * grad_y_strides[1] + (i - AHEAD) * grad_y_step, on_d & on, ACC),)
                if z is not None:
                    gates = gates + (fetch(z + d * z_strides[1] + (i - AHEAD) * z_step, on_d & on, ACC),)
            if i < CHUNK:
                on_row = on_d & (now + i < length)
                on_step = on_n & (now + i < length)
                of_y = grads[CHUNK - 1 - i]
                if z is not None:
                    open = sigmoid(gates[CHUNK - 1 - i])
                    ungated = tl.sum(before[i + 1] * Cs[CHUNK - 1 - i], axis=1, keep_dims=True) + skip * us[i]
                    of_gate = of_y * ungated * (open * (1.0 + gates[CHUNK - 1 - i] * (1.0 - open)))
                    tl.store(grad_z + d * grad_z_strides[1] + i * grad_z_step, of_gate, mask=on_row)
                    of_y = of_y * gates[CHUNK - 1 - i] * open
                of_state = of_y * Cs[CHUNK - 1 - i] + carry
                along_B = tl.sum(of_state * Bs[CHUNK - 1 - i], axis=1, keep_dims=True)
                carry = of_state * tl.exp2(dts[i] * again)
                of_exponent = carry * before[i]
                sum_A += of_exponent * dts[i]
                of_dt = us[i] * along_B + tl.sum(of_exponent * again, axis=1, keep_dims=True) * 0.6931471805599453
                of_delta = of_dt * slopes[i]
                sum_bias += of_delta
                sum_D += of_y * us[i]
                of_B = tl.sum(of_state * (dts[i] * us[i]), axis=0, keep_dims=True)
                of_C = tl.sum(before[i + 1] * of_y, axis=0, keep_dims=True)
                of_u = dts[i] * along_B + skip * of_y
                tl.store(grad_u + d * grad_u_strides[1] + i * grad_u_step, of_u, mask=on_row)
                tl.store(grad_delta + d * grad_delta_strides[1] + i * grad_delta_step, of_delta, mask=on_row)
                tl.store(grad_B + n + i * grad_BC_step, of_B, mask=on_step)
                tl.store(grad_C + n + i * grad_BC_step, of_C, mask=on_step)
        u -= CHUNK * u_step
        delta -= CHUNK * delta_step
        grad_y -= CHUNK * grad_y_step
        grad_u -= CHUNK * grad_u_step
        grad_delta -= CHUNK * grad_delta_step
        if z is not None:
            z -= CHUNK * z_step
            grad_z -= CHUNK * grad_z_step
        B -= CHUNK * B_step
        C -= CHUNK * C_step
        grad_B -= CHUNK * grad_BC_step
        grad_C -= CHUNK * grad_BC_step
        kept -= channels * states

    row = batch * channels + d0
    tl.store(grad_A + row * states + tile, sum_A, mask=on_tile)
    if grad_D is not None:
        tl.store(grad_D + row + d, sum_D, mask=on_d)
    if grad_bias is not None:
        tl.store(grad_bias + row + d, sum_bias, mask=on_d)
