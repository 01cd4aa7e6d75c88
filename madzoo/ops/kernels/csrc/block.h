/* Moves a block of a tensor, LANES channels by up to MADZOO_CHUNK positions, between memory of any layout and vectors
 * whose lanes are channels. Missing lanes read as zero and are not written. Included after vec.h. */

static inline int NAME(can_transpose)(int64_t position, int lanes) {
    return (position == 1 || position == -1) && lanes == LANES;
}

static inline void NAME(load_block)(VEC *rows, const REAL *from, int64_t channel, int64_t position, int lanes, int steps) {
    int t = 0;
    if (channel == 1 && lanes == LANES) {
        for (; t < steps; t++) rows[t] = LOAD(from + t * position);
        return;
    }
    for (; NAME(can_transpose)(position, lanes) && t + LANES <= steps; t += LANES) {
        const REAL *corner = position == 1 ? from + t : from - t - (LANES - 1);
        VEC square[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) square[i] = LOAD(corner + i * channel);
        NAME(transpose)(square);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) rows[t + (position == 1 ? i : LANES - 1 - i)] = square[i];
    }
    for (; t < steps; t++) {
        rows[t] = SET(0);
        for (int i = 0; i < lanes; i++) rows[t][i] = from[i * channel + t * position];
    }
}

static inline void NAME(store_block)(REAL *to, const VEC *rows, int64_t channel, int64_t position, int lanes, int steps) {
    int t = 0;
    if (channel == 1 && lanes == LANES) {
        for (; t < steps; t++) STORE(to + t * position, rows[t]);
        return;
    }
    for (; NAME(can_transpose)(position, lanes) && t + LANES <= steps; t += LANES) {
        REAL *corner = position == 1 ? to + t : to - t - (LANES - 1);
        VEC square[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) square[i] = rows[t + (position == 1 ? i : LANES - 1 - i)];
        NAME(transpose)(square);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) STORE(corner + i * channel, square[i]);
    }
    for (; t < steps; t++)
        for (int i = 0; i < lanes; i++) to[i * channel + t * position] = rows[t][i];
}

/* Asks for a block of CHUNK positions before it is needed: its rows lie too far apart for the processor to foresee. */
static inline void NAME(fetch_block)(const REAL *from, int64_t channel, int64_t position, int lanes) {
    if (channel == 1)
        for (int t = 0; t < MADZOO_CHUNK; t++) __builtin_prefetch(from + t * position);
    else
        for (int i = 0; i < lanes; i++) __builtin_prefetch(from + i * channel);
}
