/* The selective scan of one tile: LANES channels of one batch element over the whole length. Included after block.h.
 *
 * Time goes by in chunks of MADZOO_CHUNK positions. For each chunk the step sizes and drives of all its positions are
 * computed first; then the states pass, NB at a time, each NB held in registers from the first position to the last; then
 * skip and gate. Source: arXiv 2312.00752, algorithm 2; the tiling is this project's.
 */

#define CHUNK MADZOO_CHUNK
#define KEPT_LANES 16
/* The rows of B and C of a block fill the lanes of one vector when they are summed. */
#define STATES_BACKWARD (LANES / 2)

/* Where one tile lies in the tensors. */
typedef struct {
    int64_t batch, group, channel; /* the first channel */
    int lanes;
} NAME(place);

/* What both directions compute of a chunk before its states are touched. */
typedef struct {
    VEC u[CHUNK], dt[CHUNK], drive[CHUNK], slope[CHUNK], y[CHUNK];
} NAME(chunk);

/* The rows of B or C of a chunk, their states side by side. */
typedef struct {
    const REAL *data;
    int64_t stride;
} NAME(rows);

static inline NAME(place) NAME(locate)(const madzoo_selective_scan_args *a, int64_t batch, int64_t group, int64_t tile) {
    int64_t width = a->channels / a->groups, left = width - tile * LANES;
    return (NAME(place)){batch, group, group * width + tile * LANES, left < LANES ? (int)left : LANES};
}

static inline int64_t NAME(tiles)(const madzoo_selective_scan_args *a) {
    return (a->channels / a->groups + LANES - 1) / LANES;
}

static inline REAL *NAME(at)(const madzoo_sequence *x, const NAME(place) * p, int64_t t) {
    return (REAL *)x->data + p->batch * x->batch + p->channel * x->channel + t * x->position;
}

static inline void NAME(fetch)(const madzoo_sequence *x, const NAME(place) * p, int64_t t) {
    if (x->data) NAME(fetch_block)(NAME(at)(x, p, t), x->channel, x->position, p->lanes);
}

static inline VEC NAME(per_channel)(const void *data, const NAME(place) * p, REAL otherwise) {
    VEC v = SET(otherwise);
    for (int i = 0; data && i < p->lanes; i++) v[i] = ((const REAL *)data)[p->channel + i];
    return v;
}

/* The states kept before a chunk: KEPT_LANES channels side by side, whatever the width of a vector. */
static inline REAL *NAME(checkpoint)(const madzoo_selective_scan_args *a, const NAME(place) * p, int64_t chunk) {
    int64_t padded = (a->channels / a->groups + KEPT_LANES - 1) / KEPT_LANES * KEPT_LANES;
    int64_t blocks = a->groups * padded / KEPT_LANES, chunks = (a->length + CHUNK - 1) / CHUNK;
    int64_t column = p->group * padded + p->channel - p->group * (a->channels / a->groups);
    int64_t block = (p->batch * blocks + column / KEPT_LANES) * chunks + chunk;
    return (REAL *)a->checkpoints + block * a->states * KEPT_LANES + column % KEPT_LANES;
}

/* Rows of a [D, N] matrix, one vector per state. */
static inline void NAME(load_states)(VEC *to, const REAL *matrix, int64_t states, int lanes, REAL factor) {
    for (int64_t n = 0; n < states; n++) {
        to[n] = SET(0);
        for (int i = 0; i < lanes; i++) to[n][i] = matrix[i * states + n] * factor;
    }
}

static inline void NAME(store_states)(REAL *matrix, const VEC *from, int64_t states, int lanes) {
    for (int64_t n = 0; n < states; n++)
        for (int i = 0; i < lanes; i++) matrix[i * states + n] = from[n][i];
}

