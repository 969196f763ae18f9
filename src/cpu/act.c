/* SPDX-License-Identifier: Apache-2.0
 *
 * Buffers: one allocation each, zeroed, so that padding is zero for ever (ops write [0, cols) only, and
 * quantizing zeros gives zeros).
 */
#include "cpu/act.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static size_t lines(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

nib_status act_new(buf **out, buf_kind kind, size_t max_rows, size_t cols, bool int8, nib_error *err) {
    assert(max_rows > 0 && cols > 0);
    size_t stride = kind == BUF_ACT ? (cols + ACT_PAD - 1) / ACT_PAD * ACT_PAD : cols;
    size_t n, worst;
    if (!mem_mul(max_rows, stride, &n) || !mem_mul(n, 8, &worst) || worst > SIZE_MAX / 2)
        return nib_fail(err, NIB_NO_MEMORY, "a buffer of %zu rows of %zu columns is too large", max_rows,
                        cols);
    bool blocks = kind == BUF_ACT && int8;
    size_t f32_bytes = lines(n * sizeof(float));
    size_t total = f32_bytes + (blocks ? lines(n / ACT_BLOCK * sizeof(act_block)) : 0);
    buf *b = mem_array(1, sizeof *b);
    uint8_t *memory = mem_aligned(total);
    if (!b || !memory) {
        mem_free(b);
        mem_free(memory);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a buffer of %zu rows of %zu columns (%zu bytes)",
                        max_rows, cols, total);
    }
    memset(memory, 0, total);
    *b = (buf){.kind = kind, .max_rows = max_rows, .cols = cols, .stride = stride, .f32 = (float *)memory};
    if (blocks)
        b->blocks = (act_block *)(memory + f32_bytes);
    *out = b;
    return NIB_OK;
}

void act_free(buf *b) {
    if (!b)
        return;
    mem_free(b->f32);
    mem_free(b);
}
