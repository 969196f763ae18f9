/* SPDX-License-Identifier: Apache-2.0
 *
 * The formats a tensor can be stored in, and their exact values. The layouts are spelled out in the codec
 * files.
 */
#ifndef NUM_DTYPE_H
#define NUM_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum dtype {
    DT_NONE = 0,
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_F8_E4M3, /* E4M3FN; a scale per tensor or per row stands beside the tensor */
    DT_F8_E5M2,
    DT_NVFP4,      /* codes only, U8 [rows, cols/2], element 2i in the low nibble; E4M3 scales stand beside */
    DT_MXFP4,      /* codes as DT_NVFP4; E8M0 scales [rows, cols/32] stand beside */
    DT_GGUF_NVFP4, /* 64 elements in 36 bytes: 4 UE4M3, then codes (j, j+8) of each 16 */
    DT_GGUF_MXFP4, /* 32 elements in 17 bytes: E8M0, then codes (j, j+16) */
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q8_0,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
    DT_IQ4_NL,
    DT_Q2_K,
    DT_Q3_K,
    DT_IQ4_XS,
    DT_IQ1_S,
    DT_IQ1_M,
    DT_IQ2_XXS,
    DT_IQ2_XS,
    DT_IQ2_S,
    DT_IQ3_XXS,
    DT_IQ3_S,
    DT_TQ1_0,
    DT_TQ2_0,
    DT_I8, /* not weights: carried and counted only */
    DT_I16,
    DT_I32,
    DT_I64,
    DT_U8,
    DT_F64,
    DT_BOOL,
    DT_COUNT
} dtype;

typedef struct dtype_info {
    const char *name;     /* "NVFP4", "Q4_K", ... for people */
    uint32_t block;       /* elements per block */
    uint32_t block_bytes; /* bytes per block, companions not counted */
    bool is_weight;       /* can be decoded to float */
} dtype_info;

const dtype_info *dtype_get(dtype t);

/* In either layout. */
static inline bool dtype_is_nvfp4(dtype t) {
    return t == DT_NVFP4 || t == DT_GGUF_NVFP4;
}

static inline bool dtype_is_mxfp4(dtype t) {
    return t == DT_MXFP4 || t == DT_GGUF_MXFP4;
}

/* Fewer than 16 bits a weight: blocks of codes, or 8-bit floats. */
static inline bool dtype_is_quantized(dtype t) {
    return dtype_get(t)->block > 1 || t == DT_F8_E4M3 || t == DT_F8_E5M2;
}

/* Bytes of N elements; false when N is no whole number of blocks or the size wraps. */
bool dtype_bytes(dtype t, size_t n, size_t *bytes);

/* Exact values of N elements (a whole number of blocks) as FP32. DT_NVFP4 and DT_MXFP4 give bare E2M1 values,
 * DT_F8_* bare FP8 values: tensor_decode_row applies what stands beside. */
void dtype_decode(dtype t, const void *src, float *dst, size_t n);

#endif