/* Gives the rows of B or C as they lie when their states are neighbours, else a transposed copy in `packed`. */
static inline NAME(rows) NAME(pack)(const madzoo_vectors *x, const NAME(place) * p, int64_t t, int steps, int64_t states,
                                    REAL *packed) {
    const REAL *from = (const REAL *)x->data + p->batch * x->batch + p->group * x->group + t * x->position;
    if (x->state == 1) return (NAME(rows)){from, x->position};
    for (int64_t n = 0; n < states; n += LANES) {
        int lanes = states - n < LANES ? (int)(states - n) : LANES;
        VEC square[CHUNK];
        NAME(load_block)(square, from + n * x->state, x->state, x->position, lanes, steps);
        for (int i = 0; i < steps; i++) {
            if (lanes == LANES) STORE(packed + i * states + n, square[i]);
            for (int j = 0; lanes < LANES && j < lanes; j++) packed[i * states + n + j] = square[i][j];
        }
    }
    return (NAME(rows)){packed, states};
}

static inline __attribute__((always_inline)) void NAME(prepare)(NAME(chunk) * c, const madzoo_selective_scan_args *a,
                                                                const NAME(place) * p, int64_t t, int steps, VEC bias,
                                                                const int with_slope) {
    NAME(load_block)(c->u, NAME(at)(&a->u, p, t), a->u.channel, a->u.position, p->lanes, steps);
    NAME(load_block)(c->dt, NAME(at)(&a->delta, p, t), a->delta.channel, a->delta.position, p->lanes, steps);
    for (int i = 0; i < steps; i++) {
        VEC dt = c->dt[i] + bias;
        if (with_slope) c->slope[i] = SET(1);
        c->dt[i] = a->softplus ? NAME(softplus)(dt, with_slope ? &c->slope[i] : 0) : dt;
        c->drive[i] = c->dt[i] * c->u[i];
        c->y[i] = SET(0);
    }
}

/* --- forward ------------------------------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) void NAME(advance)(const int NB, NAME(chunk) * c, int steps, const VEC *A,
                                                                VEC *states, NAME(rows) B, NAME(rows) C) {
    VEC h[STATES_FORWARD];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) h[n] = states[n];
    for (int i = 0; i < steps; i++, B.data += B.stride, C.data += C.stride) {
        VEC dt = c->dt[i], drive = c->drive[i], y[4] = {c->y[i], SET(0), SET(0), SET(0)};
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            h[n] = h[n] * NAME(exp2_product)(dt, A[n]) + drive * B.data[n];
            y[n % 4] += h[n] * C.data[n];
        }
        c->y[i] = (y[0] + y[1]) + (y[2] + y[3]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) states[n] = h[n];
}

/* Takes the largest block of states that is left, 16 at most, and returns its size. */
static inline int NAME(block_of)(int64_t left, int most) {
    int size = most;
    while (size > left) size /= 2;
    return size;
}

static void NAME(advance_all)(NAME(chunk) * c, int steps, const VEC *A, VEC *states, int64_t count, NAME(rows) B,
                              NAME(rows) C) {
    for (int64_t n = 0; n < count;) {
        int size = NAME(block_of)(count - n, STATES_FORWARD);
        NAME(rows) b = {B.data + n, B.stride}, e = {C.data + n, C.stride};
        switch (size) {
#if STATES_FORWARD == 16
            case 16: NAME(advance)(16, c, steps, A + n, states + n, b, e); break;
#endif
            case 8: NAME(advance)(8, c, steps, A + n, states + n, b, e); break;
            case 4: NAME(advance)(4, c, steps, A + n, states + n, b, e); break;
            case 2: NAME(advance)(2, c, steps, A + n, states + n, b, e); break;
            default: NAME(advance)(1, c, steps, A + n, states + n, b, e);
        }
        n += size;
    }
}

/* Numbers of REAL that a thread needs beside the stack. */
static int64_t NAME(scratch_size)(const madzoo_selective_scan_args *a) {
    return a->states * (3 * LANES + 2 * CHUNK);
}

