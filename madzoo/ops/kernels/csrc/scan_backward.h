/* The selective scan backward, chunk by chunk from the last: each is run forward again from the states kept before it,
 * then back. Included after scan_chunk.h.
 */

/* The rows of B and C of a block fill the lanes of one vector when they are summed. */
#undef STATES_BACKWARD
#define STATES_BACKWARD (LANES / 2)

typedef struct {
    VEC grad_y[CHUNK], grad_drive[CHUNK], grad_dt[CHUNK];
} NAME(adjoint);

/* One block of NB states over one chunk: forward again from the checkpoint, then back, with lambda = dL/dh. The output
 * itself is computed again only for a gate, whose gradient needs it.
 * grad_A gathers dL/dA; the gradients of B and C are summed over the lanes into their rows. */
static inline __attribute__((always_inline)) void NAME(retreat)(
    const int NB, const int bounded, const int gated, NAME(chunk) * c, NAME(adjoint) * g, int steps, const VEC *A,
    const REAL *kept, VEC *lambdas, VEC *grad_A, NAME(rows) B, NAME(rows) C, REAL *grad_B, REAL *grad_C,
    int64_t grad_stride, const NAME(ahead) * inputs, const NAME(ahead) * outputs) {
    VEC h[CHUNK + 1][STATES_BACKWARD], decay[CHUNK][STATES_BACKWARD], now[STATES_BACKWARD];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) h[0][n] = now[n] = LOAD(kept + n * KEPT_LANES);
    for (int i = 0; i < steps; i++) {
        NAME(ask)(inputs, i);
        const REAL *b = B.data + i * B.stride, *e = C.data + i * C.stride;
        VEC dt = c->dt[i], drive = c->drive[i], y = c->y[i];
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            decay[i][n] = bounded ? NAME(exp2_bounded)(dt, A[n]) : NAME(exp2_product)(dt, A[n]);
            h[i + 1][n] = now[n] = now[n] * decay[i][n] + drive * b[n];
            if (gated) y += now[n] * e[n];
        }
        c->y[i] = y;
    }
    VEC lambda[STATES_BACKWARD], sum_A[STATES_BACKWARD], sums[CHUNK];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) lambda[n] = lambdas[n], sum_A[n] = grad_A[n];
    for (int i = steps - 1; i >= 0; i--) {
        NAME(ask)(outputs, i);
        const REAL *b = B.data + i * B.stride, *e = C.data + i * C.stride;
        VEC dt = c->dt[i], drive = c->drive[i], grad_y = g->grad_y[i];
        VEC grad_drive = g->grad_drive[i], grad_dt = g->grad_dt[i];
        VEC rows[2 * STATES_BACKWARD]; /* of the gradients of B and of C, still one number per channel */
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            lambda[n] += grad_y * e[n];
            rows[n] = lambda[n] * drive;
            rows[NB + n] = grad_y * h[i + 1][n];
            grad_drive += lambda[n] * b[n];
            lambda[n] *= decay[i][n];
            VEC grad_exponent = lambda[n] * h[i][n]; /* of dt A, since d exp(dt A) = exp(dt A) d(dt A) */
            sum_A[n] += grad_exponent * dt;
            grad_dt += grad_exponent * A[n];
        }
        g->grad_drive[i] = grad_drive, g->grad_dt[i] = grad_dt;
        sums[i] = NAME(lane_sums)(rows, 2 * NB);
    }
    const REAL *parts = (const REAL *)sums;
    for (int i = 0; i < steps; i++, parts += LANES, grad_B += grad_stride, grad_C += grad_stride)
#pragma GCC unroll 8
        for (int j = 0; j < LANES; j += 2 * NB)
#pragma GCC unroll 8
            for (int n = 0; n < NB; n++) grad_B[n] += parts[j + n], grad_C[n] += parts[j + NB + n];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) lambdas[n] = lambda[n], grad_A[n] = sum_A[n];
}

