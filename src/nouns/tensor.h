/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensor: a host view of stored numbers, with the scales that belong to it. Owns nothing: the bytes lie in a
 * mapped file (or in the caller's memory). Every store reader presents its file's conventions in this one
 * form:
 *
 *   value[r, c] = element(data)[r, c] * block_scale[r, c / block] * row_scale[r] * tensor_scale
 *
 * where a factor that the format lacks is 1. All scales here multiply; a reader of a convention whose scales
 * divide takes the reciprocal.
 */
#ifndef NOUNS_TENSOR_H
#define NOUNS_TENSOR_H

#include "num/dtype.h"

#define TENSOR_MAX_DIMS 8 /* of a carried tensor; network tensors have one or two */

/* What a tensor is in the network. One list for every family; a family uses what it has. */
typedef enum slot {
    SLOT_NONE = 0, /* carried along, not part of the network */
    SLOT_EMBED,    /* [vocab, dim] */
    SLOT_HEAD,     /* [vocab, dim]; absent when tied */
    SLOT_FINAL_NORM,
    SLOT_ROPE_FREQS, /* [head_dim / 2] divisors of the RoPE frequencies (GGUF, Llama 3) */
    SLOT_ATTN_NORM,  /* per layer from here */
    SLOT_Q,          /* [n_heads * head_dim, dim] */
    SLOT_K,          /* [n_kv_heads * head_dim, dim] */
    SLOT_V,
    SLOT_O, /* [dim, n_heads * head_dim] */
    SLOT_Q_NORM,
    SLOT_K_NORM,
    SLOT_POST_ATTN_NORM, /* Gemma: after attention */
    SLOT_FFN_NORM,       /* before the MLP */
    SLOT_GATE,           /* [ffn_dim, dim] */
    SLOT_UP,
    SLOT_DOWN, /* [dim, ffn_dim] */
    SLOT_POST_FFN_NORM,
    SLOT_COUNT
} slot;

const char *slot_name(slot s); /* "attn_q", ... for reports */

typedef struct tensor {
    const char *name; /* as in the file */
    slot slot;
    int layer; /* 0-based; -1 when it belongs to none */
    dtype dtype;
    size_t rows, cols; /* row-major, cols contiguous; a vector has rows == 1 */
    int n_dims;        /* as stored, outermost first: for writers */
    size_t dims[TENSOR_MAX_DIMS];
    const void *data;
    size_t bytes; /* of data */
    const uint8_t
        *block_scales;       /* DT_NVFP4: E4M3 [rows, cols/16]; DT_MXFP4: E8M0 [rows, cols/32]; else NULL */
    const float *row_scales; /* FP32 [rows] or NULL */
    float tensor_scale;      /* 1 when there is none */
    float input_scale;       /* static activation scale (ModelOpt convention); 0 when there is none */
} tensor;

/* Bytes of everything that stores the tensor: data and scales. */
size_t tensor_total_bytes(const tensor *t);

/* Exact values of one row, FP32 [cols]. */
void tensor_decode_row(const tensor *t, size_t row, float *dst);

#endif