static void NAME(scan_tile)(const madzoo_selective_scan_args *a, NAME(place) p, REAL *scratch) {
    int64_t N = a->states, chunks = (a->length + CHUNK - 1) / CHUNK;
    VEC *A = (VEC *)scratch, *states = A + N;
    REAL *packed_B = (REAL *)(states + N), *packed_C = packed_B + N * CHUNK;
    VEC bias = NAME(per_channel)(a->delta_bias, &p, 0), skip = NAME(per_channel)(a->D, &p, 0);
    NAME(chunk) c;
    NAME(load_states)(A, (const REAL *)a->A + p.channel * N, N, p.lanes, (REAL)1.4426950408889634074);
    for (int64_t n = 0; n < N; n++) states[n] = SET(0);
    for (int64_t k = 0; k < chunks; k++) {
        int64_t t = k * CHUNK;
        int steps = a->length - t < CHUNK ? (int)(a->length - t) : CHUNK;
        if (a->checkpoints) {
            REAL *kept = NAME(checkpoint)(a, &p, k);
            for (int64_t n = 0; n < N; n++) STORE(kept + n * KEPT_LANES, states[n]);
        }
        if (t + 2 * CHUNK <= a->length) {
            NAME(fetch)(&a->u, &p, t + CHUNK);
            NAME(fetch)(&a->delta, &p, t + CHUNK);
            NAME(fetch)(&a->z, &p, t + CHUNK);
            NAME(fetch)(&a->out, &p, t + CHUNK);
        }
        NAME(prepare)(&c, a, &p, t, steps, bias, 0);
        NAME(rows) B = NAME(pack)(&a->B, &p, t, steps, N, packed_B), C = NAME(pack)(&a->C, &p, t, steps, N, packed_C);
        NAME(advance_all)(&c, steps, A, states, N, B, C);
        for (int i = 0; i < steps; i++) c.y[i] += skip * c.u[i];
        if (a->z.data) {
            VEC *z = c.u; /* u has served */
            NAME(load_block)(z, NAME(at)(&a->z, &p, t), a->z.channel, a->z.position, p.lanes, steps);
            for (int i = 0; i < steps; i++) c.y[i] *= z[i] * NAME(sigmoid)(z[i]);
        }
        NAME(store_block)(NAME(at)(&a->out, &p, t), c.y, a->out.channel, a->out.position, p.lanes, steps);
    }
    if (a->last_state)
        NAME(store_states)((REAL *)a->last_state + (p.batch * a->channels + p.channel) * N, states, N, p.lanes);
}

/* --- backward ----------------------------------------------------------------------------------------------------- */

typedef struct {
    VEC grad_y[CHUNK], grad_drive[CHUNK], grad_dt[CHUNK];
} NAME(adjoint);

/* One block of NB states over one chunk: forward again from the checkpoint, then back, with lambda = dL/dh.
 * grad_A gathers dL/dA; the gradients of B and C are summed over the lanes into their rows. */
