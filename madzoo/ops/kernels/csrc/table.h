/* What each instruction set offers; index 0 is float, 1 is double. */
#ifndef MADZOO_TABLE_H
#define MADZOO_TABLE_H

#include <stdint.h>
#include <stdlib.h>

#include "job.h"
#include "madzoo_kernels.h"

typedef struct {
    void (*scan[2])(void *job);
    void (*unscan[2])(void *job);
    void (*conv[2])(void *job);
    void (*unconv[2])(void *job);
    void (*diagonal[2])(void *job);
    void (*undiagonal[2])(void *job);
    void (*gate[2])(void *job);
    void (*ungate[2])(void *job);
    void (*norm[2])(void *job);
    void (*unnorm[2])(void *job);
    double (*limit[2])(int64_t updates);
    double (*limit_exp[2])(int64_t count);
} madzoo_table;

extern const madzoo_table madzoo_table_baseline, madzoo_table_avx2, madzoo_table_avx512;

/* The table of the instruction set in use. */
const madzoo_table *madzoo_tables(void);

#endif
