/* SPDX-License-Identifier: Apache-2.0
 *
 * Imatrix: E[x_j^2] of linear layers' inputs in a file of llama.cpp's format, which its quantizer takes too.
 *
 *   a GGUF file, general.type "imatrix"
 *   imatrix.datasets      strings: what was read
 *   imatrix.chunk_count   u32: windows of imatrix.chunk_size (u32) tokens
 *   NAME.in_sum2          F32 [1, cols] sums of x_j^2, NAME being a weight's in a GGUF file, with ".weight"
 *   NAME.counts           F32 [1, 1] rows that were added up; 0: the layer saw none
 *
 * Callers: cli calibrate, cli quantize.
 */
#ifndef EVAL_IMATRIX_H
#define EVAL_IMATRIX_H

#include "quant/scale_search.h"
#include "store/model_file.h"

typedef struct imatrix_about {
    const char *dataset; /* written: the text's name */
    size_t n_tokens;
    int chunk_size;   /* tokens of a window */
    size_t n_tensors; /* filled: written, or read and used */
    size_t n_unused;  /* filled by reading: of no linear layer of this network */
} imatrix_about;

/* The linear layers of FILE, and its head where HEED knows it and it is a tensor of its own. */
nib_status imatrix_write(const importance *heed, const model_file *file, const char *path,
                         imatrix_about *about, nib_error *err);

/* OUT is freed with calibrate_free. Layers that the file leaves out have no entry. A file of another shape of
 * network, or without any of its layers, is refused. */
nib_status imatrix_read(importance *out, const model_file *file, const char *path, imatrix_about *about,
                        nib_error *err);

#endif
