/* What both directions of the selective scan share: where a tile lies, its chunks, the states kept between them.
 * Included after block.h.
 *
 * A tile is LANES channels of one batch element over the whole length. Time goes by in chunks of MADZOO_CHUNK positions:
 * for each chunk the step sizes and drives of all its positions are computed first, then the states pass, some at a time,
 * each held in registers from the first position of the chunk to the last. Source: arXiv 2312.00752, algorithm 2; the
 * tiling is this project's.
 */

#undef CHUNK
#undef AHEAD
#undef KEPT_LANES
#define CHUNK MADZOO_CHUNK
#define KEPT_LANES MADZOO_KEPT_LANES

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

/* The lines of memory that the next chunk will want, one of each tensor for every position of this one: asked for one by
 * one between the arithmetic, because a burst of them would find no free buffer. */
#define AHEAD 4
typedef struct {
    const char *line[AHEAD];
    int64_t stride[AHEAD];
} NAME(ahead);

static inline void NAME(look_ahead)(NAME(ahead) * ahead, int i, const madzoo_sequence *x, const NAME(place) * p, int64_t t) {
    int64_t stride = x->channel == 1 ? x->position : x->channel;
    ahead->line[i] = x->data ? (const char *)NAME(at)(x, p, t) : (const char *)ahead;
    ahead->stride[i] = x->data && (x->channel == 1 || p->lanes == LANES) ? stride * (int64_t)sizeof(REAL) : 0;
}

static inline __attribute__((always_inline)) void NAME(ask)(const NAME(ahead) * ahead, int step) {
#pragma GCC unroll 4
    for (int i = 0; i < AHEAD; i++) __builtin_prefetch(ahead->line[i] + step * ahead->stride[i]);
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

/* The largest |x| in each lane; no number where one of them is infinite or none itself. */
static inline VEC NAME(largest)(const VEC *x, int64_t count) {
    VEC most = SET(0), none = SET(0);
    for (int64_t i = 0; i < count; i++) {
        VEC size = NAME(absolute)(x[i]);
        most = NAME(select)((NAME(bits))(size > most), size, most);
        none += x[i] * SET(0);
    }
    return most + none;
}

/* Whether no exponent of a chunk reaches BOUND; steepest is the largest |A| of each channel. */
static inline int NAME(is_bounded)(const NAME(chunk) * c, int steps, VEC steepest) {
    return NAME(all_below)(NAME(largest)(c->dt, steps) * steepest, BOUND);
}

/* Takes the largest block of states that is left, `most` at most, and returns its size. */
static inline int NAME(block_of)(int64_t left, int most) {
    int size = most;
    while (size > left) size /= 2;
    return size;
}

/* Numbers of REAL that a thread needs beside the stack. */
static int64_t NAME(scratch_size)(const madzoo_selective_scan_args *a) {
    return a->states * (3 * LANES + 2 * CHUNK);
}

static REAL *NAME(make_scratch)(madzoo_job *job) {
    int64_t bytes = (NAME(scratch_size)(job->args) * (int64_t)sizeof(REAL) + 63) / 64 * 64;
    REAL *scratch = aligned_alloc(64, (size_t)bytes);
    if (!scratch) job->failed = 1;
    return scratch;
}
