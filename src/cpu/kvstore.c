/* SPDX-License-Identifier: Apache-2.0
 *
 * From joined q, k and v to rotated queries and stored keys and values. A unit is one head of one run of rows
 * within a KV page, so no two threads write the same cache line of a page. With FP8 keys the queries of a
 * group belong to their key's unit.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/kvscale.h"
#include "cpu/kvstore.h"
#include "num/fp8.h"
#include "num/rounded.h"

/* Angles are products in FP32, as in transformers, and only then exact. */
static void run_rope_table(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    const rope_table *t = op->rope;
    const float *inv_freq = vec_f32(t->inv_freq);
    size_t n = t->inv_freq->n;
    for (size_t r = begin; r < end; r++) {
        float position = (float)cb->positions[r], *cosines = t->cosines + r * n, *sines = t->sines + r * n;
        for (size_t i = 0; i < n; i++)
            sincosf(position * inv_freq[i], &sines[i], &cosines[i]);
        for (size_t i = 0; i < n && t->scale != 1.0f; i++) {
            cosines[i] *= t->scale;
            sines[i] *= t->scale;
        }
    }
}

/* The table of P's frequencies for this step's rows; queues its making when no layer before asked for it. */
static const rope_table *rope_for(cpu_backend *cb, const attn_params *p) {
    if (!p->inv_freq)
        return NULL;
    for (int i = 0; i < ROPE_TABLES; i++)
        if (cb->rope[i].inv_freq == p->inv_freq && cb->rope[i].scale == p->rope_scale)
            return &cb->rope[i];
    assert(cb->next_rope < ROPE_TABLES); /* queued ops still read the others */
    rope_table *t = &cb->rope[cb->next_rope++];
    t->inv_freq = p->inv_freq;
    t->scale = p->rope_scale;
    size_t rows = (size_t)queue_batch(cb)->n_rows;
    queue_push(cb, &(cpu_op){.run = run_rope_table,
                             .kind = CPU_OP_ROPE_TABLE,
                             .by_row = true,
                             .units = rows,
                             .bytes = rows * p->inv_freq->n * 8,
                             .rope = t});
    return t;
}

/* q and k of a row each by the norm over all their heads, in place. */
static void run_row_norms(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    const attn_params *p = op->attn;
    for (size_t r = begin; r < end; r++) {
        float *q = act_row(op->out, r), *k = q + p->q_norm->n;
        cb->k.rmsnorm(q, q, vec_f32(p->q_norm), p->norm_eps, p->q_norm->n);
        cb->k.rmsnorm(k, k, vec_f32(p->k_norm), p->norm_eps, p->k_norm->n);
    }
}

static void push_row_norms(cpu_backend *cb, const buf *qkv, const attn_params *p) {
    queue_push(cb, &(cpu_op){.run = run_row_norms,
                             .kind = CPU_OP_RMSNORM,
                             .by_row = true,
                             .units = qkv->rows,
                             .bytes = qkv->rows * (p->q_norm->n + p->k_norm->n) * 8,
                             .out = (act *)(uintptr_t)qkv,
                             .attn = p});
}

static void norm_and_rotate(const cpu_backend *cb, const cpu_op *op, float *dst, const float *src,
                            const float *norm, size_t row) {
    size_t d = (size_t)op->attn->head_dim, n = op->rope ? op->rope->inv_freq->n : 0;
    if (norm && !attn_norms_rows(op->attn))
        cb->k.rmsnorm(dst, src, norm, op->attn->norm_eps, d);
    else
        memcpy(dst, src, d * sizeof *dst);
    if (n)
        cb->k.rope(dst, op->rope->cosines + row * n, op->rope->sines + row * n, n, op->attn->interleaved);
}

/* x [head_dim], a key of KV head HEAD or one of its queries, balanced and turned where the model says so. */
static void turn(const cpu_backend *cb, const attn_params *p, float *x, size_t head, bool is_k) {
    const size_t d = (size_t)p->head_dim;
    if (!p->qk_balance)
        return;
    const float *balance = vec_f32(p->qk_balance) + head * d;
    for (size_t i = 0; i < d; i++)
        x[i] = is_k ? x[i] / balance[i] : x[i] * balance[i];
    rounded_hadamard(x, d, (size_t)cb->be.qk_rotation);
}

/* x [n, x_stride] in the cache's format, [n, d] one after the other. SCALES of FP8 are known. */
static void encode(const cpu_backend *cb, nib_kv_dtype type, void *dst, const float *scales, size_t d,
                   size_t n, const float *x, size_t x_stride) {
    for (size_t j = 0; j < n; j++) {
        const float *row = x + j * x_stride;
        if (type == NIB_KV_FP8)
            cb->k.to_fp8((uint8_t *)dst + j * d, scales[j] > 0 ? 1.0f / scales[j] : 0, row, d);
        else if (type == NIB_KV_BF16)
            cb->k.to_bf16((uint16_t *)dst + j * d, row, d);
        else
            memcpy((float *)dst + j * d, row, d * sizeof *row);
    }
}

