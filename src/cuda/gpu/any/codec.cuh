/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of stored weights on the device: 16 elements of a row at a time, equal to tensor_decode_row to the
 * bit. Layouts: num/gguf_blocks.c and nouns/tensor.h. Multiplications and additions are kept apart
 * (__fmul_rn, __fadd_rn), because a fused one would round differently.
 */
#ifndef CUDA_CODEC_CUH
#define CUDA_CODEC_CUH

#include "cuda/gpu/any/kernel.cuh"

__device__ __forceinline__ float half_at(const uint8_t *p) {
    return __half2float(__ushort_as_half((uint16_t)(p[0] | p[1] << 8)));
}

__device__ __forceinline__ float e2m1_value(uint32_t code) {
    uint32_t m = code & 7, e = m >> 1;
    uint32_t bits =
        m < 2 ? m * 0x3f000000u : (e + 126) << 23 | (m & 1) << 22; /* 0, .5, then 1, 1.5, 2 .. 6 */
    return __uint_as_float(bits | (code & 8) << 28);
}

__device__ __forceinline__ float ue4m3_value(uint8_t q) {
    return q == 0x7f ? 0.0f : q == 0xff ? 480.0f : from_e4m3(q & 0x7f);
}

/* 2^(e - 127), also the subnormals 2^-127 and 2^-128 (e = 0, -1). */
__device__ __forceinline__ float e8m0_value(int e) {
    return __int_as_float(e > 0 ? (e == 255 ? 0x7fc00000 : e << 23) : e == 0 ? 1 << 22 : 1 << 21);
}

__device__ __forceinline__ void k_scale_min(const uint8_t *b, int i, int *scale, int *min) {
    if (i < 4) {
        *scale = b[i] & 63;
        *min = b[i + 4] & 63;
    } else {
        *scale = (b[i + 4] & 15) | (b[i - 4] >> 6) << 4;
        *min = (b[i + 4] >> 4) | (b[i] >> 6) << 4;
    }
}

/* The 4-bit formats whose blocks of 32 pair elements (j, j + 16): q = the nibbles of half H of the block. */
__device__ __forceinline__ int nibble_of(const uint8_t *p, int h, int j) {
    return p[j] >> 4 * h & 15;
}

/* Elements [16 g, 16 g + 16) of ROW without the scales that stand beside the tensor. */
template <int T> __device__ __forceinline__ void decode_bare(const uint8_t *row, size_t g, float *v) {
    const uint8_t *p = row + 16 * g; /* of the one-byte formats */
    const int h = (int)(g & 1);
    if (T == DT_F32) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = ((const float *)row)[16 * g + i];
    } else if (T == DT_F16) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = __half2float(((const __half *)row)[16 * g + i]);
    } else if (T == DT_BF16) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = __bfloat162float(((const __nv_bfloat16 *)row)[16 * g + i]);
    } else if (T == DT_F8_E4M3) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = from_e4m3(p[i]);
    } else if (T == DT_F8_E5M2) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = __half2float(__ushort_as_half((uint16_t)(p[i] << 8)));
    } else if (T == DT_NVFP4 || T == DT_MXFP4) {
        p = row + 8 * g;
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = e2m1_value(p[i / 2] >> 4 * (i & 1));
    } else if (T == DT_GGUF_NVFP4) {
        const int s = (int)(g & 3);
        p = row + g / 4 * 36;
        float scale = ue4m3_value(p[s]);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = scale * e2m1_value(p[4 + 8 * s + (i & 7)] >> (i & 8) / 2);
    } else if (T == DT_GGUF_MXFP4) {
        p = row + g / 2 * 17;
        float half_scale = e8m0_value((int)p[0] - 1);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = half_scale * (2.0f * e2m1_value(nibble_of(p + 1, h, i)));
    } else if (T == DT_Q4_0) {
        p = row + g / 2 * 18;
        float d = half_at(p);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = d * (float)(nibble_of(p + 2, h, i) - 8);
    } else if (T == DT_Q4_1) {
        p = row + g / 2 * 20;
        float d = half_at(p), m = half_at(p + 2);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = __fadd_rn(__fmul_rn(d, (float)nibble_of(p + 4, h, i)), m);
    } else if (T == DT_Q5_0 || T == DT_Q5_1) {
        const int head = T == DT_Q5_0 ? 2 : 4;
        p = row + g / 2 * (head + 20);
        float d = half_at(p), m = T == DT_Q5_1 ? half_at(p + 2) : 0;
        uint32_t fifth = p[head] | p[head + 1] << 8 | p[head + 2] << 16 | (uint32_t)p[head + 3] << 24;
        for (int i = 0; i < 16; i++) {
            int q = nibble_of(p + head + 4, h, i) | (fifth >> (i + 16 * h) & 1) << 4;
            v[i] = T == DT_Q5_0 ? d * (float)(q - 16) : __fadd_rn(__fmul_rn(d, (float)q), m);
        }
    } else if (T == DT_Q8_0) {
        p = row + g / 2 * 34;
        float d = half_at(p);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = (float)(int8_t)p[2 + 16 * h + i] * d;
    } else if (T == DT_IQ4_NL) {
        p = row + g / 2 * 18;
        float d = half_at(p);
        const int8_t level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = d * (float)level[nibble_of(p + 2, h, i)];
    } else if (T == DT_Q4_K || T == DT_Q5_K) {
        const int i32 = (int)(g / 2 & 7), codes = T == DT_Q4_K ? 16 : 48;
        int scale, min;
        p = row + g / 16 * (codes + 128);
        k_scale_min(p + 4, i32, &scale, &min);
        float ds = half_at(p) * (float)scale, m = half_at(p + 2) * (float)min;
        const uint8_t *q = p + codes + 32 * (i32 / 2) + 16 * h, *fifth = p + 16 + 16 * h;
        for (int i = 0; i < 16; i++) {
            int code = q[i] >> 4 * (i32 & 1) & 15;
            if (T == DT_Q5_K)
                code |= (fifth[i] >> i32 & 1) << 4;
            v[i] = __fsub_rn(__fmul_rn(ds, (float)code), m);
        }
    } else if (T == DT_Q6_K) {
        const int i32 = (int)(g / 2 & 7), half = i32 / 4, run = i32 % 4;
        p = row + g / 16 * 210;
        const uint8_t *low = p + 64 * half + 32 * (run & 1) + 16 * h, *top = p + 128 + 32 * half + 16 * h;
        float d = __fmul_rn(half_at(p + 208), (float)(int8_t)p[192 + 2 * i32 + h]);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] =
                __fmul_rn(d, (float)(((low[i] >> 4 * (run / 2) & 15) | (top[i] >> 2 * run & 3) << 4) - 32));
    }
}