static inline __attribute__((always_inline)) void NAME(retreat_all)(
    const int bounded, const int gated, NAME(chunk) * c, NAME(adjoint) * g, int steps, const VEC *A, const REAL *kept,
    VEC *lambdas, VEC *grad_A, int64_t count, NAME(rows) B, NAME(rows) C, REAL *grad_B, REAL *grad_C, int64_t stride,
    const NAME(ahead) * inputs, NAME(ahead) * outputs) {
    for (int64_t n = 0; n < count;) {
        int size = NAME(block_of)(count - n, STATES_BACKWARD);
        NAME(rows) b = {B.data + n, B.stride}, e = {C.data + n, C.stride};
#define RETREAT(NB)                                                                                                      \
    NAME(retreat)(NB, bounded, gated, c, g, steps, A + n, kept + n * KEPT_LANES, lambdas + n, grad_A + n, b, e,          \
                  grad_B + n, grad_C + n, stride, inputs, outputs)
        switch (size) {
#if STATES_BACKWARD >= 8
            case 8: RETREAT(8); break;
#endif
#if STATES_BACKWARD >= 4
            case 4: RETREAT(4); break;
#endif
#if STATES_BACKWARD >= 2
            case 2: RETREAT(2); break;
#endif
            default: RETREAT(1);
        }
#undef RETREAT
        n += size;
        outputs->line[AHEAD - 1] += size * KEPT_LANES * (int64_t)sizeof(REAL);
    }
}

