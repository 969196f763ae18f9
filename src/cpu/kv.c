/* SPDX-License-Identifier: Apache-2.0
 *
 * The pages' memory. Zeroed by the system page by page, so that room for tokens nobody has sent yet costs
 * nothing.
 */
#include "cpu/kv.h"

#include <assert.h>
#include <stdint.h>

#include "base/mem.h"

static size_t element_bytes(nib_kv_dtype t) {
    return t == NIB_KV_FP8 ? 1 : t == NIB_KV_FP32 ? 4 : 2;
}

/* Zeroed, 64-byte aligned; *memory is what mem_free takes. */
static void *zeroed(void **memory, size_t n, size_t size) {
    size_t bytes;
    if (!mem_mul(n, size, &bytes) || !mem_add(bytes, 63, &bytes))
        return NULL;
    *memory = mem_array(bytes, 1);
    return *memory ? (void *)(((uintptr_t)*memory + 63) & ~(uintptr_t)63) : NULL;
}

nib_status kv_cache_new(kv_cache **out, const kv_shape *shape, bool steps, nib_error *err) {
    assert(shape->n_layers > 0 && shape->n_kv_heads > 0 && shape->n_pages > 0 && shape->head_dim > 0 &&
           shape->head_dim % 2 == 0);
    kv_cache *kv = mem_array(1, sizeof *kv);
    if (!kv)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the KV cache");
    kv->shape = *shape;
    if (kv->shape.dtype == NIB_KV_AUTO)
        kv->shape.dtype = NIB_KV_BF16;
    size_t blocks;
    kv->block_bytes = (size_t)KV_PAGE_TOKENS * (size_t)shape->head_dim * element_bytes(kv->shape.dtype);
    bool ok = mem_mul((size_t)shape->n_layers * (size_t)shape->n_kv_heads, (size_t)shape->n_pages, &blocks);
    kv->n_blocks = ok ? blocks : 0;
    ok = ok && (kv->k = zeroed(&kv->memory[0], blocks, kv->block_bytes)) &&
         (kv->v = zeroed(&kv->memory[1], blocks, kv->block_bytes));
    if (ok && kv->shape.dtype == NIB_KV_FP8) {
        size_t scale_bytes = KV_PAGE_TOKENS * sizeof(float);
        ok = (kv->k_scales = zeroed(&kv->memory[2], blocks, scale_bytes)) &&
             (kv->v_scales = zeroed(&kv->memory[3], blocks, scale_bytes));
    }
    if (ok && steps) {
        size_t step_bytes = KV_PAGE_TOKENS * sizeof(float);
        ok = (kv->k_steps = zeroed(&kv->memory[4], blocks, step_bytes)) &&
             (kv->v_steps = zeroed(&kv->memory[5], blocks, step_bytes));
    }
    if (!ok) {
        kv_cache_free(kv);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a KV cache of %d pages of %d tokens",
                        shape->n_pages, KV_PAGE_TOKENS);
    }
    *out = kv;
    return NIB_OK;
}

void kv_cache_free(kv_cache *kv) {
    if (!kv)
        return;
    for (int i = 0; i < 6; i++)
        mem_free(kv->memory[i]);
    mem_free(kv);
}

size_t kv_cache_bytes(const kv_cache *kv) {
    size_t token_floats = (kv->k_scales ? 2 : 0) + (kv->k_steps ? 2 : 0);
    return kv->n_blocks * (2 * kv->block_bytes + token_floats * KV_PAGE_TOKENS * sizeof(float));
}
