/* SPDX-License-Identifier: Apache-2.0
 *
 * Input look: rows of one input as they come, summed up into an input_stat: second moments inside blocks of
 * 16 columns, the largest magnitude, and how magnitudes are distributed. Products of the rows of a call are
 * FP32, their sums FP64; the result does not depend on the number of threads. Caller: calibrate.
 */
#ifndef EVAL_INPUT_LOOK_H
#define EVAL_INPUT_LOOK_H

#include "base/pool.h"
#include "eval/input_stats.h"

/* Magnitudes by their exponent and seven bits more, from 2^-40 on; smaller and larger ones in the first bin
 * and the last. */
enum { INPUT_LOOK_BINS = 8192 };

typedef struct input_look {
    size_t cols;
    double *blocks; /* [cols, INPUT_STATS_BLOCK]; NULL: cols are no whole number of blocks */
    uint64_t *bins; /* [INPUT_LOOK_BINS] */
    float peak;
    size_t n_rows;
} input_look;

/* What all looks of a team need once. */
typedef struct input_looker {
    pool *team;
    uint32_t *bins; /* [threads, INPUT_LOOK_BINS] */
    float *peaks;   /* [threads] */
} input_looker;

nib_status input_looker_open(input_looker *l, pool *team, nib_error *err);
void input_looker_close(input_looker *l);

nib_status input_look_open(input_look *k, size_t cols, nib_error *err);
void input_look_add(input_look *k, const input_looker *by, const float *x, size_t rows);
/* Blocks and peaks into OUT. */
nib_status input_look_finish(const input_look *k, input_stat *out, nib_error *err);
void input_look_close(input_look *k); /* safe on a zeroed look */

#endif
