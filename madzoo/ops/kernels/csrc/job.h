/* A piece of work that several threads share: they take numbered units until none is left. */
#ifndef MADZOO_JOB_H
#define MADZOO_JOB_H

#include <stdint.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

typedef struct {
    const void *args;
    int64_t next;
    int failed;
} madzoo_job;

static inline int64_t madzoo_next(madzoo_job *job) { return __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED); }

/* Numbers below the normal ones cost a hundred cycles each and mean nothing here: states that decay become zero. */
static inline uint64_t madzoo_flush_denormals(void) {
#if defined(__SSE2__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1u << 24)));
    return mode;
#else
    return 0;
#endif
}

static inline void madzoo_restore_denormals(uint64_t mode) {
#if defined(__SSE2__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

#endif
