#include "team.h"

#include <pthread.h>
#include <stddef.h>

#include "madzoo_kernels.h"

/* The OpenMP runtime that torch has loaded, when it is known: then the kernels share torch's threads. A second pool beside
 * it would have to fight for the cores with torch's workers, which spin for a while after each of their regions. */
typedef void (*gomp_parallel_function)(void (*)(void *), void *, unsigned, unsigned);
static gomp_parallel_function gomp_parallel;

#define MOST_THREADS 256

void madzoo_set_parallel(void *address) { gomp_parallel = (gomp_parallel_function)address; }

typedef struct {
    void (*work)(void *);
    void *job;
} order;

static void *carry_out(void *argument) {
    order *o = argument;
    o->work(o->job);
    return NULL;
}

static void run_own_threads(void (*work)(void *), void *job, int threads) {
    pthread_t started[MOST_THREADS];
    order o = {work, job};
    int count = 0;
    while (count < threads - 1 && count < MOST_THREADS && !pthread_create(&started[count], NULL, carry_out, &o)) count++;
    work(job); /* whatever could not be started is done here */
    for (int i = 0; i < count; i++) pthread_join(started[i], NULL);
}

void madzoo_run_team(void (*work)(void *), void *job, int threads) {
    if (threads <= 1)
        work(job);
    else if (gomp_parallel)
        gomp_parallel(work, job, (unsigned)threads, 0);
    else
        run_own_threads(work, job, threads);
}
