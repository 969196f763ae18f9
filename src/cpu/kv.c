/* SPDX-License-Identifier: Apache-2.0
 *
 * The pages' memory. Zeroed by the system where it is first touched, so that room for tokens nobody has sent
 * yet costs nothing; in large pages, since a step touches a few lines in each block of each sequence.
 */
#include "cpu/kv.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

static size_t element_bytes(nib_kv_dtype t) {
    return t == NIB_KV_FP8 ? 1 : t == NIB_KV_FP32 ? 4 : 2;
}

static void *zeroed(void **memory, size_t n, size_t size) {
    size_t bytes;
    return mem_mul(n, size, &bytes) ? mem_large(memory, bytes) : NULL;
}

/* Bytes of keys (or values) of one page and KV head. */
static size_t block_bytes(const cache_shape *shape) {
    return (size_t)KV_PAGE_TOKENS * (size_t)shape->head_dim * element_bytes(shape->dtype);
}

nib_status kv_open(kv_cache *kv, const cache_shape *shape, bool steps, nib_error *err) {
    int n_pages = shape->group.n_pages;
    assert(shape->n_layers > 0 && shape->n_kv_heads > 0 && n_pages > 0 && shape->head_dim > 0 &&
           shape->head_dim % 2 == 0 && shape->group.kind != CACHE_STATE && shape->dtype != NIB_KV_AUTO);
    *kv = (kv_cache){.shape = *shape, .block_bytes = block_bytes(shape)};
    size_t blocks, line = KV_PAGE_TOKENS * sizeof(float);
    bool ok = mem_mul((size_t)shape->n_layers * (size_t)shape->n_kv_heads, (size_t)n_pages, &blocks) &&
              (kv->k = zeroed(&kv->memory[0], blocks, kv->block_bytes)) &&
              (kv->v = zeroed(&kv->memory[1], blocks, kv->block_bytes));
    if (ok && shape->dtype == NIB_KV_FP8)
        ok = (kv->k_scales = zeroed(&kv->memory[2], blocks, line)) &&
             (kv->v_scales = zeroed(&kv->memory[3], blocks, line));
    if (ok && steps)
        ok = (kv->k_steps = zeroed(&kv->memory[4], blocks, line)) &&
             (kv->v_steps = zeroed(&kv->memory[5], blocks, line));
    if (ok)
        return NIB_OK;
    kv_close(kv);
    return nib_fail(err, NIB_NO_MEMORY,
                    "no memory for a KV cache of %d pages of %d tokens; a smaller max_model_len takes fewer",
                    n_pages, KV_PAGE_TOKENS);
}

void kv_close(kv_cache *kv) {
    for (int i = 0; i < 6; i++)
        mem_free(kv->memory[i]);
    *kv = (kv_cache){0};
}

size_t kv_page_bytes(const cache_shape *shape, bool steps) {
    size_t token_floats = (shape->dtype == NIB_KV_FP8 ? 2 : 0) + (steps ? 2 : 0);
    return (size_t)shape->n_layers * (size_t)shape->n_kv_heads *
           (2 * block_bytes(shape) + token_floats * KV_PAGE_TOKENS * sizeof(float));
}

void kv_copy_page(kv_cache *kv, int to, int from) {
    size_t blocks = (size_t)kv->shape.n_layers * (size_t)kv->shape.n_kv_heads;
    size_t a = kv_block(kv, 0, to, 0), b = kv_block(kv, 0, from, 0), tokens = blocks * KV_PAGE_TOKENS;
    float *const scalars[] = {kv->k_scales, kv->v_scales, kv->k_steps, kv->v_steps};
    memcpy(kv->k + a * kv->block_bytes, kv->k + b * kv->block_bytes, blocks * kv->block_bytes);
    memcpy(kv->v + a * kv->block_bytes, kv->v + b * kv->block_bytes, blocks * kv->block_bytes);
    for (int i = 0; i < 4; i++)
        if (scalars[i])
            memcpy(scalars[i] + a * KV_PAGE_TOKENS, scalars[i] + b * KV_PAGE_TOKENS, tokens * sizeof(float));
}