/* codes [n, d] into token slots [t, t + n) of a key block, lanes of tokens; see kv.h. */
static void spread_keys(nib_kv_dtype type, void *block, size_t t, const void *codes, size_t d, size_t n) {
    const uint16_t *c16 = codes;
    const uint32_t *c32 = codes;
    uint16_t *to16 = (uint16_t *)block + t;
    uint32_t *to32 = (uint32_t *)block + t;
    size_t lines = type == NIB_KV_FP32 ? d : d / 2;
    for (size_t i = 0; i < lines; i++)
        for (size_t j = 0; j < n; j++) {
            if (type == NIB_KV_FP8)
                to16[i * KV_PAGE_TOKENS + j] = c16[j * lines + i];
            else
                to32[i * KV_PAGE_TOKENS + j] = c32[j * lines + i];
        }
}

/* The largest |value| of N codes: without the sign their order is that of the values, with NaN on top. */
static float largest(nib_kv_dtype type, const void *codes, size_t n) {
    uint32_t most = 0;
    if (type == NIB_KV_FP8) {
        uint8_t m = 0;
        for (size_t i = 0; i < n; i++) {
            uint8_t a = ((const uint8_t *)codes)[i] & 0x7f;
            m = a > m ? a : m;
        }
        return e4m3_to_f32(m);
    }
    if (type == NIB_KV_BF16) {
        uint16_t m = 0;
        for (size_t i = 0; i < n; i++) {
            uint16_t a = ((const uint16_t *)codes)[i] & 0x7fff;
            m = a > m ? a : m;
        }
        return bf16_to_f32(m);
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t a = ((const uint32_t *)codes)[i] & 0x7fffffff;
        most = a > most ? a : most;
    }
    return f32_of_bits(most);
}

/* Steps of N tokens from slot T on, from their codes [n, d]. */
static void store_steps(const kv_cache *kv, size_t block, bool is_k, size_t t, const void *codes, size_t n) {
    size_t d = (size_t)kv->shape.head_dim, token_bytes = kv->block_bytes / KV_PAGE_TOKENS;
    float *steps = (is_k ? kv->k_steps : kv->v_steps) + block * KV_PAGE_TOKENS + t;
    for (size_t j = 0; j < n; j++) {
        float most = largest(kv->shape.dtype, (const uint8_t *)codes + j * token_bytes, d);
        steps[j] = most < INFINITY ? most / (float)(is_k ? KV_K_MAX : KV_V_MAX) : NAN;
    }
}

/* The vectors x of one KV head, rows of RUN; their FP8 scales are known. ROOM: of keys, for a page. */
static void store_head(const cpu_backend *cb, const cpu_op *op, const page_run *run, size_t head, bool is_k,
                       const float *x, size_t x_stride, void *room) {
    const kv_cache *kv = op->kv;
    size_t block = kv_block(kv, op->attn->layer, queue_page(cb, run, op->attn->group), (int)head);
    size_t d = (size_t)op->attn->head_dim;
    size_t t = (size_t)run->slot, n = (size_t)run->n;
    uint8_t *bytes = (is_k ? kv->k : kv->v) + block * kv->block_bytes;
    void *codes = is_k ? room : bytes + t * (kv->block_bytes / KV_PAGE_TOKENS);
    const float *scales = is_k ? kv->k_scales : kv->v_scales;
    encode(cb, kv->shape.dtype, codes, scales ? scales + block * KV_PAGE_TOKENS + t : NULL, d, n, x,
           x_stride);
    if (is_k)
        spread_keys(kv->shape.dtype, bytes, t, codes, d, n);
    if (kv->k_steps)
        store_steps(kv, block, is_k, t, codes, n);
}

/* x [n, d] as an NVFP4 cache would give them back. */
static void round_kv(float *x, size_t n, size_t d, float scale) {
    for (size_t i = 0; i < n; i++)
        rounded_nvfp4(x + i * d, d, scale != 0 ? scale : 1.0f);
}

/* Value head HEAD of the rows of RUN. */
static void store_values(const cpu_backend *cb, const cpu_op *op, const page_run *run, size_t head,
                         float *scratch) {
    const attn_params *p = op->attn;
    const kv_cache *kv = op->kv;
    size_t d = (size_t)p->head_dim, stride = op->in->stride;
    const float *v = act_row(op->in, (size_t)run->row) + ((size_t)(p->n_heads + p->n_kv_heads) + head) * d;
    if (kv->v_scales) {
        size_t block = kv_block(kv, p->layer, queue_page(cb, run, p->group), (int)head);
        float *scales = kv->v_scales + block * KV_PAGE_TOKENS + run->slot;
        for (size_t i = 0; i < (size_t)run->n; i++)
            scales[i] = p->v_scale != 0 ? p->v_scale : cb->k.fp8_scale(v + i * stride, NULL, d);
    }
    if (cb->round_kv) {
        for (size_t i = 0; i < (size_t)run->n; i++)
            memcpy(scratch + i * d, v + i * stride, d * sizeof *v);
        round_kv(scratch, (size_t)run->n, d, p->v_scale);
        v = scratch;
        stride = d;
    }
    store_head(cb, op, run, head, false, v, stride, NULL);
}

