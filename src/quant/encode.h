/* SPDX-License-Identifier: Apache-2.0
 *
 * Encode: reads a tensor of the source row by row, in the order and with the shift its item says, and gives
 * out its stored bytes in the new format, a few rows at a time. Memory: some rows, and the block scales of
 * one tensor, by QM_LOCAL its codes too. Rows are shared out to threads; the result does not depend on how
 * many there are.
 */
#ifndef QUANT_ENCODE_H
#define QUANT_ENCODE_H

#include <signal.h>

#include "base/pool.h"
#include "base/progress.h"
#include "base/status.h"
#include "nouns/tensor.h"
#include "quant/scale_search.h"

typedef enum encode_action {
    ENCODE_CARRY = 0, /* the same bytes */
    ENCODE_CAST,      /* the same values in a float type (`to`; DT_NONE: the smallest that holds them) */
    ENCODE_REPACK,    /* FP4 codes and scales in another layout, or FP8 */
    ENCODE_QUANTIZE
} encode_action;

/* One tensor to be encoded. */
typedef struct encode_item {
    const tensor *t;
    slot slot; /* t's, or SLOT_HEAD for the head made from a tied embedding */
    encode_action action;
    dtype to;
    int heads;       /* rows are q or k between the two RoPE orders: so many heads; 0: as they are */
    bool interleave; /* halves -> pairs (into a GGUF file); else back */
    float shift;     /* added to every value: Gemma's norms between (1 + w) and w */
    const int8_t
        *powers;  /* [cols] after the shift column j is multiplied with 2^powers[j], or, where the item */
    bool divides; /* DIVIDES, divided by it; NULL: neither */
    const float *weights; /* E[x_j^2] or NULL */
    const float *blocks;  /* E[x x^T] [cols, 16] of each 16 columns: choose codes (QM_LOCAL); or NULL */
    scale_search search;  /* ENCODE_QUANTIZE */
    /* ENCODE_QUANTIZE, NVFP4 and Q5_0: chosen elsewhere (tune), in the source's order of rows; NULL: by
     * search */
    const uint8_t *codes, *scales; /* [rows, cols / 2], [rows, cols / 16], or [rows, cols / 32 * 22] */
    tensor_branch branch;          /* beside the codes, in the source's order: counts in the errors */
} encode_item;

/* Where the encoded bytes go, in row order. */
typedef struct encode_sink {
    nib_status (*write)(void *context, const void *bytes, size_t n, nib_error *err);
    void *context;
} encode_sink;

typedef struct encode_error { /* sums over the tensor's elements */
    double norm, error;       /* w^2, (w - w^)^2 */
    double weighted_norm, weighted_error;
    uint64_t changed; /* w^ is not w */
} encode_error;

typedef struct encode_job {
    const encode_item *item;
    const char *where; /* the source, for sentences */
    pool *pool;
    progress progress; /* counts elements from *done of total */
    uint64_t *done, total;
    const volatile sig_atomic_t *interrupted;
} encode_job;

/* First look at the values: *amax (a NaN or infinity is an error when the tensor is to be quantized), and in
 * *exact the smallest of BF16, F16 and F32 that holds every value. */
nib_status encode_measure(const encode_job *job, float *amax, dtype *exact, nib_error *err);

/* The tensor's stored elements to SINK. SCALES: U8 [rows, cols/16] (NVFP4) or [rows, cols/32] (MXFP4) of a
 * format whose scales stand apart, else NULL. */
nib_status encode_run(const encode_job *job, encode_sink sink, uint8_t *scales, encode_error *sums,
                      nib_error *err);

#endif
