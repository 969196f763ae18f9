/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files behind convert.h share while one model is converted. Private to the room.
 */
#ifndef QUANT_CONVERT_RUN_H
#define QUANT_CONVERT_RUN_H

#include "quant/encode.h"

typedef struct convert_run {
    const model_file *in;
    const char *out_path;
    const convert_options *o;
    recipe recipe;
    encode_error *errors;  /* [recipe.n] */
    uint64_t *bytes_after; /* [recipe.n] elements and scales as written */
    uint64_t done, total;  /* elements, for the progress */
    uint64_t file_bytes;   /* of the files that hold tensors */
    int n_scales_rounded;
} convert_run;

/* The job of item I. */
encode_job convert_job(convert_run *run, size_t i);

/* The output's dims of an item's elements, outermost first; returns how many. */
int convert_dims(const recipe_item *item, size_t dims[TENSOR_MAX_DIMS]);

/* The multiplying tensor scale of a quantized or repacked item. */
float convert_tensor_scale(const recipe_item *item);

/* The output: a directory (ModelOpt or compressed-tensors) or a GGUF file, whole or not at all. */
nib_status write_hf_model(convert_run *run, nib_error *err);
nib_status write_gguf_model(convert_run *run, nib_error *err);

#endif