static float query_factor(const attn_params *p, int32_t position) {
    return 1 + p->query_log * logf((float)(1 + position / p->query_log_len));
}

/* Query head HEAD of the rows of RUN. */
static void rotate_head(const cpu_backend *cb, const cpu_op *op, const page_run *run, size_t head) {
    size_t d = (size_t)op->attn->head_dim;
    for (size_t row = (size_t)run->row; row < (size_t)(run->row + run->n); row++) {
        float *q = act_row(op->out, row) + head * d;
        norm_and_rotate(cb, op, q, act_row(op->in, row) + head * d, vec_f32(op->attn->q_norm), row);
        if (op->attn->query_log != 0)
            cb->k.scale(q, query_factor(op->attn, cb->positions[row]), d);
        turn(cb, op->attn, q, head * (size_t)op->attn->n_kv_heads / (size_t)op->attn->n_heads, false);
    }
}

/* Keys of KV head HEAD of the rows of RUN. The codes of those in FP8, where no scale is given, go by their
 * queries, which are made first. */
static void rotate_and_store_keys(const cpu_backend *cb, const cpu_op *op, const page_run *run, size_t head,
                                  float *scratch) {
    const attn_params *p = op->attn;
    const kv_cache *kv = op->kv;
    size_t h = (size_t)p->n_heads, d = (size_t)p->head_dim, group = h / (size_t)p->n_kv_heads;
    float *k = scratch, *room = k + KV_PAGE_TOKENS * d;
    size_t row = (size_t)run->row, n = (size_t)run->n;
    for (size_t i = 0; i < n; i++) {
        norm_and_rotate(cb, op, k + i * d, act_row(op->in, row + i) + (h + head) * d, vec_f32(p->k_norm),
                        row + i);
        turn(cb, p, k + i * d, head, true);
    }
    const float *mean = kv_key_mean(p, head);
    for (size_t i = 0; i < n && mean; i++)
        for (size_t j = 0; j < d && cb->positions[row + i] > 0; j++)
            k[i * d + j] -= mean[j];
    if (kv->k_scales) {
        size_t block = kv_block(kv, p->layer, queue_page(cb, run, p->group), (int)head);
        float *scales = kv->k_scales + block * KV_PAGE_TOKENS + run->slot;
        for (size_t i = 0; i < group; i++)
            rotate_head(cb, op, run, head * group + i);
        for (size_t i = 0; i < n && p->k_scale != 0; i++)
            scales[i] = p->k_scale;
        for (size_t i = 0; i < n && p->k_scale == 0; i++) {
            float *along = room + d;
            kvscale_weigh(room, along, act_row(op->out, row + i) + head * group * d, group, d);
            scales[i] = cb->k.fp8_scale(k + i * d, room, d);
            cb->k.fp8_steer(k + i * d, scales[i], room, along, d);
        }
    }
    if (cb->round_kv)
        round_kv(k, n, d, p->k_scale);
    store_head(cb, op, run, head, true, k, d, room);
}

static void run_store(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    const attn_params *p = op->attn;
    size_t h = (size_t)p->n_heads, g = (size_t)p->n_kv_heads, slots = h + 2 * g;
    for (size_t u = begin; u < end; u++) {
        const page_run *run = &cb->runs[u / slots];
        size_t part = u % slots;
        if (part >= h + g)
            store_values(cb, op, run, part - h - g, scratch);
        else if (part >= h)
            rotate_and_store_keys(cb, op, run, part - h, scratch);
        else if (!op->kv->k_scales)
            rotate_head(cb, op, run, part);
    }
}

void kvstore_qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c) {
    cpu_backend *cb = queue_backend(be);
    size_t h = (size_t)p->n_heads, g = (size_t)p->n_kv_heads;
    const kv_cache *kv = kv_group(c, p->group);
    const rope_table *rope = rope_for(cb, p);
    if (attn_norms_rows(p))
        push_row_norms(cb, qkv, p);
    queue_push(cb, &(cpu_op){.run = run_store,
                             .kind = CPU_OP_QK_NORM_ROPE_STORE,
                             .units = cb->n_runs * (h + 2 * g),
                             .bytes = qkv->rows * (qkv->cols + q->cols) * 4 +
                                      qkv->rows * 2 * g * (kv->block_bytes / KV_PAGE_TOKENS),
                             .out = (act *)q,
                             .in = (const act *)qkv,
                             .attn = p,
                             .kv = kv,
                             .rope = rope});
}

size_t kvstore_scratch_bytes(size_t head_dim) {
    return 2 * KV_PAGE_TOKENS * head_dim * sizeof(float);
}
