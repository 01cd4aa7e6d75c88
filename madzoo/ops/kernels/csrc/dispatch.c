/* What the library exports: its version, the choice of an instruction set at run time, and the source of threads. */

#define EXPORT __attribute__((visibility("default")))

enum { BASELINE, AVX2, AVX512 };

static int chosen = BASELINE;
static void *parallel = 0;

EXPORT int madzoo_abi_version(void) { return 1; }

/* Returns the best instruction set that this processor and its operating system serve. */
EXPORT int madzoo_best_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return AVX2;
#endif
    return BASELINE;
}

/* Chooses an instruction set; returns 0, or -1 where this processor lacks it. */
EXPORT int madzoo_set_isa(int isa)
{
    if (isa < BASELINE || isa > madzoo_best_isa())
        return -1;
    chosen = isa;
    return 0;
}

/* Takes the address of GOMP_parallel in the OpenMP runtime that torch uses, or NULL: threads of our own. */
EXPORT void madzoo_set_parallel(void *gomp_parallel) { parallel = gomp_parallel; }