/* The same with block scales. Rows of the formats without blocks end anywhere; what lies past the end is 0.
 */
template <int T>
__device__ __forceinline__ void decode_blocks(const part_view &part, size_t row, size_t g, size_t cols,
                                              float *v) {
    const uint8_t *bytes = part.data + row * part.row_bytes;
    constexpr bool blockless =
        T == DT_F32 || T == DT_F16 || T == DT_BF16 || T == DT_F8_E4M3 || T == DT_F8_E5M2;
    constexpr int bytes_each = T == DT_F32 ? 4 : T == DT_F16 || T == DT_BF16 ? 2 : 1;
    if (blockless && 16 * g + 16 > cols) {
        uint32_t whole[16] = {};
        size_t rest = 16 * g < cols ? cols - 16 * g : 0;
        for (size_t i = 0; i < rest * bytes_each; i++)
            ((uint8_t *)whole)[i] = bytes[16 * g * bytes_each + i];
        decode_bare<T>((const uint8_t *)whole, 0, v);
    } else if (16 * g >= cols) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] = 0;
        return;
    } else {
        decode_bare<T>(bytes, g, v);
    }
    if (T == DT_NVFP4 || T == DT_MXFP4) {
        const uint8_t *scales = part.block_scales + row * (cols / (T == DT_NVFP4 ? 16 : 32));
        float s = T == DT_NVFP4 ? from_e4m3(scales[g]) : e8m0_value(scales[g / 2]);
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] *= s;
    }
}

/* What multiplies a whole row. */
__device__ __forceinline__ float row_factor(const part_view &part, size_t row) {
    return part.row_scales ? part.row_scales[row] * part.tensor_scale : part.tensor_scale;
}

/* With every scale, multiplied in tensor_decode_row's order. */
template <int T>
__device__ __forceinline__ void decode16(const part_view &part, size_t row, size_t g, size_t cols, float *v) {
    decode_blocks<T>(part, row, g, cols, v);
    if (part.row_scales) {
        float s = part.row_scales[row];
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] *= s;
    }
    if (part.tensor_scale != 1.0f) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            v[i] *= part.tensor_scale;
    }
}

/* CALL(T) for the format in TYPE. */
#define CODEC_SWITCH(type, CALL)                                                                             \
    switch (type) {                                                                                          \
        CODEC_CASE(DT_F32, CALL)                                                                             \
        CODEC_CASE(DT_F16, CALL)                                                                             \
        CODEC_CASE(DT_BF16, CALL)                                                                            \
        CODEC_CASE(DT_F8_E4M3, CALL)                                                                         \
        CODEC_CASE(DT_F8_E5M2, CALL)                                                                         \
        CODEC_CASE(DT_NVFP4, CALL)                                                                           \
        CODEC_CASE(DT_MXFP4, CALL)                                                                           \
        CODEC_CASE(DT_GGUF_NVFP4, CALL)                                                                      \
        CODEC_CASE(DT_GGUF_MXFP4, CALL)                                                                      \
        CODEC_CASE(DT_Q4_0, CALL)                                                                            \
        CODEC_CASE(DT_Q4_1, CALL)                                                                            \
        CODEC_CASE(DT_Q5_0, CALL)                                                                            \
        CODEC_CASE(DT_Q5_1, CALL)                                                                            \
        CODEC_CASE(DT_Q8_0, CALL)                                                                            \
        CODEC_CASE(DT_IQ4_NL, CALL)                                                                          \
        CODEC_CASE(DT_Q4_K, CALL)                                                                            \
        CODEC_CASE(DT_Q5_K, CALL)                                                                            \
        CODEC_CASE(DT_Q6_K, CALL)                                                                            \
    default:                                                                                                 \
        return cudaErrorInvalidValue;                                                                        \
    }
#define CODEC_CASE(T, CALL)                                                                                  \
    case T:                                                                                                  \
        CALL(T);                                                                                             \
        break;

#endif
