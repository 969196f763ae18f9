/* SPDX-License-Identifier: Apache-2.0
 *
 * Layerwise: all batches of a text pass through a network one half of a layer at a time, so that only the
 * matrices of that half are in memory, and the residual stream of every row. For calibration: no logits, no
 * second text. Row by row it computes the bits that model_forward computes. Caller: eval/calibrate.
 */
#ifndef MODEL_LAYERWISE_H
#define MODEL_LAYERWISE_H

#include <signal.h>

#include "base/progress.h"
#include "model/model.h"

typedef struct layerwise_job {
    model_limits limits;  /* of each batch; KV pages that one layer needs */
    const batch *batches; /* [n_batches], in the order that one sequence's positions ask for */
    size_t n_batches;
    /* x^2 is added up here per input channel of every linear layer: sums[layer * SLOT_COUNT + slot] points to
     * FP64 [cols] for SLOT_Q (q, k and v share their input), SLOT_O, SLOT_GATE (gate and up share it),
     * SLOT_DOWN, and at layer 0 SLOT_HEAD, over each batch's out_rows; NULL entries are skipped. */
    double *const *sums;
    /* Told the rows X [rows, cols] that a linear layer in SLOT reads, as sums names slots, keys as a cache
     * stores them (SLOT_K_SCALE) and values (SLOT_V_SCALE), each [rows, n_kv_heads x head_dim]; valid for the
     * call. NULL: nobody looks. Goes with sums alone. */
    void (*look)(void *context, int layer, slot s, const float *x, size_t rows);
    void *context;            /* look's */
    const progress *progress; /* counts rows times layers, from DONE of TOTAL */
    uint64_t done, total;
    const volatile sig_atomic_t *interrupted; /* becomes non-zero: NIB_CANCELLED; may be NULL */
} layerwise_job;

/* FILE has a network. Keys and values are kept for one layer only: a batch at position 0 of a page begins it
 * anew. */
nib_status layerwise_run(const model_file *file, backend *be, const layerwise_job *job, nib_error *err);

#endif
