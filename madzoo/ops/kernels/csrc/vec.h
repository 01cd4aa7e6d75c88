/* One vector of LANES numbers of type REAL and the few functions the kernels need of it.
 *
 * Included several times, once for every pair of instruction set and REAL; NAME() keeps the copies apart. Written with
 * the vector extensions that GCC and Clang share; intrinsics appear only where these have no word for it. Expects the
 * macros REAL_IS_DOUBLE (0 or 1), VECTOR_BYTES (64, 32, 16) and ISA (a suffix).
 */

#undef SHUFFLE
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* GCC knows the other word from version 12 on only */
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (NAME(bits)){__VA_ARGS__})
#endif

#undef REAL
#undef INTEGER
#undef LANES
#undef VEC
#undef NAME
#undef LOAD
#undef STORE
#undef SET

#define MADZOO_PASTE3(a, b, c) a##_##b##_##c
#define MADZOO_PASTE(a, b, c) MADZOO_PASTE3(a, b, c)

#if REAL_IS_DOUBLE
#define REAL double
#define INTEGER int64_t
#define LANES (VECTOR_BYTES / 8)
#define NAME(x) MADZOO_PASTE(x, f64, ISA)
#else
#define REAL float
#define INTEGER int32_t
#define LANES (VECTOR_BYTES / 4)
#define NAME(x) MADZOO_PASTE(x, f32, ISA)
#endif

#define VEC NAME(vec)
#define SET NAME(set)

typedef REAL VEC __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL NAME(loose) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(bits) __attribute__((vector_size(VECTOR_BYTES)));

#define LOAD(p) ((VEC)(*(const NAME(loose) *)(p)))
#define STORE(p, v) (*(NAME(loose) *)(p) = (NAME(loose))(v))

static inline VEC SET(REAL x) { return (VEC){0} + x; }

static inline VEC NAME(select)(NAME(bits) mask, VEC a, VEC b) {
    return (VEC)(((NAME(bits))a & mask) | ((NAME(bits))b & ~mask));
}

/* 2^f on [-1/2, 1/2] as 1 + f q(f): exact at 0, so that a state that barely decays does not drift.
 * Minimax in the relative error: 9e-8 in float, 4e-18 in double. */
static inline VEC NAME(exp2_fraction)(VEC f) {
#if REAL_IS_DOUBLE
    VEC q = SET(4.4347712982003767083e-10);
    q = q * f + SET(7.0737832485031332991e-9);
    q = q * f + SET(1.0178199571842137974e-7);
    q = q * f + SET(1.3215435282308487999e-6);
    q = q * f + SET(1.5252733493127489347e-5);
    q = q * f + SET(1.540353045711209086e-4);
    q = q * f + SET(1.3333558146774620517e-3);
    q = q * f + SET(9.6181291075942001e-3);
    q = q * f + SET(5.5504108664820083227e-2);
    q = q * f + SET(0.2402265069591013126);
    q = q * f + SET(0.69314718055994532581);
#else
    VEC q = SET(1.326472714e-3f);
    q = q * f + SET(9.6715126399e-3f);
    q = q * f + SET(5.5507337434e-2f);
    q = q * f + SET(0.24022242085f);
    q = q * f + SET(0.69314697760f);
#endif
    return q * f + SET(1);
}

/* 2^(a b); 0 below the normal numbers. */
static inline VEC NAME(exp2_product)(VEC a, VEC b) {
#if VECTOR_BYTES == 64 && REAL_IS_DOUBLE
    VEC x = a * b, f = (VEC)_mm512_reduce_pd((__m512d)x, 0); /* x less the nearest integer; 0 for huge ones */
    return (VEC)_mm512_scalef_pd((__m512d)NAME(exp2_fraction)(f), (__m512d)(x - f));
#elif VECTOR_BYTES == 64
    VEC x = a * b, f = (VEC)_mm512_reduce_ps((__m512)x, 0);
    return (VEC)_mm512_scalef_ps((__m512)NAME(exp2_fraction)(f), (__m512)(x - f));
#else
    /* Adding 1.5 * 2^(digits - 1) rounds to an integer and leaves it in the low bits, from where it is added to the
     * exponent. The clamp keeps the exponent in range; a NaN passes it. */
    const REAL magic = REAL_IS_DOUBLE ? 6755399441055744.0 : 12582912.0f;
    const int digits = REAL_IS_DOUBLE ? 52 : 23;
    const REAL top = REAL_IS_DOUBLE ? 1023 : 127;
    VEC x = a * b;
    x = NAME(select)((NAME(bits))(x < SET(1 - top)), SET(1 - top), x);
    x = NAME(select)((NAME(bits))(x > SET(top)), SET(top), x);
    VEC shifted = x + SET(magic);
    VEC f = x - (shifted - SET(magic));
    return (VEC)((NAME(bits))NAME(exp2_fraction)(f) + ((NAME(bits))shifted << digits));
#endif
}

/* 2^(a b) where |a b| < BOUND, with fewer instructions: sixteenths by a table in a register, the rest, at most 1/32, by a
 * polynomial that is exact at 0. The table holds 2^(j/16) less the j that the shift below adds to its mantissa. */
