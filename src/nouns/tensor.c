/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of a stored tensor: its elements times what stands beside them.
 */
#include "nouns/tensor.h"

#include <assert.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/fp8.h"

static size_t tiles_in_row(const tensor *t) {
    return (t->cols + t->tile_cols - 1) / t->tile_cols;
}

size_t tensor_total_bytes(const tensor *t) {
    size_t bytes = t->bytes;
    if (t->block_scales)
        bytes += t->rows * (t->cols / (t->dtype == DT_MXFP4 ? 32 : 16));
    if (t->row_scales)
        bytes += t->rows * sizeof(float);
    if (t->tile_scales)
        bytes += (t->rows + t->tile_rows - 1) / t->tile_rows * tiles_in_row(t) * sizeof(float);
    return bytes + (t->tensor_scale != 1.0f ? sizeof(float) : 0) + tensor_branch_bytes(t);
}

size_t tensor_branch_bytes(const tensor *t) {
    return t->branch.rank * (t->rows + t->cols) * sizeof *t->branch.up;
}

static size_t lines(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* SRC [n], if there is any, to *at, which moves on; *copy is where it lies. */
static nib_status take(const void **copy, char **at, const void *src, size_t n, nib_error *err) {
    *copy = NULL;
    if (!src)
        return NIB_OK;
    void *dst = *at;
    *at += lines(n);
    *copy = dst;
    return mapfile_read(dst, src, n, err);
}

nib_status tensor_read(tensor *out, void **memory, const tensor *t, nib_error *err) {
    size_t row_scales = t->row_scales ? t->rows * sizeof *t->row_scales : 0;
    size_t block_scales = t->block_scales ? t->rows * (t->cols / (t->dtype == DT_MXFP4 ? 32 : 16)) : 0;
    size_t down_bytes = t->branch.rank * t->cols * 2, up_bytes = t->branch.rank * t->rows * 2;
    const void *data = NULL, *blocks = NULL, *rows = NULL, *down = NULL, *up = NULL;
    nib_error why = {""};
    char *at = *memory = mem_aligned(lines(t->bytes) + lines(block_scales) + lines(row_scales) +
                                     lines(down_bytes) + lines(up_bytes) + 64);
    if (!at)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for tensor '%s' of %zu bytes", t->name, t->bytes);
    nib_status status = take(&data, &at, t->data, t->bytes, &why);
    if (status == NIB_OK)
        status = take(&blocks, &at, t->block_scales, block_scales, &why);
    if (status == NIB_OK)
        status = take(&rows, &at, t->row_scales, row_scales, &why);
    if (status == NIB_OK)
        status = take(&down, &at, t->branch.down, down_bytes, &why);
    if (status == NIB_OK)
        status = take(&up, &at, t->branch.up, up_bytes, &why);
    if (status != NIB_OK) {
        mem_free(*memory);
        *memory = NULL;
        return nib_fail(err, status, "tensor '%s': %s", t->name, why.text);
    }
    *out = *t;
    out->data = data;
    out->block_scales = blocks;
    out->row_scales = rows;
    out->branch.down = down;
    out->branch.up = up;
    return NIB_OK;
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

static void apply_tile_scales(const tensor *t, size_t row, float *dst) {
    const float *scales = t->tile_scales + (t->tile_first + row) / t->tile_rows * tiles_in_row(t);
    for (size_t c = 0; c < t->cols; c++)
        dst[c] *= scales[c / t->tile_cols];
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
    if (t->tile_scales) {
        size_t at = t->tile_first + first;
        part.tile_scales = t->tile_scales + at / t->tile_rows * tiles_in_row(t);
        part.tile_first = at % t->tile_rows;
    }
    if (t->branch.rank)
        part.branch.up = t->branch.up + first * t->branch.rank;
    return part;
}

tensor tensor_beside(const tensor *of, dtype type, const void *values, size_t rows, size_t cols) {
    tensor t = {.name = of->name,
                .place = of->place,
                .dtype = type,
                .rows = rows,
                .cols = cols,
                .n_dims = 2,
                .dims = {rows, cols},
                .data = values,
                .tensor_scale = 1};
    size_t row_bytes;
    bool whole = dtype_bytes(type, cols, &row_bytes) && mem_mul(rows, row_bytes, &t.bytes);
    assert(whole);
    (void)whole;
    return t;
}

void tensor_branch_add(const tensor_branch *b, size_t cols, size_t row, float *dst) {
    enum { STRETCH = 256 };
    for (size_t from = 0; from < cols; from += STRETCH) {
        const size_t n = cols - from < STRETCH ? cols - from : STRETCH;
        double sums[STRETCH] = {0};
        for (size_t k = 0; k < b->rank; k++) {
            const double up = (double)bf16_to_f32(b->up[row * b->rank + k]);
            for (size_t c = 0; c < n; c++)
                sums[c] += up * (double)bf16_to_f32(b->down[k * cols + from + c]);
        }
        for (size_t c = 0; c < n; c++)
            dst[from + c] += (float)((double)b->scale * sums[c]);
    }
}

void tensor_decode_row(const tensor *t, size_t row, float *dst) {
    size_t row_bytes;
    bool whole = dtype_bytes(t->dtype, t->cols, &row_bytes);
    assert(whole && row < t->rows);
    (void)whole;
    dtype_decode(t->dtype, (const unsigned char *)t->data + row * row_bytes, dst, t->cols);
    if (t->block_scales)
        apply_block_scales(t, row, dst);
    if (t->tile_scales)
        apply_tile_scales(t, row, dst);
    if (t->row_scales)
        for (size_t c = 0; c < t->cols; c++)
            dst[c] *= t->row_scales[row];
    if (t->tensor_scale != 1.0f)
        for (size_t c = 0; c < t->cols; c++)
            dst[c] *= t->tensor_scale;
    if (t->branch.rank)
        tensor_branch_add(&t->branch, t->cols, row, dst);
}
