/* What the library exports: its version, the choice of an instruction set at run time, and the kernels' entries. */

#include "table.h"
#include "team.h"

static int chosen = -1;

int madzoo_abi_version(void) { return MADZOO_ABI_VERSION; }

int madzoo_best_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return MADZOO_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return MADZOO_AVX2;
#endif
    return MADZOO_BASELINE;
}

int madzoo_set_isa(int isa) {
    if (isa < MADZOO_BASELINE || isa > madzoo_best_isa()) return -1;
    chosen = isa;
    return 0;
}

const madzoo_table *madzoo_tables(void) {
    if (chosen < 0) chosen = madzoo_best_isa();
#if defined(__x86_64__)
    if (chosen == MADZOO_AVX512) return &madzoo_table_avx512;
    if (chosen == MADZOO_AVX2) return &madzoo_table_avx2;
#endif
    return &madzoo_table_baseline;
}

static int run(void (*worker)(void *), const void *args, int threads) {
    madzoo_job job = {args, 0, 0};
    madzoo_run_team(worker, &job, threads);
    return job.failed;
}

/* --- the selective scan -------------------------------------------------------------------------------------------- */

static void turn_sequence(madzoo_sequence *x, int64_t length, int64_t size) {
    if (x->data) x->data += (length - 1) * x->position * size;
    x->position = -x->position;
}

static void turn_vectors(madzoo_vectors *x, int64_t length, int64_t size) {
    if (x->data) x->data += (length - 1) * x->position * size;
    x->position = -x->position;
}

/* Against time the kernels run the same way on memory read backwards. */
static madzoo_selective_scan_args in_time(const madzoo_selective_scan_args *args) {
    madzoo_selective_scan_args a = *args;
    int64_t size = a.is_double ? 8 : 4;
    if (!a.reverse) return a;
    madzoo_sequence *sequences[] = {&a.u, &a.delta, &a.z, &a.out, &a.grad_out, &a.grad_u, &a.grad_delta, &a.grad_z};
    madzoo_vectors *vectors[] = {&a.B, &a.C, &a.grad_B, &a.grad_C};
    for (int i = 0; i < 8; i++) turn_sequence(sequences[i], a.length, size);
    for (int i = 0; i < 4; i++) turn_vectors(vectors[i], a.length, size);
    return a;
}

int madzoo_selective_scan_forward(const madzoo_selective_scan_args *args) {
    madzoo_selective_scan_args a = in_time(args);
    return run(madzoo_tables()->scan[!!a.is_double], &a, a.threads);
}

int madzoo_selective_scan_backward(const madzoo_selective_scan_args *args) {
    madzoo_selective_scan_args a = in_time(args);
    return run(madzoo_tables()->unscan[!!a.is_double], &a, a.threads);
}

/* --- the short convolution ---------------------------------------------------------------------------------------- */

static madzoo_conv1d_args conv_in_time(const madzoo_conv1d_args *args) {
    madzoo_conv1d_args a = *args;
    madzoo_sequence *sequences[] = {&a.x, &a.out, &a.grad_out, &a.grad_x};
    for (int i = 0; a.reverse && i < 4; i++) turn_sequence(sequences[i], a.length, a.is_double ? 8 : 4);
    return a;
}

int madzoo_conv1d_forward(const madzoo_conv1d_args *args) {
    madzoo_conv1d_args a = conv_in_time(args);
    return run(madzoo_tables()->conv[!!a.is_double], &a, a.threads);
}

int madzoo_conv1d_backward(const madzoo_conv1d_args *args) {
    madzoo_conv1d_args a = conv_in_time(args);
    return run(madzoo_tables()->unconv[!!a.is_double], &a, a.threads);
}

/* --- the diagonal scan -------------------------------------------------------------------------------------------- */

static madzoo_diagonal_scan_args diagonal_in_time(const madzoo_diagonal_scan_args *args) {
    madzoo_diagonal_scan_args a = *args;
    madzoo_sequence *sequences[] = {&a.u, &a.out, &a.grad_out, &a.grad_u};
    for (int i = 0; a.reverse && i < 4; i++) turn_sequence(sequences[i], a.length, a.is_double ? 8 : 4);
    return a;
}

int madzoo_diagonal_scan_forward(const madzoo_diagonal_scan_args *args) {
    madzoo_diagonal_scan_args a = diagonal_in_time(args);
    return run(madzoo_tables()->diagonal[!!a.is_double], &a, a.threads);
}

int madzoo_diagonal_scan_backward(const madzoo_diagonal_scan_args *args) {
    madzoo_diagonal_scan_args a = diagonal_in_time(args);
    return run(madzoo_tables()->undiagonal[!!a.is_double], &a, a.threads);
}

/* --- the gated mean ------------------------------------------------------------------------------------------------ */

int madzoo_gated_mean_forward(const madzoo_gate_args *args) {
    return run(madzoo_tables()->gate[!!args->is_double], args, args->threads);
}

int madzoo_gated_mean_backward(const madzoo_gate_args *args) {
    return run(madzoo_tables()->ungate[!!args->is_double], args, args->threads);
}

/* --- the root mean square norm -------------------------------------------------------------------------------------- */

int madzoo_rms_norm_forward(const madzoo_rms_norm_args *args) {
    return run(madzoo_tables()->norm[!!args->is_double], args, args->threads);
}

int madzoo_rms_norm_backward(const madzoo_rms_norm_args *args) {
    return run(madzoo_tables()->unnorm[!!args->is_double], args, args->threads);
}

/* --- the limits ---------------------------------------------------------------------------------------------------- */

double madzoo_limit_state_update(int64_t updates, int is_double) {
    return madzoo_tables()->limit[!!is_double](updates);
}

double madzoo_limit_exp(int64_t count, int is_double) { return madzoo_tables()->limit_exp[!!is_double](count); }
