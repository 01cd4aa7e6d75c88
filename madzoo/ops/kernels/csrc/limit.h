/* The most state updates a thread can make: everything in registers, no memory, no softplus, no gate. */

static double NAME(limit)(int64_t updates) {
    VEC h[8], A[8], y[4] = {SET(0), SET(0), SET(0), SET(0)}, dt = SET((REAL)0.01), b = SET((REAL)0.5);
    for (int n = 0; n < 8; n++) h[n] = SET(0), A[n] = SET((REAL)-1.5 * (n + 1));
    for (int64_t i = 0; i < updates / (8 * LANES); i++) {
        VEC drive = dt * b;
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) {
            h[n] = h[n] * NAME(exp2_bounded)(dt, A[n]) + drive * b;
            y[n % 4] += h[n] * b;
        }
        __asm__ volatile("" : "+x"(dt), "+x"(b)); /* keeps the loop from being hoisted */
    }
    VEC sum = (y[0] + y[1]) + (y[2] + y[3]);
    return (double)sum[0];
}

/* Likewise, of exponentials alone. */
static double NAME(limit_exp)(int64_t count) {
    VEC x[8], sum[8];
    for (int n = 0; n < 8; n++) x[n] = SET((REAL)-0.1 * (n + 1)), sum[n] = SET(0);
    for (int64_t i = 0; i < count / (8 * LANES); i++)
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) {
            __asm__ volatile("" : "+x"(x[n]));
            sum[n] += NAME(exp)(x[n]);
        }
    return (double)(sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7])[0];
}