#undef BOUND
#define BOUND 120
#if VECTOR_BYTES == 64 && !REAL_IS_DOUBLE
static const INTEGER NAME(sixteenths)[16] = {
    0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
    0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d,
};

static inline VEC NAME(exp2_bounded)(VEC a, VEC b) {
    const VEC magic = SET(786432.0f); /* 1.5 * 2^19: adding it rounds to sixteenths and leaves them in the low bits */
    VEC shifted = (VEC)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)magic);
    VEC f = (VEC)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)(shifted - magic));
    VEC q = SET(5.55041e-2f);
    q = q * f + SET(0.2402265069f);
    q = q * f + SET(0.6931471806f);
    q = q * f + SET(1);
    __m512i table = _mm512_loadu_si512(NAME(sixteenths)), steps = (__m512i)shifted;
    __m512i power = _mm512_add_epi32(_mm512_permutexvar_epi32(steps, table), _mm512_slli_epi32(steps, 19));
    return q * (VEC)power;
}

static inline int NAME(all_below)(VEC x, REAL bound) {
    return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(bound), _CMP_LT_OQ) == 0xffff;
}
#else
static inline VEC NAME(exp2_bounded)(VEC a, VEC b) { return NAME(exp2_product)(a, b); }

static inline int NAME(all_below)(VEC x, REAL bound) { return (void)x, (void)bound, 0; }
#endif

static inline VEC NAME(exp)(VEC x) { return NAME(exp2_product)(x, SET((REAL)1.4426950408889634074)); }

/* log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e)): accurate relative to the result, however small e is. */
static inline VEC NAME(log1p_unit)(VEC e) {
    VEC s = e / (e + SET(2)), w = s * s;
#if REAL_IS_DOUBLE
    VEC p = SET(0.088985027329802076399);
    p = p * w + SET(0.04936339463952991618);
    p = p * w + SET(0.067964962884096029102);
    p = p * w + SET(0.076817435166845166008);
    p = p * w + SET(0.090914360826916383983);
    p = p * w + SET(0.11111095193426341379);
    p = p * w + SET(0.14285714560940589767);
    p = p * w + SET(0.19999999997588651705);
    p = p * w + SET(0.33333333333341516053);
#else
    VEC p = SET(0.14089167552f);
    p = p * w + SET(0.1398030135f);
    p = p * w + SET(0.20012455143f);
    p = p * w + SET(0.33333157341f);
#endif
    return (SET(2) * s) * (p * w + SET(1));
}

static inline VEC NAME(absolute)(VEC x) { return NAME(select)((NAME(bits))(x < SET(0)), -x, x); }

/* log(1 + e^x), and its derivative where one is asked for; x itself above 20, where torch does so. */
static inline __attribute__((always_inline)) VEC NAME(softplus)(VEC x, VEC *slope) {
    VEC e = NAME(exp)(-NAME(absolute)(x));
    NAME(bits) positive = (NAME(bits))(x > SET(0)), linear = (NAME(bits))(x > SET(20));
    if (slope) {
        VEC inverse = SET(1) / (e + SET(1));
        *slope = NAME(select)(linear, SET(1), NAME(select)(positive, inverse, e * inverse));
    }
    VEC y = NAME(log1p_unit)(e) + NAME(select)(positive, x, SET(0));
    return NAME(select)(linear, x, y);
}

static inline VEC NAME(sigmoid)(VEC x) { return SET(1) / (NAME(exp)(-x) + SET(1)); }

/* a0 b0 a1 b1 ... of the lower and of the upper halves. Rounds of these transpose a square of vectors, and, when the two
 * results are added, sum each vector over its lanes. */
#if LANES == 16
#define ORDER_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ORDER_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define ORDER_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ORDER_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define ORDER_LOW 0, 4, 1, 5
#define ORDER_HIGH 2, 6, 3, 7
#else
#define ORDER_LOW 0, 2
#define ORDER_HIGH 1, 3
#endif

static inline VEC NAME(weave_low)(VEC a, VEC b) { return SHUFFLE(a, b, ORDER_LOW); }
static inline VEC NAME(weave_high)(VEC a, VEC b) { return SHUFFLE(a, b, ORDER_HIGH); }

#undef ORDER_LOW
#undef ORDER_HIGH

static inline void NAME(transpose)(VEC *rows) {
    for (int round = 1; round < LANES; round *= 2) {
        VEC woven[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            woven[2 * i] = NAME(weave_low)(rows[i], rows[i + LANES / 2]);
            woven[2 * i + 1] = NAME(weave_high)(rows[i], rows[i + LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) rows[i] = woven[i];
    }
}

/* Returns the sums over the lanes of up to LANES rows, count = 1, 2, 4 ... of them: lane i, and every lane i + count, holds
 * a part of the sum of rows[i], all of it when count is LANES. Overwrites the rows. */
static inline __attribute__((always_inline)) VEC NAME(lane_sums)(VEC *rows, const int count) {
#pragma GCC unroll 4
    for (int half = count / 2; half >= 1; half /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < half; i++)
            rows[i] = NAME(weave_low)(rows[i], rows[i + half]) + NAME(weave_high)(rows[i], rows[i + half]);
    return rows[0];
}
