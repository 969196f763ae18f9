/* SPDX-License-Identifier: Apache-2.0
 *
 * Model: a network bound to a backend: its packed weights, its caches, its buffers. One forward per batch.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "base/progress.h"
#include "ops/ops.h"
#include "store/model_file.h"

typedef struct model model;

typedef struct model_limits {
    int max_rows;                  /* of one batch */
    int max_out;                   /* rows whose logits one batch may ask for */
    int n_pages[CACHE_MAX_GROUPS]; /* of each of model_groups; the first 0: model_open_cache makes it */
    nib_kv_dtype kv_dtype;
    /* Positions of the longest sequence, which some ways to stretch RoPE look at; 0: what the pages of a
     * group hold. At most the model's. */
    int max_len;
} model_limits;

/* The cache groups of a network: layers that see everything, layers that see a window. Returns how many;
 * group.n_pages is left 0. */
int model_groups(const hparams *hp, nib_kv_dtype kv_dtype, cache_shape groups[CACHE_MAX_GROUPS]);

/* FILE and BE outlive the model. WATCH (may be NULL) hears of the bytes packed, and can stop it. */
nib_status model_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                      const progress *watch, nib_error *err);
/* The matrices of half a layer anew, as FILE names them now (model_file.stand_ins): the model's own file but
 * for its look-up. Between batches. After a failure M can only be closed. */
nib_status model_rebind(model *m, const model_file *file, int layer, bool mlp, nib_error *err);
/* The caches of a model that was opened without pages: once it is seen what memory all else has left. */
nib_status model_open_cache(model *m, const int n_pages[CACHE_MAX_GROUPS], const progress *watch,
                            nib_error *err);
void model_close(model *m); /* NULL is fine */

/* What options of zero mean; ON_GPU: memory that is the backend's own. */
typedef struct model_defaults {
    int max_model_len; /* at most the model's */
    int max_num_seqs;
    int max_num_batched_tokens;
    nib_kv_dtype kv_dtype;
    double memory_utilization; /* the share of free memory that weights, buffers and pages may take */
} model_defaults;
const model_defaults *model_defaults_of(bool on_gpu);

/* Starts a batch. With ROWS [n_out], OUT [n_out] has a token for each out row once model_wait returns; B,
 * ROWS and OUT live until then. Without (NULL), the logits are wanted. On a backend that computes by itself
 * the caller can prepare the next batch meanwhile. */
void model_begin(model *m, const batch *b, const sample_row *rows, sampled *out);
/* *logits (may be NULL): FP32 [n_out, vocab], valid until the next batch; NULL where none were wanted. */
nib_status model_wait(model *m, const float **logits, nib_error *err);

/* Both, for logits. */
nib_status model_forward(model *m, const batch *b, const float **logits, nib_error *err);

/* The hidden states: the final norm's output, of every row of a batch. Before the first batch that tells them
 * there must be a place for them, made once, between batches. */
nib_status model_open_hidden(model *m, nib_error *err);
void model_want_hidden(model *m); /* of the next batch */
/* FP32 [rows, dim] after model_wait of a batch whose hidden states were wanted; valid until the next batch.
 */
const float *model_hidden(model *m);

/* Page (or slot) FROM of a group becomes TO as well: a shared page that one of its holders goes on writing.
 */
void model_copy_page(model *m, int group, int32_t to, int32_t from);

const hparams *model_hparams(const model *m);
size_t model_weight_bytes(const model *m);    /* packed, all weights */
size_t model_bytes_per_token(const model *m); /* weights that one decoded token reads */
/* Multiplications and additions of the matrix products of a batch, attention's left out. */
double model_flops(const model *m, int n_rows, int n_out);
size_t model_kv_bytes(const model *m);

#endif
