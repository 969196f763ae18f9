/* SPDX-License-Identifier: Apache-2.0
 *
 * What a matrix product is, written to be read. Every rung gives these bits: a weight row is one lane of a
 * vector, so the order below is every kernel's order. fmaf is one multiply-add with one rounding.
 *
 * 8-bit activations, per row of weights and of activations, over blocks of 16 columns in order:
 *     dot = sum of the block's weight codes * activation codes     int32, exact
 *     acc = fmaf((float)dot * weight scale, activation scale, acc)
 *     acc = fmaf(least value, sum of the activation codes * activation scale, acc)    where there are any
 * FP32 activations, packed weights:
 *     sum = v[0] * x[0]; sum = fmaf(v[i], x[i], sum), i = 1..15;   v: the code's value without its scale
 *     acc = fmaf(sum, weight scale, acc)
 * FP32 activations, weights by rows: 16 sums, lane l adds up columns l, l + 16, ... by fmaf; then lane l gets
 *     lane l + 8, then l + 4, l + 2, l + 1.
 *
 * matmul.c multiplies the result by the scales of the row and the tensor.
 */
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"
#include "cpu/ref/quantize_act.h"

/* Row R of block B of a cut as integers, its scale and its least value; a row that is not there is zeros. */
static void block_values(int values[16], float *scale, float *least, const matmul_cut *cut, size_t b,
                         size_t r) {
    const pack_part *p = cut->part;
    size_t row = cut->group * PACK_LANES + r;
    uint8_t codes[16];
    bool there = row < p->rows && (cut->block + b) * 16 < p->cols;
    *scale = *least = 0.0f;
    memset(values, 0, 16 * sizeof *values);
    if (!there)
        return;
    pack_block(p, row, cut->block + b, codes, scale, least);
    for (size_t i = 0; i < 16; i++)
        values[i] = pack_value(p, codes[i]);
}

/* codes I8 [block][column][MATMUL_TILE]; scales [block][2][MATMUL_TILE]: scale, least value */
static void tile8_ref(uint8_t *codes, float *scales, const matmul_cut *cut) {
    for (size_t b = 0; b < cut->n_blocks; b++, scales += 2 * MATMUL_TILE)
        for (size_t r = 0; r < MATMUL_TILE; r++) {
            int values[16];
            block_values(values, scales + r, scales + MATMUL_TILE + r, cut, b, r);
            for (size_t i = 0; i < 16; i++)
                codes[(b * 16 + i) * MATMUL_TILE + r] = (uint8_t)values[i];
        }
}

static void mul8(float *acc, const uint8_t *codes, const float *scales, size_t n_groups, size_t n_blocks,
                 const act_block *x, size_t stride, size_t n_tokens, bool affine) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < n_groups * PACK_LANES; r++) {
            float sum = acc[t * MATMUL_TILE + r];
            for (size_t b = 0; b < n_blocks; b++) {
                const act_block *xb = x + t * stride + b;
                const float *scale = scales + b * 2 * MATMUL_TILE + r;
                int32_t dot = 0;
                for (size_t i = 0; i < 16; i++)
                    dot += (int8_t)codes[(b * 16 + act_column(i)) * MATMUL_TILE + r] * xb->codes[i];
                sum = fmaf((float)dot * scale[0], xb->scale, sum);
                if (affine)
                    sum = fmaf(scale[MATMUL_TILE], xb->sum, sum);
            }
            acc[t * MATMUL_TILE + r] = sum;
        }
}

static void mul8_ref(float *acc, const uint8_t *codes, const float *scales, size_t n_groups, size_t n_blocks,
                     const act_block *x, size_t stride, size_t n_tokens) {
    mul8(acc, codes, scales, n_groups, n_blocks, x, stride, n_tokens, false);
}

static void mul8_affine_ref(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                            size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens) {
    mul8(acc, codes, scales, n_groups, n_blocks, x, stride, n_tokens, true);
}

/* values [block][column][MATMUL_TILE], scales [block][MATMUL_TILE] */
static void tile32_ref(float *values, float *scales, const matmul_cut *cut) {
    for (size_t b = 0; b < cut->n_blocks; b++)
        for (size_t r = 0; r < MATMUL_TILE; r++) {
            int integers[16];
            float least;
            block_values(integers, &scales[b * MATMUL_TILE + r], &least, cut, b, r);
            for (size_t i = 0; i < 16; i++)
                values[(b * 16 + i) * MATMUL_TILE + r] = (float)integers[i];
        }
}

static void mul32_ref(float *acc, const float *values, const float *scales, size_t n_groups, size_t n_blocks,
                      const float *x, size_t stride, size_t n_tokens) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < n_groups * PACK_LANES; r++) {
            float sum = acc[t * MATMUL_TILE + r];
            for (size_t b = 0; b < n_blocks; b++) {
                const float *v = values + b * 16 * MATMUL_TILE + r, *xs = x + t * stride + b * 16;
                float block = v[0] * xs[0];
                for (size_t i = 1; i < 16; i++)
                    block = fmaf(v[i * MATMUL_TILE], xs[i], block);
                sum = fmaf(block, scales[b * MATMUL_TILE + r], sum);
            }
            acc[t * MATMUL_TILE + r] = sum;
        }
}

static float dot_row(const float *w, const float *x, size_t n) {
    float lanes[16] = {0};
    for (size_t c = 0; c < n; c++)
        lanes[c % 16] = fmaf(w[c], x[c], lanes[c % 16]);
    for (size_t half = 8; half; half /= 2)
        for (size_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

static void mul_rows_ref(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x,
                         size_t x_stride, size_t n_tokens, size_t n) {
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < n_w; i++)
            acc[t * MATMUL_TILE + i] = dot_row(w + i * w_stride, x + t * x_stride, n);
}

void matmul_ref_init(matmul_kernels *m) {
    *m = (matmul_kernels){.quantize_act = quantize_act_ref, .mul_rows = mul_rows_ref};
    for (int kind = PACK_NVFP4; kind < PACK_KINDS; kind++)
        m->tile8[kind] = tile8_ref;
    for (int kind = PACK_NVFP4; kind <= PACK_Q8_0; kind++)
        m->tile32[kind] = tile32_ref;
    m->mul8[PACK_NARROW] = m->mul8[PACK_WIDE] = mul8_ref;
    m->mul8[PACK_AFFINE] = mul8_affine_ref;
    m->mul32 = mul32_ref;
}
