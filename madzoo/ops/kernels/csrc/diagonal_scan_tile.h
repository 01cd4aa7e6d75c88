/* The diagonal scan with constant coefficients, h_t = a h_{t-1} + u_t, y_t = Re(sum_n c_n h_{n,t}) + D u_t, of one tile:
 * LANES channels of one sequence after the other. Included after scan_chunk.h.
 *
 * Time goes by in chunks of MADZOO_LONG_CHUNK positions. The states pass NB at a time, each held in registers through the
 * chunk. The gradient of u is the same scan of grad_out against time, q_t = a q_{t+1} + grad_out_t; with it
 * dL/da = c sum_t q_t h_{t-1} and dL/dc = sum_t grad_out_t h_t, whose h are computed again from the state before a chunk.
 */

#define CHUNK MADZOO_LONG_CHUNK
#define KEPT_LANES MADZOO_KEPT_LANES
#define STATES_FORWARD_COMPLEX (STATES_FORWARD / 2)
#define STATES_BACKWARD_COMPLEX (STATES_FORWARD / 4)

/* A complex number per channel. */
typedef struct {
    VEC re, im;
} NAME(complex);

/* One state of the tile, and what is summed for it over time. */
typedef struct {
    NAME(complex) a, c;
} NAME(system);

typedef struct {
    NAME(complex) grad_a, grad_c;
} NAME(system_sums);

static inline int64_t NAME(kept_blocks)(const madzoo_diagonal_scan_args *a) {
    return (a->channels + KEPT_LANES - 1) / KEPT_LANES;
}

/* Rows of [N, 2, KEPT_LANES * blocks]: the real and the imaginary parts of one state. */
static inline REAL *NAME(row)(const madzoo_diagonal_scan_args *a, const void *matrix, int64_t channel, int64_t row) {
    return (REAL *)matrix + row * NAME(kept_blocks)(a) * KEPT_LANES + channel;
}

/* The states before a chunk. */
static inline REAL *NAME(kept_states)(const madzoo_diagonal_scan_args *a, const NAME(place) * p, int64_t chunk) {
    int64_t chunks = (a->length + CHUNK - 1) / CHUNK, block = p->batch * NAME(kept_blocks)(a) + p->channel / KEPT_LANES;
    return (REAL *)a->checkpoints + (block * chunks + chunk) * a->states * 2 * KEPT_LANES + p->channel % KEPT_LANES;
}

static inline __attribute__((always_inline)) void NAME(turn)(NAME(complex) * h, const NAME(complex) * a, VEC drive) {
    VEC re = h->re, im = h->im;
    h->re = re * a->re + (drive - im * a->im);
    h->im = im * a->re + re * a->im;
}

