/* A short causal convolution per channel with bias and SiLU, forward and backward. Included after scan_chunk.h.
 *
 * A unit of work is a panel: MADZOO_PANEL positions of one batch element, all channels. It is cut into blocks of LANES
 * channels by MADZOO_CHUNK positions, taken in the order in which memory lies. The backward goes from the last position
 * to the first: grad_x needs the K - 1 gradients after it, which wait in `carry`.
 */

#define CHUNK MADZOO_CHUNK
#define MOST_TAPS MADZOO_MOST_TAPS

/* The blocks of one panel. */
typedef struct {
    const madzoo_conv1d_args *args;
    int64_t batch, begin, end;
    VEC *taps;         /* [tiles, K + 1]: taps, the oldest first, and the bias */
    VEC *carry, *sums; /* [tiles, K - 1] gradients before the SiLU; [tiles, K + 1] sums for taps and bias */
} NAME(panel);

static inline int64_t NAME(conv_tiles)(const madzoo_conv1d_args *a) { return (a->channels + LANES - 1) / LANES; }

static inline NAME(place) NAME(conv_place)(const NAME(panel) * w, int64_t tile) {
    int64_t left = w->args->channels - tile * LANES;
    return (NAME(place)){w->batch, 0, tile * LANES, left < LANES ? (int)left : LANES};
}

/* The positions t - (K - 1) ... t + steps - 1; zero before the first. */
static inline void NAME(load_window)(VEC *x, const int K, const madzoo_conv1d_args *a, const NAME(place) * p, int64_t t,
                                     int steps) {
    int missing = t < K - 1 ? (int)(K - 1 - t) : 0;
    for (int i = 0; i < missing; i++) x[i] = SET(0);
    NAME(load_block)(x + missing, NAME(at)(&a->x, p, t - (K - 1) + missing), a->x.channel, a->x.position, p->lanes,
                     K - 1 + steps - missing);
}

static inline __attribute__((always_inline)) VEC NAME(tap_sum)(const int K, const VEC *taps, const VEC *x) {
    VEC y = taps[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; k++) y += taps[k] * x[k];
    return y;
}

static inline __attribute__((always_inline)) void NAME(convolve)(const int K, const NAME(panel) * w, int64_t tile,
                                                                 int64_t t, int steps) {
    const madzoo_conv1d_args *a = w->args;
    const NAME(place) p = NAME(conv_place)(w, tile);
    const VEC *taps = w->taps + tile * (K + 1);
    VEC x[MOST_TAPS - 1 + CHUNK], y[CHUNK];
    NAME(load_window)(x, K, a, &p, t, steps);
    if (a->silu)
        for (int i = 0; i < steps; i++) {
            VEC pre = NAME(tap_sum)(K, taps, x + i);
            y[i] = pre / (NAME(exp)(-pre) + SET(1));
        }
    else
        for (int i = 0; i < steps; i++) y[i] = NAME(tap_sum)(K, taps, x + i);
    NAME(store_block)(NAME(at)(&a->out, &p, t), y, a->out.channel, a->out.position, p.lanes, steps);
}

/* With `ahead`, only the gradients before the SiLU are computed, of the positions just after a panel. */
static inline __attribute__((always_inline)) void NAME(unconvolve)(const int K, const NAME(panel) * w, int64_t tile,
                                                                   int64_t t, int steps, int ahead) {
    const madzoo_conv1d_args *a = w->args;
    const NAME(place) p = NAME(conv_place)(w, tile);
    const VEC *taps = w->taps + tile * (K + 1);
    VEC *carry = w->carry + tile * (K - 1), *sums = w->sums + tile * (K + 1);
    VEC x[MOST_TAPS - 1 + CHUNK], g[MOST_TAPS - 1 + CHUNK];
    NAME(load_window)(x, K, a, &p, t, steps);
    NAME(load_block)(g, NAME(at)(&a->grad_out, &p, t), a->grad_out.channel, a->grad_out.position, p.lanes, steps);
    for (int i = 0; a->silu && i < steps; i++) {
        VEC pre = NAME(tap_sum)(K, taps, x + i), gate = NAME(sigmoid)(pre);
        g[i] *= gate * (SET(1) + pre * (SET(1) - gate));
    }
    for (int k = 0; k < K - 1; k++) g[steps + k] = ahead ? SET(0) : carry[k];
    for (int k = 0; k < K - 1; k++) carry[k] = g[k];
    if (ahead) return;
    VEC sum[MOST_TAPS + 1], grad_x[CHUNK];
#pragma GCC unroll 4
    for (int k = 0; k <= K; k++) sum[k] = sums[k];
    for (int i = 0; i < steps; i++) {
        VEC grad = SET(0);
#pragma GCC unroll 4
        for (int k = 0; k < K; k++) {
            sum[k] += g[i] * x[i + k];
            grad += taps[k] * g[i + K - 1 - k];
        }
        sum[K] += g[i];
        grad_x[i] = grad;
    }
#pragma GCC unroll 4
    for (int k = 0; k <= K; k++) sums[k] = sum[k];
    NAME(store_block)(NAME(at)(&a->grad_x, &p, t), grad_x, a->grad_x.channel, a->grad_x.position, p.lanes, steps);
}

/* --- one panel ---------------------------------------------------------------------------------------------------- */

