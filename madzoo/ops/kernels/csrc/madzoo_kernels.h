/* The C ABI of madzoo's CPU kernels. Plain pointers and strides, counted in elements; no Python, no torch.
 *
 * B batch, D channels, G groups, L length, N states. Every function returns 0, or 1 when memory ran out. */
#ifndef MADZOO_KERNELS_H
#define MADZOO_KERNELS_H

#include <stdint.h>

#define MADZOO_ABI_VERSION 7
#define MADZOO_EXPORT __attribute__((visibility("default")))

/* A state is kept every MADZOO_CHUNK positions; the backward recomputes the ones between. */
#define MADZOO_CHUNK 16

/* One tensor [B, D, L] in any layout; data is NULL when it is absent. */
typedef struct {
    char *data;
    int64_t batch, channel, position;
} madzoo_sequence;

/* One tensor [B, G, N, L] in any layout. */
typedef struct {
    char *data;
    int64_t batch, group, state, position;
} madzoo_vectors;

typedef struct {
    int64_t batch, channels, groups, length, states;
    int64_t slices; /* parts of a group's channels that are summed apart in grad_B and grad_C */
    int32_t is_double, reverse, softplus, threads;
    madzoo_sequence u, delta, z, out;
    madzoo_vectors B, C;
    const void *A, *D, *delta_bias; /* [D, N], [D], [D], contiguous; the last two may be NULL */
    void *last_state;               /* [B, D, N], or NULL */
    void *checkpoints;              /* [B, G * W / 16, ceil(L / MADZOO_CHUNK), N, 16], W = D / G rounded up; or NULL */
    madzoo_sequence grad_out, grad_u, grad_delta, grad_z;
    const void *grad_last_state;          /* [B, D, N], or NULL */
    void *grad_A, *grad_D, *grad_bias;    /* [B, D, N], [B, D], [B, D]; the last two may be NULL */
    madzoo_vectors grad_B, grad_C;        /* one slice of [slices, B, G, L, N], zeroed; slices lie slice_stride apart */
    int64_t slice_stride;
} madzoo_selective_scan_args;

/* Positions of one batch element, or rows of a norm, that are one unit of work; the short convolution's and its most taps. */
#define MADZOO_PANEL 64
#define MADZOO_MOST_TAPS 16

typedef struct {
    int64_t batch, channels, length, taps;
    int32_t is_double, reverse, silu, threads;
    madzoo_sequence x, out;
    const void *weight, *bias; /* [D, K] in any layout; [D], contiguous, or NULL */
    int64_t weight_channel, weight_tap;
    madzoo_sequence grad_out, grad_x;
    void *sums; /* [B, ceil(L / MADZOO_PANEL), K + 1, D]: the gradients of taps and bias by each panel */
} madzoo_conv1d_args;

typedef struct {
    int64_t batch, channels, length;
    int32_t is_double, threads;
    madzoo_sequence x, y, z, out;
    madzoo_sequence grad_out, grad_x, grad_z; /* backward; the gradient of y is that of x */
} madzoo_gate_args;

/* Rows of numbers side by side, without gaps. */
typedef struct {
    int64_t rows, width;
    int32_t is_double, threads;
    double eps;
    const void *x, *weight;
    void *out;
    const void *grad_out; /* backward */
    void *grad_x, *sums;  /* sums: [ceil(rows / MADZOO_PANEL), width], zeroed: the gradient of the weight by each panel */
} madzoo_rms_norm_args;

/* Positions between two kept states of the diagonal scan, and the channels that lie side by side in its matrices. */
#define MADZOO_LONG_CHUNK 32
#define MADZOO_KEPT_LANES 16

typedef struct {
    int64_t batch, channels, length, states; /* states: conjugate pairs, one of each stored */
    int64_t slices;                          /* parts of the batch that are summed apart */
    int32_t is_double, reverse, threads;
    madzoo_sequence u, out;
    const void *poles, *residues;     /* [N, 2, W], W = D rounded up to MADZOO_KEPT_LANES; residues twice c */
    const void *D;                    /* [D], or NULL */
    void *checkpoints;                /* [B, W / 16, ceil(L / MADZOO_LONG_CHUNK), N, 2, 16], or NULL */
    madzoo_sequence grad_out, grad_u;
    void *sums; /* [slices, 4 N + 1, W]: rows [N, 2] of q h, [N, 2] of grad_out h, and grad_out u, over time and slice */
} madzoo_diagonal_scan_args;

typedef enum { MADZOO_BASELINE = 0, MADZOO_AVX2 = 1, MADZOO_AVX512 = 2 } madzoo_isa;

MADZOO_EXPORT int madzoo_abi_version(void);
MADZOO_EXPORT int madzoo_best_isa(void);
MADZOO_EXPORT int madzoo_set_isa(int isa);
MADZOO_EXPORT void madzoo_set_parallel(void *gomp_parallel);

MADZOO_EXPORT int madzoo_selective_scan_forward(const madzoo_selective_scan_args *args);
MADZOO_EXPORT int madzoo_selective_scan_backward(const madzoo_selective_scan_args *args);

MADZOO_EXPORT int madzoo_conv1d_forward(const madzoo_conv1d_args *args);
MADZOO_EXPORT int madzoo_conv1d_backward(const madzoo_conv1d_args *args);

MADZOO_EXPORT int madzoo_diagonal_scan_forward(const madzoo_diagonal_scan_args *args);
MADZOO_EXPORT int madzoo_diagonal_scan_backward(const madzoo_diagonal_scan_args *args);

MADZOO_EXPORT int madzoo_gated_mean_forward(const madzoo_gate_args *args);
MADZOO_EXPORT int madzoo_gated_mean_backward(const madzoo_gate_args *args);

MADZOO_EXPORT int madzoo_rms_norm_forward(const madzoo_rms_norm_args *args);
MADZOO_EXPORT int madzoo_rms_norm_backward(const madzoo_rms_norm_args *args);

/* Runs `updates` state updates (an exponential, two fused multiply-adds and one product each) in registers on this
 * thread: what no selective scan can beat. Returns a checksum, so that nothing is optimised away. */
MADZOO_EXPORT double madzoo_limit_state_update(int64_t updates, int is_double);

/* The same of `count` exponentials alone. */
MADZOO_EXPORT double madzoo_limit_exp(int64_t count, int is_double);

#endif
