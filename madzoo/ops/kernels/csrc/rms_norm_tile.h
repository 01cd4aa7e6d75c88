/* The root mean square norm of rows, x / sqrt(mean(x^2) + eps) * weight, and its derivative, each in one pass over memory.
 * Included after vec.h. */

/* The sum over the width of x y w, or of x y where w is NULL. */
static inline __attribute__((always_inline)) REAL NAME(row_product)(const REAL *x, const REAL *y, const REAL *w,
                                                                    int64_t width) {
    VEC parts[4] = {SET(0), SET(0), SET(0), SET(0)};
    int64_t i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            VEC product = LOAD(x + i + j * LANES) * LOAD(y + i + j * LANES);
            parts[j] += w ? product * LOAD(w + i + j * LANES) : product;
        }
    VEC all = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    REAL sum = 0;
    for (int j = 0; j < LANES; j++) sum += all[j];
    for (; i < width; i++) sum += x[i] * y[i] * (w ? w[i] : (REAL)1);
    return sum;
}

static inline REAL NAME(row_scale)(const REAL *x, int64_t width, double eps) {
    REAL square = NAME(row_product)(x, x, 0, width) / (REAL)width + (REAL)eps;
    return (REAL)1 / (REAL_IS_DOUBLE ? (REAL)__builtin_sqrt(square) : (REAL)__builtin_sqrtf((float)square));
}

static void NAME(norm_row)(const madzoo_rms_norm_args *a, int64_t row) {
    const REAL *x = (const REAL *)a->x + row * a->width, *w = a->weight;
    REAL *y = (REAL *)a->out + row * a->width, scale = NAME(row_scale)(x, a->width, a->eps);
    int64_t i = 0;
    for (; i + LANES <= a->width; i += LANES) STORE(y + i, LOAD(x + i) * SET(scale) * LOAD(w + i));
    for (; i < a->width; i++) y[i] = x[i] * scale * w[i];
}

/* With s = 1 / sqrt(mean(x^2) + eps): dL/dx = s g w - s^3 mean(g w x) x, and dL/dw gathers g x s. */
static void NAME(unnorm_row)(const madzoo_rms_norm_args *a, int64_t row, REAL *grad_w) {
    const REAL *x = (const REAL *)a->x + row * a->width, *g = (const REAL *)a->grad_out + row * a->width, *w = a->weight;
    REAL *grad_x = (REAL *)a->grad_x + row * a->width, s = NAME(row_scale)(x, a->width, a->eps);
    REAL back = s * s * s * NAME(row_product)(x, g, w, a->width) / (REAL)a->width;
    int64_t i = 0;
    for (; i + LANES <= a->width; i += LANES) {
        VEC scaled = LOAD(g + i) * SET(s), along = LOAD(x + i);
        STORE(grad_x + i, scaled * LOAD(w + i) - SET(back) * along);
        STORE(grad_w + i, LOAD(grad_w + i) + scaled * along);
    }
    for (; i < a->width; i++) {
        grad_x[i] = g[i] * s * w[i] - back * x[i];
        grad_w[i] += g[i] * s * x[i];
    }
}

/* A unit is MADZOO_PANEL rows, whatever the number of threads: the panels' sums are added in one order. */
static inline __attribute__((always_inline)) void NAME(norm_work)(const int back, madzoo_job *job) {
    const madzoo_rms_norm_args *a = job->args;
    int64_t panel;
    while ((panel = madzoo_next(job)) * MADZOO_PANEL < a->rows) {
        int64_t start = panel * MADZOO_PANEL, end = start + MADZOO_PANEL < a->rows ? start + MADZOO_PANEL : a->rows;
        for (int64_t row = start; row < end; row++)
            if (back)
                NAME(unnorm_row)(a, row, (REAL *)a->sums + panel * a->width);
            else
                NAME(norm_row)(a, row);
    }
}

static void NAME(norm_worker)(void *job) { NAME(norm_work)(0, job); }

static void NAME(unnorm_worker)(void *job) { NAME(norm_work)(1, job); }