static void NAME(unscan_tile)(const madzoo_selective_scan_args *a, NAME(place) p, int64_t slice, REAL *scratch) {
    int64_t N = a->states, chunks = (a->length + CHUNK - 1) / CHUNK;
    VEC *A = (VEC *)scratch, *lambdas = A + N, *grad_A = lambdas + N;
    REAL *packed_B = (REAL *)(grad_A + N), *packed_C = packed_B + N * CHUNK;
    VEC bias = NAME(per_channel)(a->delta_bias, &p, 0), skip = NAME(per_channel)(a->D, &p, 0);
    VEC grad_skip = SET(0), grad_bias = SET(0);
    NAME(chunk) c;
    NAME(adjoint) g;
    NAME(ahead) inputs, outputs;
    const REAL ln2 = (REAL)0.69314718055994530942;
    NAME(load_states)(A, (const REAL *)a->A + p.channel * N, N, p.lanes, (REAL)1.4426950408889634074);
    for (int64_t n = 0; n < N; n++) lambdas[n] = grad_A[n] = SET(0);
    VEC steepest = NAME(largest)(A, N);
    int64_t corner = (p.batch * a->channels + p.channel) * N;
    if (a->grad_last_state) NAME(load_states)(lambdas, (const REAL *)a->grad_last_state + corner, N, p.lanes, 1);
    REAL *grad_B = (REAL *)a->grad_B.data + slice * a->slice_stride + p.batch * a->grad_B.batch + p.group * a->grad_B.group;
    REAL *grad_C = (REAL *)a->grad_C.data + slice * a->slice_stride + p.batch * a->grad_C.batch + p.group * a->grad_C.group;
    for (int64_t k = chunks - 1; k >= 0; k--) {
        int64_t t = k * CHUNK;
        int steps = a->length - t < CHUNK ? (int)(a->length - t) : CHUNK;
        VEC z[CHUNK], gate[CHUNK], out[CHUNK];
        int64_t next = k > 0 ? t - CHUNK : t;
        NAME(look_ahead)(&inputs, 0, &a->u, &p, next);
        NAME(look_ahead)(&inputs, 1, &a->delta, &p, next);
        NAME(look_ahead)(&inputs, 2, &a->z, &p, next);
        NAME(look_ahead)(&inputs, 3, &a->grad_out, &p, next);
        NAME(look_ahead)(&outputs, 0, &a->grad_u, &p, next);
        NAME(look_ahead)(&outputs, 1, &a->grad_delta, &p, next);
        NAME(look_ahead)(&outputs, 2, &a->grad_z, &p, next);
        outputs.line[3] = (const char *)NAME(checkpoint)(a, &p, k > 0 ? k - 1 : k);
        outputs.stride[3] = 64;
        NAME(prepare)(&c, a, &p, t, steps, bias, 1);
        NAME(rows) B = NAME(pack)(&a->B, &p, t, steps, N, packed_B), C = NAME(pack)(&a->C, &p, t, steps, N, packed_C);
        NAME(load_block)(out, NAME(at)(&a->grad_out, &p, t), a->grad_out.channel, a->grad_out.position, p.lanes, steps);
        if (a->z.data) NAME(load_block)(z, NAME(at)(&a->z, &p, t), a->z.channel, a->z.position, p.lanes, steps);
        for (int i = 0; i < steps; i++) {
            gate[i] = a->z.data ? NAME(sigmoid)(z[i]) : SET(1);
            g.grad_y[i] = a->z.data ? out[i] * z[i] * gate[i] : out[i];
            g.grad_drive[i] = g.grad_dt[i] = SET(0);
            c.y[i] = skip * c.u[i];
        }
        const REAL *kept = NAME(checkpoint)(a, &p, k);
#define RETREAT_ALL(BOUNDED, GATED)                                                                                      \
    NAME(retreat_all)(BOUNDED, GATED, &c, &g, steps, A, kept, lambdas, grad_A, N, B, C, grad_B + t * a->grad_B.position, \
                      grad_C + t * a->grad_C.position, a->grad_B.position, &inputs, &outputs)
        int bounded = NAME(is_bounded)(&c, steps, steepest);
        if (a->z.data && bounded) RETREAT_ALL(1, 1);
        else if (a->z.data) RETREAT_ALL(0, 1);
        else if (bounded) RETREAT_ALL(1, 0);
        else RETREAT_ALL(0, 0);
#undef RETREAT_ALL
        VEC grad_u[CHUNK], grad_delta[CHUNK];
        for (int i = 0; i < steps; i++) {
            grad_u[i] = g.grad_drive[i] * c.dt[i] + skip * g.grad_y[i];
            grad_delta[i] = (g.grad_drive[i] * c.u[i] + g.grad_dt[i] * ln2) * c.slope[i];
            grad_skip += g.grad_y[i] * c.u[i];
            grad_bias += grad_delta[i];
            if (a->z.data) z[i] = out[i] * c.y[i] * gate[i] * (SET(1) + z[i] * (SET(1) - gate[i]));
        }
        NAME(store_block)(NAME(at)(&a->grad_u, &p, t), grad_u, a->grad_u.channel, a->grad_u.position, p.lanes, steps);
        NAME(store_block)
        (NAME(at)(&a->grad_delta, &p, t), grad_delta, a->grad_delta.channel, a->grad_delta.position, p.lanes, steps);
        if (a->z.data)
            NAME(store_block)(NAME(at)(&a->grad_z, &p, t), z, a->grad_z.channel, a->grad_z.position, p.lanes, steps);
    }
    NAME(store_states)((REAL *)a->grad_A + corner, grad_A, N, p.lanes);
    for (int i = 0; i < p.lanes; i++) {
        if (a->grad_D) ((REAL *)a->grad_D)[p.batch * a->channels + p.channel + i] = grad_skip[i];
        if (a->grad_bias) ((REAL *)a->grad_bias)[p.batch * a->channels + p.channel + i] = grad_bias[i];
    }
}

/* A unit is one slice of the channels of one group of one batch element: within it the sums over channels need no lock,
 * and their order does not depend on the number of threads. */
static void NAME(unscan_worker)(void *argument) {
    madzoo_job *job = argument;
    const madzoo_selective_scan_args *a = job->args;
    int64_t tiles = NAME(tiles)(a), units = a->batch * a->groups * a->slices, unit;
    REAL *scratch = NAME(make_scratch)(job);
    if (!scratch) return;
    uint64_t mode = madzoo_flush_denormals();
    while ((unit = madzoo_next(job)) < units) {
        int64_t of_batch = unit / a->slices, slice = unit % a->slices;
        for (int64_t tile = tiles * slice / a->slices; tile < tiles * (slice + 1) / a->slices; tile++)
            NAME(unscan_tile)(a, NAME(locate)(a, of_batch / a->groups, of_batch % a->groups, tile), slice, scratch);
    }
    madzoo_restore_denormals(mode);
    free(scratch);
}
