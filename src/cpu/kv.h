/* SPDX-License-Identifier: Apache-2.0
 *
 * KV cache in memory. Per page, layer and KV head one block of keys and one of values of KV_PAGE_TOKENS
 * positions: what a sequence takes lies together. Blocks are laid out for the attention kernels (lanes are
 * keys for q.k, dimensions for p.v):
 *
 *   K  BF16, FP8: [head_dim / 2][KV_PAGE_TOKENS][2]   dimensions 2i and 2i+1 of a token side by side
 *      FP32:      [head_dim][KV_PAGE_TOKENS]
 *   V  all:       [KV_PAGE_TOKENS][head_dim]
 *   FP8 E4M3: value = e4m3(code) * scale; scales FP32 [KV_PAGE_TOKENS] per block stand in arrays of their own
 *
 * For integer attention stand beside them the steps of a token's key and value: the largest |value| as
 * stored, before an FP8 scale, / KV_K_MAX and / KV_V_MAX; [KV_PAGE_TOKENS] per block. The FP8 scale and the
 * step of a vector that is not finite are NaN; a scale that the model gives (attn_params) is never.
 *
 * A page holds KV_PAGE_TOKENS positions from a multiple of KV_PAGE_TOKENS on. Memory starts as zeros.
 */
#ifndef CPU_KV_H
#define CPU_KV_H

#include "cpu/act.h"
#include "ops/ops.h"

/* An FP8 vector whose largest |x| is below this is stored as zeros: 448 / |x| must not overflow. */
#define KV_FP8_TINY 0x1p-100f

#define KV_K_MAX 2047
#define KV_V_MAX 127

typedef struct kv_cache {
    cache_shape shape;
    size_t block_bytes;         /* of keys (or values) of one page and KV head */
    uint8_t *k, *v;             /* [n_pages, n_layers, n_kv_heads] blocks, 64-byte aligned */
    float *k_scales, *v_scales; /* [n_pages, n_layers, n_kv_heads, KV_PAGE_TOKENS]; NULL unless FP8 */
    float *k_steps, *v_steps;   /* [blocks, ...]; NULL unless attention is in integers */
    void *memory[6];
} kv_cache;

/* A cache: a kv_cache for every group. */
typedef struct cpu_cache {
    cache head; /* first: a cache * is a cpu_cache * */
    kv_cache groups[CACHE_MAX_GROUPS];
} cpu_cache;

static inline kv_cache *kv_group(cache *c, int group) {
    return &((cpu_cache *)c)->groups[group];
}

/* STEPS: attention is in integers. */
nib_status kv_open(kv_cache *kv, const cache_shape *shape, bool steps, nib_error *err);
void kv_close(kv_cache *kv);
size_t kv_page_bytes(const cache_shape *shape, bool steps);
void kv_copy_page(kv_cache *kv, int to, int from);

/* What keys of HEAD are stored less, [head_dim], and position 0's scores want taken off; NULL: nothing. */
static inline const float *kv_key_mean(const attn_params *p, size_t head) {
    return p->k_mean && p->k_scale == 0 ? vec_f32(p->k_mean) + head * (size_t)p->head_dim : NULL;
}

/* Index of a block among those of the cache. */
static inline size_t kv_block(const kv_cache *kv, int layer, int page, int head) {
    return ((size_t)page * (size_t)kv->shape.n_layers + (size_t)layer) * (size_t)kv->shape.n_kv_heads +
           (size_t)head;
}

#endif
