/* Every kernel for one instruction set, in both precisions, and the table by which they are found. */

#define REAL_IS_DOUBLE 0
#include "vec.h"
#include "block.h"
#include "scan_chunk.h"
#include "scan_forward.h"
#include "scan_backward.h"
#include "conv1d_tile.h"
#include "diagonal_scan_tile.h"
#include "gate_tile.h"
#include "rms_norm_tile.h"
#include "limit.h"
#undef REAL_IS_DOUBLE

#define REAL_IS_DOUBLE 1
#include "vec.h"
#include "block.h"
#include "scan_chunk.h"
#include "scan_forward.h"
#include "scan_backward.h"
#include "conv1d_tile.h"
#include "diagonal_scan_tile.h"
#include "gate_tile.h"
#include "rms_norm_tile.h"
#include "limit.h"
#undef REAL_IS_DOUBLE

const madzoo_table MADZOO_PASTE(madzoo, table, ISA) = {
    .scan = {MADZOO_PASTE(scan_worker, f32, ISA), MADZOO_PASTE(scan_worker, f64, ISA)},
    .unscan = {MADZOO_PASTE(unscan_worker, f32, ISA), MADZOO_PASTE(unscan_worker, f64, ISA)},
    .conv = {MADZOO_PASTE(conv_worker, f32, ISA), MADZOO_PASTE(conv_worker, f64, ISA)},
    .unconv = {MADZOO_PASTE(unconv_worker, f32, ISA), MADZOO_PASTE(unconv_worker, f64, ISA)},
    .diagonal = {MADZOO_PASTE(pass_worker, f32, ISA), MADZOO_PASTE(pass_worker, f64, ISA)},
    .undiagonal = {MADZOO_PASTE(unpass_worker, f32, ISA), MADZOO_PASTE(unpass_worker, f64, ISA)},
    .gate = {MADZOO_PASTE(gate_worker, f32, ISA), MADZOO_PASTE(gate_worker, f64, ISA)},
    .ungate = {MADZOO_PASTE(ungate_worker, f32, ISA), MADZOO_PASTE(ungate_worker, f64, ISA)},
    .norm = {MADZOO_PASTE(norm_worker, f32, ISA), MADZOO_PASTE(norm_worker, f64, ISA)},
    .unnorm = {MADZOO_PASTE(unnorm_worker, f32, ISA), MADZOO_PASTE(unnorm_worker, f64, ISA)},
    .limit = {MADZOO_PASTE(limit, f32, ISA), MADZOO_PASTE(limit, f64, ISA)},
    .limit_exp = {MADZOO_PASTE(limit_exp, f32, ISA), MADZOO_PASTE(limit_exp, f64, ISA)},
};
