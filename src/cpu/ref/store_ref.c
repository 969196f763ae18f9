/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys and values into their pages, written to be read. Layouts: kv.h.
 */
#include <math.h>

#include "cpu/kernels.h"
#include "num/fp8.h"

/* The largest |x| becomes 448, the largest E4M3. Below TINY, where the factor would overflow, all is zero. */
static float fp8_factor(const float *x, size_t n, float *scale) {
    const float tiny = 0x1p-100f;
    float amax = 0;
    for (size_t i = 0; i < n; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    *scale = amax < tiny ? 0 : amax / 448.0f;
    return amax < tiny ? 0 : 448.0f / amax;
}

static size_t k_at(size_t i, size_t t) {
    return (i / 2 * KV_PAGE_TOKENS + t) * 2 + i % 2;
}

static void store_k_bf16(void *block, float *scales, size_t d, size_t t, size_t n, const float *x,
                         size_t x_stride) {
    (void)scales;
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < d; i++)
            ((uint16_t *)block)[k_at(i, t + j)] = bf16_from_f32(x[j * x_stride + i]);
}

static void store_v_bf16(void *block, float *scales, size_t d, size_t t, size_t n, const float *x,
                         size_t x_stride) {
    (void)scales;
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < d; i++)
            ((uint16_t *)block)[(t + j) * d + i] = bf16_from_f32(x[j * x_stride + i]);
}

static void store_k_fp8(void *block, float *scales, size_t d, size_t t, size_t n, const float *x,
                        size_t x_stride) {
    for (size_t j = 0; j < n; j++) {
        float factor = fp8_factor(x + j * x_stride, d, &scales[t + j]);
        for (size_t i = 0; i < d; i++)
            ((uint8_t *)block)[k_at(i, t + j)] = e4m3_from_f32_sat(x[j * x_stride + i] * factor);
    }
}

static void store_v_fp8(void *block, float *scales, size_t d, size_t t, size_t n, const float *x,
                        size_t x_stride) {
    for (size_t j = 0; j < n; j++) {
        float factor = fp8_factor(x + j * x_stride, d, &scales[t + j]);
        for (size_t i = 0; i < d; i++)
            ((uint8_t *)block)[(t + j) * d + i] = e4m3_from_f32_sat(x[j * x_stride + i] * factor);
    }
}

static void store_k_fp32(void *block, float *scales, size_t d, size_t t, size_t n, const float *x,
                         size_t x_stride) {
    (void)scales;
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < d; i++)
            ((float *)block)[i * KV_PAGE_TOKENS + t + j] = x[j * x_stride + i];
}

static void store_v_fp32(void *block, float *scales, size_t d, size_t t, size_t n, const float *x,
                         size_t x_stride) {
    (void)scales;
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < d; i++)
            ((float *)block)[(t + j) * d + i] = x[j * x_stride + i];
}

void store_ref_init(cpu_kernels *k) {
    k->store_k[NIB_KV_BF16] = store_k_bf16;
    k->store_v[NIB_KV_BF16] = store_v_bf16;
    k->store_k[NIB_KV_FP8] = store_k_fp8;
    k->store_v[NIB_KV_FP8] = store_v_fp8;
    k->store_k[NIB_KV_FP32] = store_k_fp32;
    k->store_v[NIB_KV_FP32] = store_v_fp32;
}
