/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensor: a host view of stored numbers, with the scales that belong to it. Owns nothing: the bytes lie in a
 * mapped file (or in the caller's memory). Every store reader presents its file's conventions in this one
 * form:
 *
 *   value[r, c] = element(data)[r, c] * block_scale[r, c / block] * tile_scale * row_scale[r] * tensor_scale
 *               + branch.scale * sum over k of up[r, k] * down[k, c]
 *
 * where a factor that the format lacks is 1. All scales here multiply; a reader of a convention whose scales
 * divide takes the reciprocal.
 */
#ifndef NOUNS_TENSOR_H
#define NOUNS_TENSOR_H

#include "base/status.h"
#include "nouns/place.h"
#include "num/dtype.h"

#define TENSOR_MAX_DIMS 8 /* of a carried tensor; network tensors have one or two */

/* A low-rank matrix beside the elements (SVDQuant). */
typedef struct tensor_branch {
    size_t rank;          /* 0: there is none */
    const uint16_t *down; /* BF16 [rank, cols] */
    const uint16_t *up;   /* BF16 [rows, rank] */
    float scale;          /* of the product; 1 */
} tensor_branch;

/* dst [cols] += row ROW of the branch, summed up in FP64. */
void tensor_branch_add(const tensor_branch *b, size_t cols, size_t row, float *dst);

typedef struct tensor {
    const char *name; /* as in the file */
    place place;
    dtype dtype;
    size_t rows, cols; /* row-major, cols contiguous; a vector has rows == 1 */
    int n_dims;        /* as stored, outermost first: for writers */
    size_t dims[TENSOR_MAX_DIMS];
    const void *data;
    size_t bytes; /* of data */
    const uint8_t
        *block_scales;       /* DT_NVFP4: E4M3 [rows, cols/16]; DT_MXFP4: E8M0 [rows, cols/32]; else NULL */
    const float *row_scales; /* FP32 [rows] or NULL */
    const float
        *tile_scales; /* FP8: FP32, one per tile of tile_rows x tile_cols elements, a row of tiles after
                         the other; or NULL. The first row is row tile_first of the first tile */
    size_t tile_rows, tile_cols, tile_first;
    float tensor_scale; /* 1 when there is none */
    float input_scale;  /* static activation scale (ModelOpt convention); 0 when there is none */
    tensor_branch branch;
} tensor;

/* VALUES of TYPE as a matrix [rows, cols], which stands in OF's place under its name; values of no scale. */
tensor tensor_beside(const tensor *of, dtype type, const void *values, size_t rows, size_t cols);

/* Bytes of everything that stores the tensor: data, scales and branch; and of the branch alone. */
size_t tensor_total_bytes(const tensor *t);
size_t tensor_branch_bytes(const tensor *t);

/* *out is T over a copy of its bytes in *memory (freed with mem_free), read from their file and not through
 * its map, which would end the process where the file has been cut short. */
nib_status tensor_read(tensor *out, void **memory, const tensor *t, nib_error *err);

/* Rows [first, first + n) of T, a view as well. T's rows are whole bytes. */
tensor tensor_rows(const tensor *t, size_t first, size_t n);

/* Values of one row, FP32 [cols]: exact where there is no branch. */
void tensor_decode_row(const tensor *t, size_t row, float *dst);

#endif
