/* The selective scan forward: recurrence, output, skip and gate of a tile in one pass. Included after scan_chunk.h. */

static inline __attribute__((always_inline)) void NAME(advance)(const int NB, const int bounded,
                                                                NAME(chunk) * c, int steps, const VEC *A,
                                                                VEC *states, NAME(rows) B, NAME(rows) C,
                                                                const NAME(ahead) * ahead) {
    VEC h[STATES_FORWARD];
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) h[n] = states[n];
    for (int i = 0; i < steps; i++, B.data += B.stride, C.data += C.stride) {
        NAME(ask)(ahead, i);
        VEC dt = c->dt[i], drive = c->drive[i], y[4] = {c->y[i], SET(0), SET(0), SET(0)};
#pragma GCC unroll 16
        for (int n = 0; n < NB; n++) {
            VEC decay = bounded ? NAME(exp2_bounded)(dt, A[n]) : NAME(exp2_product)(dt, A[n]);
            h[n] = h[n] * decay + drive * B.data[n];
            y[n % 4] += h[n] * C.data[n];
        }
        c->y[i] = (y[0] + y[1]) + (y[2] + y[3]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) states[n] = h[n];
}

static inline __attribute__((always_inline)) void NAME(advance_all)(const int bounded, NAME(chunk) * c,
                                                                    int steps, const VEC *A, VEC *states,
                                                                    int64_t count, NAME(rows) B, NAME(rows) C,
                                                                    const NAME(ahead) * ahead) {
    for (int64_t n = 0; n < count;) {
        int size = NAME(block_of)(count - n, STATES_FORWARD);
        NAME(rows) b = {B.data + n, B.stride}, e = {C.data + n, C.stride};
        switch (size) {
#if STATES_FORWARD == 16
            case 16: NAME(advance)(16, bounded, c, steps, A + n, states + n, b, e, ahead); break;
#endif
            case 8: NAME(advance)(8, bounded, c, steps, A + n, states + n, b, e, ahead); break;
            case 4: NAME(advance)(4, bounded, c, steps, A + n, states + n, b, e, ahead); break;
            case 2: NAME(advance)(2, bounded, c, steps, A + n, states + n, b, e, ahead); break;
            default: NAME(advance)(1, bounded, c, steps, A + n, states + n, b, e, ahead);
        }
        n += size;
    }
}

static void NAME(scan_tile)(const madzoo_selective_scan_args *a, NAME(place) p, REAL *scratch) {
    int64_t N = a->states, chunks = (a->length + CHUNK - 1) / CHUNK;
    VEC *A = (VEC *)scratch, *states = A + N;
    REAL *packed_B = (REAL *)(states + N), *packed_C = packed_B + N * CHUNK;
    VEC bias = NAME(per_channel)(a->delta_bias, &p, 0), skip = NAME(per_channel)(a->D, &p, 0);
    NAME(chunk) c;
    NAME(ahead) ahead;
    NAME(load_states)(A, (const REAL *)a->A + p.channel * N, N, p.lanes, (REAL)1.4426950408889634074);
    for (int64_t n = 0; n < N; n++) states[n] = SET(0);
    VEC steepest = NAME(largest)(A, N);
    for (int64_t k = 0; k < chunks; k++) {
        int64_t t = k * CHUNK;
        int steps = a->length - t < CHUNK ? (int)(a->length - t) : CHUNK;
        if (a->checkpoints) {
            REAL *kept = NAME(checkpoint)(a, &p, k);
            for (int64_t n = 0; n < N; n++) STORE(kept + n * KEPT_LANES, states[n]);
        }
        int64_t next = t + 2 * CHUNK <= a->length ? t + CHUNK : t;
        NAME(look_ahead)(&ahead, 0, &a->u, &p, next);
        NAME(look_ahead)(&ahead, 1, &a->delta, &p, next);
        NAME(look_ahead)(&ahead, 2, &a->z, &p, next);
        NAME(look_ahead)(&ahead, 3, &a->out, &p, next);
        NAME(prepare)(&c, a, &p, t, steps, bias, 0);
        NAME(rows) B = NAME(pack)(&a->B, &p, t, steps, N, packed_B), C = NAME(pack)(&a->C, &p, t, steps, N, packed_C);
        if (NAME(is_bounded)(&c, steps, steepest))
            NAME(advance_all)(1, &c, steps, A, states, N, B, C, &ahead);
        else
            NAME(advance_all)(0, &c, steps, A, states, N, B, C, &ahead);
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
