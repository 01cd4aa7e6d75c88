/* AVX-512: 32 registers of 16 floats; 16 states of 16 channels stay in registers. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif

#define ISA avx512
#define VECTOR_BYTES 64
#define STATES_FORWARD 16
#include "kernels_template.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
