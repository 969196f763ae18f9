/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of a stored tensor: its elements times what stands beside them.
 */
#include "nouns/tensor.h"

#include <assert.h>

#include "num/e2m1.h"
#include "num/fp8.h"

size_t tensor_total_bytes(const tensor *t) {
    size_t bytes = t->bytes;
    if (t->block_scales)
        bytes += t->rows * (t->cols / (t->dtype == DT_MXFP4 ? 32 : 16));
    if (t->row_scales)
        bytes += t->rows * sizeof(float);
    return bytes + (t->tensor_scale != 1.0f ? sizeof(float) : 0);
}

/* dst[c] *= scale of c's block. An element times a block scale is exact in FP32. */
static void apply_block_scales(const tensor *t, size_t row, float *dst) {
    size_t block = t->dtype == DT_MXFP4 ? 32 : 16, n = t->cols / block;
    const uint8_t *scales = t->block_scales + row * n;
    for (size_t b = 0; b < n; b++) {
        float scale = t->dtype == DT_MXFP4 ? e8m0_to_f32(scales[b]) : e4m3_to_f32(scales[b]);
        for (size_t i = 0; i < block; i++)
            dst[b * block + i] *= scale;
    }
}

tensor tensor_rows(const tensor *t, size_t first, size_t n) {
    size_t row_bytes = t->bytes / t->rows;
    assert(t->bytes % t->rows == 0 && first + n <= t->rows);
    tensor part = *t;
    part.rows = part.dims[0] = n;
    part.data = (const unsigned char *)t->data + first * row_bytes;
    part.bytes = n * row_bytes;
    if (t->block_scales)
        part.block_scales = t->block_scales + first * (t->cols / (t->dtype == DT_MXFP4 ? 32 : 16));
    if (t->row_scales)
        part.row_scales = t->row_scales + first;
    return part;
}

void tensor_decode_row(const tensor *t, size_t row, float *dst) {
    size_t row_bytes;
    bool whole = dtype_bytes(t->dtype, t->cols, &row_bytes);
    assert(whole && row < t->rows);
    (void)whole;
    dtype_decode(t->dtype, (const unsigned char *)t->data + row * row_bytes, dst, t->cols);
    if (t->block_scales)
        apply_block_scales(t, row, dst);
    if (t->row_scales)
        for (size_t c = 0; c < t->cols; c++)
            dst[c] *= t->row_scales[row];
    if (t->tensor_scale != 1.0f)
        for (size_t c = 0; c < t->cols; c++)
            dst[c] *= t->tensor_scale;
}
