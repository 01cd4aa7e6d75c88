/* What every processor has: vectors of 16 bytes, which the compiler turns into its own (SSE2, NEON) or into scalars. */
#include "table.h"

#define ISA baseline
#define VECTOR_BYTES 16
#define STATES_FORWARD 8
#include "kernels_template.h"