/* --- forward ------------------------------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) void NAME(pass)(const int NB, const NAME(system) * s, NAME(complex) * states,
                                                             const VEC *u, VEC *y, int steps) {
    NAME(complex) h[STATES_FORWARD_COMPLEX];
#pragma GCC unroll 8
    for (int n = 0; n < NB; n++) h[n] = states[n];
    for (int i = 0; i < steps; i++) {
        VEC sums[4] = {y[i], SET(0), SET(0), SET(0)};
#pragma GCC unroll 8
        for (int n = 0; n < NB; n++) {
            NAME(turn)(&h[n], &s[n].a, u[i]);
            sums[n % 2 * 2] += h[n].re * s[n].c.re;
            sums[n % 2 * 2 + 1] -= h[n].im * s[n].c.im;
        }
        y[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < NB; n++) states[n] = h[n];
}

static void NAME(pass_all)(const NAME(system) * s, NAME(complex) * states, int64_t count, const VEC *u, VEC *y, int steps) {
    for (int64_t n = 0; n < count;) {
        int size = NAME(block_of)(count - n, STATES_FORWARD_COMPLEX);
        switch (size) {
#if STATES_FORWARD_COMPLEX == 8
            case 8: NAME(pass)(8, s + n, states + n, u, y, steps); break;
#endif
            case 4: NAME(pass)(4, s + n, states + n, u, y, steps); break;
            case 2: NAME(pass)(2, s + n, states + n, u, y, steps); break;
            default: NAME(pass)(1, s + n, states + n, u, y, steps);
        }
        n += size;
    }
}

static void NAME(pass_tile)(const madzoo_diagonal_scan_args *a, const NAME(place) * p, const NAME(system) * s,
                            NAME(complex) * states) {
    int64_t N = a->states, chunks = (a->length + CHUNK - 1) / CHUNK;
    VEC skip = NAME(per_channel)(a->D, p, 0), u[CHUNK], y[CHUNK];
    for (int64_t n = 0; n < N; n++) states[n].re = states[n].im = SET(0);
    for (int64_t k = 0; k < chunks; k++) {
        int64_t t = k * CHUNK;
        int steps = a->length - t < CHUNK ? (int)(a->length - t) : CHUNK;
        if (a->checkpoints) {
            REAL *kept = NAME(kept_states)(a, p, k);
            for (int64_t n = 0; n < 2 * N; n++) STORE(kept + n * KEPT_LANES, ((VEC *)states)[n]);
        }
        for (int half = 0; half < CHUNK && t + 2 * CHUNK <= a->length; half += MADZOO_CHUNK) {
            NAME(fetch)(&a->u, p, t + CHUNK + half);
            NAME(fetch)(&a->out, p, t + CHUNK + half);
        }
        NAME(load_block)(u, NAME(at)(&a->u, p, t), a->u.channel, a->u.position, p->lanes, steps);
        for (int i = 0; i < steps; i++) y[i] = skip * u[i];
        NAME(pass_all)(s, states, N, u, y, steps);
        NAME(store_block)(NAME(at)(&a->out, p, t), y, a->out.channel, a->out.position, p->lanes, steps);
    }
}

/* --- backward ----------------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void NAME(unpass)(const int NB, const NAME(system) * s, const REAL *kept,
                                                               NAME(complex) * adjoints, NAME(system_sums) * sums,
                                                               const VEC *u, const VEC *grad_y, VEC *grad_u, int steps) {
    NAME(complex) h[CHUNK + 1][STATES_BACKWARD_COMPLEX], q[STATES_BACKWARD_COMPLEX];
    NAME(system_sums) sum[STATES_BACKWARD_COMPLEX];
#pragma GCC unroll 8
    for (int n = 0; n < NB; n++) h[0][n].re = q[n].re = LOAD(kept + 2 * n * KEPT_LANES);
#pragma GCC unroll 8
    for (int n = 0; n < NB; n++) h[0][n].im = q[n].im = LOAD(kept + (2 * n + 1) * KEPT_LANES);
    for (int i = 0; i < steps; i++)
#pragma GCC unroll 8
        for (int n = 0; n < NB; n++) {
            NAME(turn)(&q[n], &s[n].a, u[i]);
            h[i + 1][n] = q[n];
        }
#pragma GCC unroll 8
    for (int n = 0; n < NB; n++) q[n] = adjoints[n], sum[n] = sums[n];
    for (int i = steps - 1; i >= 0; i--) {
        VEC grad = grad_y[i], one = grad_u[i], other = SET(0);
#pragma GCC unroll 8
        for (int n = 0; n < NB; n++) {
            const NAME(complex) now = h[i + 1][n], before = h[i][n];
            NAME(turn)(&q[n], &s[n].a, grad);
            one += q[n].re * s[n].c.re;
            other -= q[n].im * s[n].c.im;
            sum[n].grad_a.re = (sum[n].grad_a.re + q[n].re * before.re) - q[n].im * before.im;
            sum[n].grad_a.im = (sum[n].grad_a.im + q[n].re * before.im) + q[n].im * before.re;
            sum[n].grad_c.re += grad * now.re;
            sum[n].grad_c.im += grad * now.im;
        }
        grad_u[i] = one + other;
    }
#pragma GCC unroll 8
    for (int n = 0; n < NB; n++) adjoints[n] = q[n], sums[n] = sum[n];
}

static void NAME(unpass_all)(const NAME(system) * s, const REAL *kept, NAME(complex) * adjoints, NAME(system_sums) * sums,
                             int64_t count, const VEC *u, const VEC *grad_y, VEC *grad_u, int steps) {
    for (int64_t n = 0; n < count;) {
        int size = NAME(block_of)(count - n, STATES_BACKWARD_COMPLEX);
        const REAL *from = kept + 2 * n * KEPT_LANES;
        switch (size) {
#if STATES_BACKWARD_COMPLEX == 4
            case 4: NAME(unpass)(4, s + n, from, adjoints + n, sums + n, u, grad_y, grad_u, steps); break;
#endif
            case 2: NAME(unpass)(2, s + n, from, adjoints + n, sums + n, u, grad_y, grad_u, steps); break;
            default: NAME(unpass)(1, s + n, from, adjoints + n, sums + n, u, grad_y, grad_u, steps);
        }
        n += size;
    }
}

static void NAME(unpass_tile)(const madzoo_diagonal_scan_args *a, const NAME(place) * p, const NAME(system) * s,
                              NAME(complex) * adjoints, NAME(system_sums) * sums, VEC *grad_skip) {
    int64_t N = a->states, chunks = (a->length + CHUNK - 1) / CHUNK;
    VEC skip = NAME(per_channel)(a->D, p, 0), u[CHUNK], grad_y[CHUNK], grad_u[CHUNK];
    for (int64_t n = 0; n < N; n++) adjoints[n].re = adjoints[n].im = SET(0);
    for (int64_t k = chunks - 1; k >= 0; k--) {
        int64_t t = k * CHUNK;
        int steps = a->length - t < CHUNK ? (int)(a->length - t) : CHUNK;
        for (int half = 0; half < CHUNK && k > 0; half += MADZOO_CHUNK) {
            NAME(fetch)(&a->u, p, t - CHUNK + half);
            NAME(fetch)(&a->grad_out, p, t - CHUNK + half);
            NAME(fetch)(&a->grad_u, p, t - CHUNK + half);
        }
        NAME(load_block)(u, NAME(at)(&a->u, p, t), a->u.channel, a->u.position, p->lanes, steps);
        NAME(load_block)(grad_y, NAME(at)(&a->grad_out, p, t), a->grad_out.channel, a->grad_out.position, p->lanes, steps);
        for (int i = 0; i < steps; i++) {
            grad_u[i] = skip * grad_y[i];
            *grad_skip += grad_y[i] * u[i];
        }
        NAME(unpass_all)(s, NAME(kept_states)(a, p, k), adjoints, sums, N, u, grad_y, grad_u, steps);
        NAME(store_block)(NAME(at)(&a->grad_u, p, t), grad_u, a->grad_u.channel, a->grad_u.position, p->lanes, steps);
    }
}

/* --- sharing out -------------------------------------------------------------------------------------------------- */

