/* SPDX-License-Identifier: Apache-2.0
 *
 * Model: a network bound to a backend: its packed weights, its KV pages, its buffers. One forward per batch.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "ops/ops.h"
#include "store/model_file.h"

typedef struct model model;

typedef struct model_limits {
    int max_rows; /* of one batch */
    int max_out;  /* rows whose logits one batch may ask for */
    int n_kv_pages;
    nib_kv_dtype kv_dtype;
} model_limits;

/* FILE and BE outlive the model. */
nib_status model_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                      nib_error *err);
void model_close(model *m); /* NULL is fine */

/* Computes one batch. *logits: FP32 [n_out, vocab], valid until the next call. */
nib_status model_forward(model *m, const batch *b, const float **logits, nib_error *err);

const hparams *model_hparams(const model *m);
size_t model_weight_bytes(const model *m);    /* packed, all weights */
size_t model_bytes_per_token(const model *m); /* weights that one decoded token reads */
size_t model_kv_bytes(const model *m);

#endif