static inline __attribute__((always_inline)) void NAME(retreat)(const int NB, NAME(chunk) * c, NAME(adjoint) * g, int steps,
                                                                const VEC *A, const REAL *kept, VEC *lambdas,
                                                                VEC *grad_A, NAME(rows) B, NAME(rows) C, REAL *grad_B,
                                                                REAL *grad_C, int64_t grad_stride) {
    VEC h[CHUNK + 1][STATES_BACKWARD], decay[CHUNK][STATES_BACKWARD], now[STATES_BACKWARD];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) h[0][n] = now[n] = LOAD(kept + n * KEPT_LANES);
    for (int i = 0; i < steps; i++) {
        const REAL *b = B.data + i * B.stride, *e = C.data + i * C.stride;
        VEC dt = c->dt[i], drive = c->drive[i], y = c->y[i];
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            decay[i][n] = NAME(exp2_product)(dt, A[n]);
            h[i + 1][n] = now[n] = now[n] * decay[i][n] + drive * b[n];
            y += now[n] * e[n];
        }
        c->y[i] = y;
    }
    VEC lambda[STATES_BACKWARD], sum_A[STATES_BACKWARD], sums[CHUNK];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) lambda[n] = lambdas[n], sum_A[n] = grad_A[n];
    for (int i = steps - 1; i >= 0; i--) {
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

static void NAME(retreat_all)(NAME(chunk) * c, NAME(adjoint) * g, int steps, const VEC *A, const REAL *kept,
                              VEC *lambdas, VEC *grad_A, int64_t count, NAME(rows) B, NAME(rows) C, REAL *grad_B,
                              REAL *grad_C, int64_t stride) {
    for (int64_t n = 0; n < count;) {
        int size = NAME(block_of)(count - n, STATES_BACKWARD);
        NAME(rows) b = {B.data + n, B.stride}, e = {C.data + n, C.stride};
#define RETREAT(NB)                                                                                                      \
    NAME(retreat)(NB, c, g, steps, A + n, kept + n * KEPT_LANES, lambdas + n, grad_A + n, b, e, grad_B + n, grad_C + n, \
                  stride)
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
    const REAL ln2 = (REAL)0.69314718055994530942;
    NAME(load_states)(A, (const REAL *)a->A + p.channel * N, N, p.lanes, (REAL)1.4426950408889634074);
    for (int64_t n = 0; n < N; n++) lambdas[n] = grad_A[n] = SET(0);
    int64_t corner = (p.batch * a->channels + p.channel) * N;
    if (a->grad_last_state) NAME(load_states)(lambdas, (const REAL *)a->grad_last_state + corner, N, p.lanes, 1);
    REAL *grad_B = (REAL *)a->grad_B.data + slice * a->slice_stride + p.batch * a->grad_B.batch + p.group * a->grad_B.group;
    REAL *grad_C = (REAL *)a->grad_C.data + slice * a->slice_stride + p.batch * a->grad_C.batch + p.group * a->grad_C.group;
    for (int64_t k = chunks - 1; k >= 0; k--) {
        int64_t t = k * CHUNK;
        int steps = a->length - t < CHUNK ? (int)(a->length - t) : CHUNK;
        VEC z[CHUNK], gate[CHUNK], out[CHUNK];
        if (k > 0) {
            NAME(fetch)(&a->u, &p, t - CHUNK);
            NAME(fetch)(&a->delta, &p, t - CHUNK);
            NAME(fetch)(&a->z, &p, t - CHUNK);
            NAME(fetch)(&a->grad_out, &p, t - CHUNK);
            NAME(fetch)(&a->grad_u, &p, t - CHUNK);
            NAME(fetch)(&a->grad_delta, &p, t - CHUNK);
            NAME(fetch)(&a->grad_z, &p, t - CHUNK);
            const char *kept = (const char *)NAME(checkpoint)(a, &p, k - 1);
            for (int64_t i = 0; i < N * KEPT_LANES * (int64_t)sizeof(REAL); i += 64) __builtin_prefetch(kept + i);
        }
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
        NAME(retreat_all)(&c, &g, steps, A, kept, lambdas, grad_A, N, B, C, grad_B + t * a->grad_B.position,
                          grad_C + t * a->grad_C.position, a->grad_B.position);
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

/* --- sharing out -------------------------------------------------------------------------------------------------- */

static REAL *NAME(make_scratch)(madzoo_job *job) {
    int64_t bytes = (NAME(scratch_size)(job->args) * (int64_t)sizeof(REAL) + 63) / 64 * 64;
    REAL *scratch = aligned_alloc(64, (size_t)bytes);
    if (!scratch) job->failed = 1;
    return scratch;
}

static void NAME(scan_worker)(void *argument) {
    madzoo_job *job = argument;
    const madzoo_selective_scan_args *a = job->args;
    int64_t tiles = NAME(tiles)(a), units = a->batch * a->groups * tiles, unit;
    REAL *scratch = NAME(make_scratch)(job);
    if (!scratch) return;
    uint64_t mode = madzoo_flush_denormals();
    while ((unit = madzoo_next(job)) < units) {
        int64_t of_batch = unit / tiles;
        NAME(scan_tile)(a, NAME(locate)(a, of_batch / a->groups, of_batch % a->groups, unit % tiles), scratch);
    }
    madzoo_restore_denormals(mode);
    free(scratch);
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

#undef CHUNK
#undef KEPT_LANES
#undef STATES_BACKWARD
