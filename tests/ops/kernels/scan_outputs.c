/* Runs the selective scan forward and backward on fixed inputs in many shapes, and writes every result to standard
 * output as doubles. Compiled for two processors, or by two compilers, it shows whether both compute the same. The
 * argument is the number of an instruction set; without one the baseline kernels run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "madzoo_kernels.h"

typedef struct {
    int64_t batch, channels, groups, length, states;
    int is_double, channel_last, reverse, softplus, optional, threads;
} problem;

static const problem problems[] = {
    {2, 33, 1, 37, 16, 0, 1, 0, 1, 1, 1}, {2, 33, 1, 37, 16, 1, 1, 0, 1, 1, 1}, {1, 48, 3, 50, 5, 0, 0, 1, 1, 1, 2},
    {1, 48, 3, 50, 5, 1, 0, 1, 0, 1, 2},  {3, 7, 1, 1, 1, 0, 1, 0, 0, 0, 1},    {1, 16, 2, 100, 64, 0, 1, 1, 1, 1, 2},
    {1, 1, 1, 19, 4, 0, 0, 0, 1, 0, 1},   {2, 20, 2, 129, 8, 0, 1, 0, 1, 1, 2},
};

static uint64_t seed;

static double uniform(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 40) / (1 << 24);
}

static void set(void *data, int64_t i, double x, int is_double) {
    if (is_double)
        ((double *)data)[i] = x;
    else
        ((float *)data)[i] = (float)x;
}

static double get(const void *data, int64_t i, int is_double) {
    return is_double ? ((const double *)data)[i] : ((const float *)data)[i];
}

static void *zeros(int64_t count) {
    void *data = calloc((size_t)count, sizeof(double));
    if (!data) abort();
    return data;
}

static void *numbers(int64_t count, double low, double high, int is_double) {
    void *data = zeros(count);
    for (int64_t i = 0; i < count; i++) set(data, i, low + (high - low) * uniform(), is_double);
    return data;
}

static void write(const char *name, const void *data, int64_t count, int is_double) {
    double head[2] = {(double)name[0], (double)count};
    fwrite(head, sizeof(double), 2, stdout);
    for (int64_t i = 0; i < count; i++) {
        double x = get(data, i, is_double);
        fwrite(&x, sizeof(double), 1, stdout);
    }
}

static madzoo_sequence sequence(void *data, const problem *p) {
    int64_t size = p->channels * p->length;
    if (p->channel_last) return (madzoo_sequence){data, size, 1, p->channels};
    return (madzoo_sequence){data, size, p->length, 1};
}

/* [B, G, L, N] in memory, as the sums of the gradients lie. */
static madzoo_vectors vectors(void *data, const problem *p) {
    int64_t size = p->length * p->states;
    return (madzoo_vectors){data, p->groups * size, size, 1, p->states};
}

static void solve(const problem *p) {
    const int d = p->is_double;
    const int64_t size = p->batch * p->channels * p->length, rows = p->channels * p->states;
    const int64_t inputs = p->batch * p->groups * p->length * p->states;
    const int64_t width = (p->channels / p->groups + 15) / 16 * 16;
    const int64_t chunks = (p->length + MADZOO_CHUNK - 1) / MADZOO_CHUNK;
    madzoo_selective_scan_args a = {0};
    a.batch = p->batch, a.channels = p->channels, a.groups = p->groups, a.length = p->length, a.states = p->states;
    a.slices = 1, a.is_double = d, a.reverse = p->reverse, a.softplus = p->softplus, a.threads = p->threads;
    a.slice_stride = inputs;
    a.u = sequence(numbers(size, -2, 2, d), p);
    a.delta = sequence(p->softplus ? numbers(size, -5, 2, d) : numbers(size, 1e-4, 1, d), p);
    a.out = sequence(zeros(size), p);
    a.B = vectors(numbers(inputs, -1, 1, d), p);
    a.C = vectors(numbers(inputs, -1, 1, d), p);
    a.A = numbers(rows, -9, -0.01, d);
    if (p->optional) {
        a.z = sequence(numbers(size, -3, 3, d), p);
        a.D = numbers(p->channels, -1, 1, d);
        a.delta_bias = numbers(p->channels, 0, 0.5, d);
        a.grad_z = sequence(zeros(size), p);
        a.grad_D = zeros(p->batch * p->channels);
        a.grad_bias = zeros(p->batch * p->channels);
    }
    a.last_state = zeros(p->batch * rows);
    a.checkpoints = zeros(p->batch * chunks * p->states * p->groups * width);
    a.grad_out = sequence(numbers(size, -1, 1, d), p);
    a.grad_last_state = numbers(p->batch * rows, -1, 1, d);
    a.grad_u = sequence(zeros(size), p), a.grad_delta = sequence(zeros(size), p);
    a.grad_A = zeros(p->batch * rows);
    a.grad_B = vectors(zeros(inputs), p), a.grad_C = vectors(zeros(inputs), p);
    if (madzoo_selective_scan_forward(&a) || madzoo_selective_scan_backward(&a)) exit(3);
    write("y", a.out.data, size, d);
    write("h", a.last_state, p->batch * rows, d);
    write("u", a.grad_u.data, size, d);
    write("d", a.grad_delta.data, size, d);
    write("A", a.grad_A, p->batch * rows, d);
    write("B", a.grad_B.data, inputs, d);
    write("C", a.grad_C.data, inputs, d);
    if (p->optional) {
        write("z", a.grad_z.data, size, d);
        write("D", a.grad_D, p->batch * p->channels, d);
        write("b", a.grad_bias, p->batch * p->channels, d);
    }
}

int main(int count, char **words) {
    if (madzoo_set_isa(count > 1 ? atoi(words[1]) : MADZOO_BASELINE)) return 2;
    for (size_t i = 0; i < sizeof(problems) / sizeof(problems[0]); i++) {
        seed = i;
        solve(&problems[i]);
    }
    return 0;
}