/* A unit is one slice of the batch for one tile: within it the sums over time and batch need no lock, and their order
 * does not depend on the number of threads. */
static void NAME(share_slices)(madzoo_job *job, int backward) {
    const madzoo_diagonal_scan_args *a = job->args;
    int64_t N = a->states, tiles = (a->channels + LANES - 1) / LANES, unit;
    size_t bytes = (size_t)N * (sizeof(NAME(system)) + sizeof(NAME(complex)) + sizeof(NAME(system_sums)));
    NAME(system) *s = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!s) {
        job->failed = 1;
        return;
    }
    NAME(complex) *states = (NAME(complex) *)(s + N);
    NAME(system_sums) *sums = (NAME(system_sums) *)(states + N);
    uint64_t mode = madzoo_flush_denormals();
    while ((unit = madzoo_next(job)) < a->slices * tiles) {
        int64_t slice = unit / tiles, channel = unit % tiles * LANES, left = a->channels - channel;
        NAME(place) p = {0, 0, channel, left < LANES ? (int)left : LANES};
        VEC grad_skip = SET(0);
        for (int64_t n = 0; n < N; n++) {
            s[n].a.re = LOAD(NAME(row)(a, a->poles, channel, 2 * n));
            s[n].a.im = LOAD(NAME(row)(a, a->poles, channel, 2 * n + 1));
            s[n].c.re = LOAD(NAME(row)(a, a->residues, channel, 2 * n));
            s[n].c.im = LOAD(NAME(row)(a, a->residues, channel, 2 * n + 1));
            sums[n] = (NAME(system_sums)){{SET(0), SET(0)}, {SET(0), SET(0)}};
        }
        for (p.batch = a->batch * slice / a->slices; p.batch < a->batch * (slice + 1) / a->slices; p.batch++)
            if (backward)
                NAME(unpass_tile)(a, &p, s, states, sums, &grad_skip);
            else
                NAME(pass_tile)(a, &p, s, states);
        for (int64_t n = 0; backward && n < N; n++) {
            int64_t first = slice * (4 * N + 1) + 2 * n;
            STORE(NAME(row)(a, a->sums, channel, first), sums[n].grad_a.re);
            STORE(NAME(row)(a, a->sums, channel, first + 1), sums[n].grad_a.im);
            STORE(NAME(row)(a, a->sums, channel, first + 2 * N), sums[n].grad_c.re);
            STORE(NAME(row)(a, a->sums, channel, first + 2 * N + 1), sums[n].grad_c.im);
        }
        if (backward) STORE(NAME(row)(a, a->sums, channel, slice * (4 * N + 1) + 4 * N), grad_skip);
    }
    madzoo_restore_denormals(mode);
    free(s);
}

static void NAME(pass_worker)(void *job) { NAME(share_slices)(job, 0); }
static void NAME(unpass_worker)(void *job) { NAME(share_slices)(job, 1); }

#undef CHUNK
#undef KEPT_LANES
#undef STATES_FORWARD_COMPLEX
#undef STATES_BACKWARD_COMPLEX
