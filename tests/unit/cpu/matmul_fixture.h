/* SPDX-License-Identifier: Apache-2.0
 *
 * Random tensors of every stored format, for the tests of packing and of matrix products: any bytes are a
 * valid tensor, apart from scales that are kept finite. Shapes of the values are chosen by `fill`.
 */
#ifndef TESTS_MATMUL_FIXTURE_H
#define TESTS_MATMUL_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nouns/tensor.h"
#include "num/bf16.h"
#include "num/fp8.h"

typedef enum fill { FILL_RANDOM, FILL_ZERO, FILL_MAX, FILL_COUNT } fill;

typedef struct rng {
    uint64_t state;
} rng;

static inline uint32_t rng_u32(rng *r) {
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->state >> 33) ^ (uint32_t)(r->state >> 13);
}

static inline float rng_normal(rng *r) {
    float sum = 0.0f;
    for (int i = 0; i < 12; i++)
        sum += (float)(rng_u32(r) & 0xffff) / 65536.0f;
    return sum - 6.0f;
}

static inline void put_half(unsigned char *p, float x) {
    uint16_t h = f16_from_f32(x);
    memcpy(p, &h, 2);
}

/* Where the F16 scales of a block lie; -1: nowhere. */
static inline void half_places(dtype t, int places[2]) {
    places[0] = places[1] = -1;
    if (t == DT_Q6_K)
        places[0] = 208;
    else if (t == DT_Q4_0 || t == DT_Q5_0 || t == DT_Q8_0 || t == DT_IQ4_NL)
        places[0] = 0;
    else if (t == DT_IQ4_XS || t == DT_IQ3_S)
        places[0] = 0;
    else if (t == DT_Q4_1 || t == DT_Q5_1 || t == DT_Q4_K || t == DT_Q5_K)
        places[0] = 0, places[1] = 2;
    else if (t == DT_Q2_K)
        places[0] = 80, places[1] = 82;
    else if (t == DT_TQ1_0)
        places[0] = 52;
}

static inline void fixture_values(dtype t, void *data, size_t n, rng *r, fill f) {
    for (size_t i = 0; i < n; i++) {
        float v = f == FILL_ZERO ? 0.0f : f == FILL_MAX ? 448.0f : rng_normal(r) * 0.1f;
        if (t == DT_F32)
            ((float *)data)[i] = v;
        else if (t == DT_F16)
            ((uint16_t *)data)[i] = f16_from_f32(v);
        else if (t == DT_BF16)
            ((uint16_t *)data)[i] = bf16_from_f32(v);
        else if (t == DT_F8_E4M3)
            ((uint8_t *)data)[i] = e4m3_from_f32_sat(v);
        else
            ((uint8_t *)data)[i] = e5m2_from_f32_sat(v);
    }
}

static inline void fixture_blocks(dtype t, unsigned char *data, size_t n_blocks, rng *r, fill f) {
    const dtype_info *info = dtype_get(t);
    int places[2];
    half_places(t, places);
    for (size_t b = 0; b < n_blocks; b++, data += info->block_bytes) {
        for (size_t i = 0; i < info->block_bytes; i++)
            data[i] = f == FILL_ZERO ? 0 : f == FILL_MAX ? 0x77 : (unsigned char)rng_u32(r);
        for (int i = 0; i < 2; i++)
            if (places[i] >= 0)
                put_half(data + places[i], f == FILL_ZERO ? 0.0f : rng_normal(r) * 0.02f);
        if (t == DT_GGUF_MXFP4)
            data[0] = (unsigned char)(f == FILL_MAX ? 124 : 115 + rng_u32(r) % 12);
        if (t == DT_GGUF_NVFP4 && f == FILL_RANDOM)
            for (int i = 0; i < 4; i++)
                data[i] = (unsigned char)(rng_u32(r) % 8 ? rng_u32(r) % 0x60 : rng_u32(r));
    }
}

static inline uint8_t *fixture_scales(const tensor *t, rng *r, fill f) {
    bool mx = t->dtype == DT_MXFP4;
    size_t n = t->rows * (t->cols / (mx ? 32 : 16));
    uint8_t *scales = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        if (mx)
            scales[i] = (uint8_t)(f == FILL_MAX ? 130 : 110 + rng_u32(r) % 20);
        else
            scales[i] = (uint8_t)(f == FILL_ZERO ? 0 : f == FILL_MAX ? 0x7e : rng_u32(r) % 0x7f);
    return scales;
}

/* Freed with fixture_free. SCALED: with a tensor scale and, where the format may have them, row scales. */
static inline tensor fixture_tensor(dtype type, size_t rows, size_t cols, rng *r, fill f, bool scaled) {
    tensor t = {.name = "fixture", .dtype = type, .rows = rows, .cols = cols, .tensor_scale = 1.0f};
    size_t row_bytes = 0;
    assert_true(dtype_bytes(type, cols, &row_bytes));
    t.bytes = rows * row_bytes;
    t.data = malloc(t.bytes);
    const dtype_info *info = dtype_get(type);
    if (info->block == 1)
        fixture_values(type, (void *)t.data, rows * cols, r, f);
    else
        fixture_blocks(type, (void *)t.data, rows * (cols / info->block), r, f);
    if (type == DT_NVFP4 || type == DT_MXFP4)
        t.block_scales = fixture_scales(&t, r, f);
    if (scaled) {
        t.tensor_scale = 0.37f;
        float *row_scales = malloc(rows * sizeof *row_scales);
        for (size_t i = 0; i < rows; i++)
            row_scales[i] = 0.5f + (float)(rng_u32(r) % 1000) / 1000.0f;
        t.row_scales = row_scales;
    }
    return t;
}

static inline void fixture_free(tensor *t) {
    free((void *)t->data);
    free((void *)t->block_scales);
    free((void *)t->row_scales);
}

#endif