static void NAME(convolve_taps)(const NAME(panel) * w, int64_t tile, int64_t t, int steps) {
    switch (w->args->taps) {
        case 3: NAME(convolve)(3, w, tile, t, steps); break;
        case 4: NAME(convolve)(4, w, tile, t, steps); break;
        default: NAME(convolve)((int)w->args->taps, w, tile, t, steps);
    }
}

static void NAME(unconvolve_taps)(const NAME(panel) * w, int64_t tile, int64_t t, int steps, int ahead) {
    switch (w->args->taps) {
        case 3: NAME(unconvolve)(3, w, tile, t, steps, ahead); break;
        case 4: NAME(unconvolve)(4, w, tile, t, steps, ahead); break;
        default: NAME(unconvolve)((int)w->args->taps, w, tile, t, steps, ahead);
    }
}

static void NAME(convolve_panel)(const NAME(panel) * w) {
    int64_t tiles = NAME(conv_tiles)(w->args), blocks = (w->end - w->begin + CHUNK - 1) / CHUNK;
    int by_rows = w->args->x.channel == 1;
    for (int64_t outer = 0; outer < (by_rows ? blocks : tiles); outer++)
        for (int64_t inner = 0; inner < (by_rows ? tiles : blocks); inner++) {
            int64_t t = w->begin + (by_rows ? outer : inner) * CHUNK, left = w->end - t;
            NAME(convolve_taps)(w, by_rows ? inner : outer, t, left < CHUNK ? (int)left : CHUNK);
        }
}

static void NAME(unconvolve_panel)(const NAME(panel) * w, REAL *sums) {
    const madzoo_conv1d_args *a = w->args;
    int64_t tiles = NAME(conv_tiles)(a), blocks = (w->end - w->begin + CHUNK - 1) / CHUNK, K = a->taps;
    int64_t after = a->length - w->end;
    int by_rows = a->x.channel == 1;
    for (int64_t i = 0; i < tiles * (K + 1); i++) w->sums[i] = SET(0);
    for (int64_t tile = 0; K > 1 && tile < tiles; tile++)
        NAME(unconvolve_taps)(w, tile, w->end, (int)(after < K - 1 ? after : K - 1), 1);
    for (int64_t outer = 0; outer < (by_rows ? blocks : tiles); outer++)
        for (int64_t inner = 0; inner < (by_rows ? tiles : blocks); inner++) {
            int64_t t = w->begin + (blocks - 1 - (by_rows ? outer : inner)) * CHUNK, left = w->end - t;
            NAME(unconvolve_taps)(w, by_rows ? inner : outer, t, left < CHUNK ? (int)left : CHUNK, 0);
        }
    for (int64_t tile = 0; tile < tiles; tile++) {
        NAME(place) p = NAME(conv_place)(w, tile);
        for (int64_t k = 0; k <= K; k++)
            for (int i = 0; i < p.lanes; i++) sums[k * a->channels + p.channel + i] = w->sums[tile * (K + 1) + k][i];
    }
}

/* --- sharing out -------------------------------------------------------------------------------------------------- */

static void NAME(pack_taps)(const madzoo_conv1d_args *a, VEC *taps) {
    for (int64_t channel = 0; channel < NAME(conv_tiles)(a) * LANES; channel++)
        for (int64_t k = 0; k <= a->taps; k++) {
            const REAL *weight = (const REAL *)a->weight + channel * a->weight_channel + k * a->weight_tap;
            REAL bias = a->bias && channel < a->channels ? ((const REAL *)a->bias)[channel] : 0;
            taps[channel / LANES * (a->taps + 1) + k][channel % LANES] =
                k == a->taps ? bias : channel < a->channels ? *weight : 0;
        }
}

/* Both directions; what a thread holds beside the stack is 3 K numbers per channel. */
static void NAME(share_panels)(madzoo_job *job, int backward) {
    const madzoo_conv1d_args *a = job->args;
    int64_t panels = (a->length + MADZOO_PANEL - 1) / MADZOO_PANEL, unit, vectors = NAME(conv_tiles)(a) * (3 * a->taps + 1);
    VEC *scratch = aligned_alloc(64, ((size_t)vectors * sizeof(VEC) + 63) / 64 * 64);
    if (!scratch) {
        job->failed = 1;
        return;
    }
    uint64_t mode = madzoo_flush_denormals();
    NAME(panel) w = {.args = a, .taps = scratch};
    w.sums = w.taps + NAME(conv_tiles)(a) * (a->taps + 1), w.carry = w.sums + NAME(conv_tiles)(a) * (a->taps + 1);
    NAME(pack_taps)(a, w.taps);
    while ((unit = madzoo_next(job)) < a->batch * panels) {
        w.batch = unit / panels, w.begin = unit % panels * MADZOO_PANEL;
        w.end = w.begin + MADZOO_PANEL < a->length ? w.begin + MADZOO_PANEL : a->length;
        if (backward)
            NAME(unconvolve_panel)(&w, (REAL *)a->sums + unit * (a->taps + 1) * a->channels);
        else
            NAME(convolve_panel)(&w);
    }
    madzoo_restore_denormals(mode);
    free(scratch);
}

static void NAME(conv_worker)(void *job) { NAME(share_panels)(job, 0); }
static void NAME(unconv_worker)(void *job) { NAME(share_panels)(job, 1); }

#undef CHUNK
#undef MOST_TAPS
