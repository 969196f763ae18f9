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

nib_status act_new(act **out, buf_kind kind, size_t max_rows, size_t cols, bool int8, nib_error *err) {
    assert(max_rows > 0 && cols > 0);
    size_t stride = kind == BUF_ACT ? (cols + ACT_PAD - 1) / ACT_PAD * ACT_PAD : cols;
    size_t n, worst;
    if (!mem_mul(max_rows, stride, &n) || !mem_mul(n, 8, &worst) || worst > SIZE_MAX / 2)
        return nib_fail(err, NIB_NO_MEMORY, "a buffer of %zu rows of %zu columns is too large", max_rows,
                        cols);
    bool blocks = kind == BUF_ACT && int8;
    size_t f32_bytes = lines(n * sizeof(float));
    size_t total = f32_bytes + (blocks ? lines(n / ACT_BLOCK * sizeof(act_block)) : 0);
    act *b = mem_array(1, sizeof *b);
    uint8_t *memory = mem_aligned(total);
    if (!b || !memory) {
        mem_free(b);
        mem_free(memory);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a buffer of %zu rows of %zu columns (%zu bytes)",
                        max_rows, cols, total);
    }
    memset(memory, 0, total);
    *b = (act){
        .head = {.kind = kind, .max_rows = max_rows, .cols = cols}, .stride = stride, .f32 = (float *)memory};
    if (blocks)
        b->blocks = (act_block *)(memory + f32_bytes);
    *out = b;
    return NIB_OK;
}

void act_free(act *b) {
    if (!b)
        return;
    mem_free(b->f32);
    mem_free(b);
}

nib_status act_vec_new(cpu_vec **out, vec_kind kind, size_t n, const void *values, nib_error *err) {
    size_t size = kind == VEC_F32 ? sizeof(float) : sizeof(double);
    cpu_vec *v = mem_array(1, sizeof *v);
    if (v)
        *v = (cpu_vec){.head = {.kind = kind, .n = n}, .values = mem_array(n, size)};
    if (!v || !v->values) {
        act_vec_free(v);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a vector of %zu numbers", n);
    }
    if (values)
        memcpy(v->values, values, n * size);
    *out = v;
    return NIB_OK;
}

void act_vec_free(cpu_vec *v) {
    if (!v)
        return;
    mem_free(v->values);
    mem_free(v);
}
