/* SPDX-License-Identifier: Apache-2.0
 *
 * Walk: a text on its way through a network, half a layer at a time: the residual stream of all its rows,
 * what lies between the two steps of a half, and what the linear layers read on the way. Caller: tune.c.
 */
#ifndef TUNE_WALK_H
#define TUNE_WALK_H

#include "model/halves.h"
#include "tune/stream.h"
#include "tune/tune.h"

#define WALK_MAX_ROWS 256 /* of a batch */
#define WALK_PAGES    (TUNE_WINDOW / KV_PAGE_TOKENS)

/* An input of linear layers, in the order of a layer's work. */
typedef enum walk_site { SITE_QKV = 0, SITE_O, SITE_GATE_UP, SITE_DOWN, SITE_HEAD } walk_site;
enum { N_SITES = SITE_HEAD + 1 };

/* Whether matrices of a slot read what stands at a site; the embedding does where it is the head. */
bool walk_reads(walk_site at, slot s);

/* The windows of a text as batches, in their order. */
typedef struct walk_text {
    batch *batches; /* [n_batches] */
    batch_seq *seqs;
    size_t *first_row; /* [n_batches] */
    bool *held_out;    /* [n_batches] one window in eight */
    float *by;         /* [n_batches] what its rows are multiplied with in second moments */
    size_t n_batches, n_rows;
    int32_t pages[WALK_PAGES];
} walk_text;

/* Of O's windows, which FILE's vocabulary must hold; its ids live on. */
nib_status walk_text_cut(walk_text *t, const tune_options *o, const model_file *file, nib_error *err);
void walk_text_free(walk_text *t); /* safe on a zeroed text */

typedef struct walk {
    const walk_text *text;
    halves *net;
    size_t dim, inner_cols; /* of the wider of the halves */
    stream x, inner;        /* [n_rows, dim], [n_rows, inner_cols] */
    float *input;           /* [WALK_MAX_ROWS, dim] */
} walk;

/* Floats of a row. */
size_t walk_row_floats(const hparams *hp);
/* The text's embeddings by FILE, whose look-up is asked for the matrices when they are needed. ON_DISK:
 * beside PATH. */
nib_status walk_open(walk *w, const walk_text *text, const model_file *file, backend *be, bool on_disk,
                     const char *path, nib_error *err);
void walk_close(walk *w); /* safe on a zeroed walk */

/* What the layers at a site read of batch I: [rows, cols], until the next call. */
nib_status walk_input(walk *w, walk_site at, int layer, size_t i, const float **out, nib_error *err);
const float *walk_residual(const walk *w, size_t i); /* of batch I: [rows, dim] */

/* The first step of half a layer, or the second, on every batch; behind each AFTER(CONTEXT, batch). */
typedef nib_status walk_after(void *context, size_t i, nib_error *err);
nib_status walk_half(walk *w, half_kind kind, int layer, bool second, walk_after *after, void *context,
                     nib_error *err);

void walk_leave(const walk *w, size_t i); /* batch I is done with for now */

#endif
