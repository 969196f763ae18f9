/* SPDX-License-Identifier: Apache-2.0
 *
 * Export: a model written as a GGUF file or as a Hugging Face directory (ModelOpt's convention, or that of
 * compressed-tensors), whole or not at all. What is written stands in a plan; the bytes of each tensor come
 * from the caller, one tensor at a time. Caller: convert.
 *
 * Names, keys, words and side files are this room's; which tensor gets which format, and its numbers, are
 * not.
 */
#ifndef EXPORT_EXPORT_H
#define EXPORT_EXPORT_H

#include "base/arena.h"
#include "base/json.h"
#include "store/model_file.h"

typedef enum out_kind { OUT_MODELOPT = 0, OUT_COMPRESSED_TENSORS, OUT_GGUF } out_kind;

typedef struct export_item {
    const tensor *t; /* of the source: rows and cols, its name for sentences */
    slot slot;
    const char *name; /* in the output, ending in .weight where the source's does */
    dtype to;
    bool plain; /* elements alone, as they are or cast: nothing stands beside */
    int n_dims; /* of the elements, outermost first; of DT_NVFP4 and DT_MXFP4 those of the bytes */
    size_t dims[TENSOR_MAX_DIMS];
    float tensor_scale;      /* multiplies; 1: none */
    float input_scale;       /* multiplies; 0: none */
    float scale_divisor;     /* compressed-tensors: what stands for tensor_scale, and ... */
    float input_divisor;     /* ... for input_scale; 0: none */
    const float *row_scales; /* FP32 [rows] or NULL */
    size_t rank;             /* of the low-rank branch that other items are; 0: none */
} export_item;

/* Where a tensor's bytes go, in row order. */
typedef struct export_sink {
    nib_status (*write)(void *context, const void *bytes, size_t n, nib_error *err);
    void *context;
} export_sink;

typedef struct export_plan {
    const model_file *in; /* the source: hparams, words, metadata and side files */
    const char *out_path;
    out_kind out;
    dtype format;     /* what most linear layers become: DT_NVFP4, DT_MXFP4, DT_F8_E4M3 or DT_BF16 */
    bool unties_head; /* the output's head is a tensor of its own, the source's was the embedding */
    const export_item *items;
    size_t n;
    arena *arena; /* for names */

    /* Gives the elements of item I to SINK. SCALES: block scales of a format whose scales stand apart, U8
     * [rows, cols/16] (NVFP4) or [rows, cols/32] (MXFP4), to be filled, else NULL. */
    nib_status (*encode)(void *context, size_t i, export_sink sink, uint8_t *scales, nib_error *err);
    void *context;

    /* what came of it */
    uint64_t *bytes_after; /* [n] elements and scales as written */
    uint64_t file_bytes;   /* of the files that hold tensors */
} export_plan;

/* plan->out says which. */
nib_status export_write(export_plan *plan, nib_error *err);

/* Could PLAN's source and path be written so? Nothing stays behind. Looks at in, out and out_path alone. */
nib_status export_try(const export_plan *plan, nib_error *err);

/* The I-th name that a written directory may hold; NULL after the last. */
const char *export_side_name(size_t i);

#endif
