/* SPDX-License-Identifier: Apache-2.0
 *
 * One safetensors file, parsed and checked: the header is JSON with unique names, every tensor's offsets
 * agree with its dtype and shape, and the tensors cover the data exactly once, without overlap or gap.
 *
 * Callers: model_file. Tensors are in the order of their offsets.
 */
#ifndef STORE_SAFETENSORS_H
#define STORE_SAFETENSORS_H

#include "base/arena.h"
#include "base/mapfile.h"
#include "num/dtype.h"

#define SAFETENSORS_MAX_DIMS   8
#define SAFETENSORS_MAX_HEADER (16u << 20) /* 100,000 tensors; the reference reads up to 100 MB */

typedef struct safetensors_tensor {
    const char *name;
    const char *dtype_name; /* as in the file: "BF16", "F8_E8M0", "F4", ... */
    dtype dtype;            /* DT_NONE: nibble counts it but does not read it; F8_E8M0 and F4 are DT_U8 */
    int n_dims;
    size_t dims[SAFETENSORS_MAX_DIMS]; /* outermost first */
    const void *data;
    size_t bytes;
} safetensors_tensor;

typedef struct safetensors {
    const char *where;
    const safetensors_tensor *tensors;
    size_t n_tensors;
    mapfile map; /* zero when parsed from the caller's memory */
    arena arena;
} safetensors;

nib_status safetensors_open(safetensors *out, const char *path, nib_error *err);
nib_status safetensors_parse(safetensors *out, const void *bytes, size_t size, const char *where,
                             nib_error *err);
void safetensors_close(safetensors *s); /* safe on a zeroed or failed one */

const char *safetensors_dtype_name(dtype t); /* "BF16"; DT_NVFP4 and DT_MXFP4 codes are "U8"; NULL: none */

#endif
