/* SPDX-License-Identifier: Apache-2.0
 *
 * Halves: a network computed by halves of its layers, each half in two steps, for a caller that keeps the
 * residual stream and what lies between the steps himself, and changes the matrices on the way:
 *
 *   input   h     = norm(x)                              what q, k, v (or gate, up) read
 *   inner   inner = attention(h), or f(h Wg^T) * h Wu^T   what o (or down) reads
 *   add     x    += inner W^T
 *
 * Matrices are those that the file's look-up names when a half is bound (model_file_find). A batch at
 * position 0 of a page begins its keys and values anew; they are kept for one layer. All values are FP32 on
 * the host and row by row the bits that model_forward computes. Caller: tune.
 */
#ifndef MODEL_HALVES_H
#define MODEL_HALVES_H

#include "model/model.h"
#include "model/weights.h"

typedef enum half_kind { HALF_ATTENTION = 0, HALF_MLP } half_kind;

typedef struct halves halves;

/* FILE has a network; it and BE outlive the halves. LIMITS: of a batch, with the KV pages that one layer
 * needs. */
nib_status halves_open(halves **out, const model_file *file, backend *be, const model_limits *limits,
                       nib_error *err);
void halves_close(halves *h); /* NULL is fine */

/* What a half's second step reads: n_heads * head_dim or ffn_dim. */
size_t halves_inner_cols(const halves *h, half_kind kind);

/* x [rows, dim]: the embeddings of a batch. The table is bound between begin and end. */
nib_status halves_embed_begin(halves *h, nib_error *err);
nib_status halves_embed(halves *h, const batch *b, float *x, nib_error *err);
void halves_embed_end(halves *h);

nib_status halves_bind(halves *h, half_kind kind, int layer, nib_error *err);
void halves_unbind(halves *h, half_kind kind, int layer);

/* x [rows, dim] -> out [rows, dim]; needs no matrix. */
nib_status halves_input(halves *h, half_kind kind, int layer, const batch *b, const float *x, float *out,
                        nib_error *err);
/* x -> inner [rows, halves_inner_cols]; the half is bound. */
nib_status halves_inner(halves *h, half_kind kind, int layer, const batch *b, const float *x, float *inner,
                        nib_error *err);
/* What the head reads, of every row: x [rows, dim] -> out [rows, dim]; needs no matrix. */
nib_status halves_final(halves *h, const batch *b, const float *x, float *out, nib_error *err);
/* x += ...; the half is bound. */
nib_status halves_add(halves *h, half_kind kind, int layer, const batch *b, const float *inner, float *x,
                      nib_error *err);

#endif
