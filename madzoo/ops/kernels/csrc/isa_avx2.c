/* AVX2 and FMA: 16 registers of 8 floats; 8 states of 8 channels stay in registers. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "table.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define ISA avx2
#define VECTOR_BYTES 32
#define STATES_FORWARD 8
#include "kernels_template.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
