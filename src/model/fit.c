/* SPDX-License-Identifier: Apache-2.0
 *
 * The sums of fit.h. Buffers are those of model.c, at the sizes the GPU backend gives them: FP32 or wider
 * activations, columns padded to 128; NVFP4 weights take 4.5 bits and their padding, other formats what the
 * file has.
 */
#include "model/fit.h"

#include <assert.h>
#include <stdio.h>

#include "model/model.h"

enum { COLUMN_STEP = 128, GROUP_K = 128 };

/* Memory as the driver states it; bandwidth by the datasheets. */
const fit_card fit_cards[FIT_N_CARDS] = {
    {"RTX 4090", 24.0e9, 1008e9}, {"RTX 5090", 32.0e9, 1792e9}, {"DGX Spark", 128.0e9, 273e9},
    {"L40S", 48.0e9, 864e9},      {"H100", 80.0e9, 3350e9},     {"H200", 141.0e9, 4800e9},
    {"B200", 180.0e9, 8000e9},
};

#define CONTEXT_BYTES 700e6 /* the driver's context, the library's code, CUDA graphs */

static double padded(double cols) {
    double steps = (double)(int64_t)((cols + COLUMN_STEP - 1) / COLUMN_STEP);
    return steps * COLUMN_STEP;
}

static double tensor_bytes(const tensor *t) {
    if (!dtype_is_nvfp4(t->dtype))
        return (double)tensor_total_bytes(t);
    double groups = (double)((t->cols + GROUP_K - 1) / GROUP_K);
    return (double)t->rows * groups * (GROUP_K * 4.5 / 8) + 16 + /* K is padded to whole groups */
           (double)tensor_branch_bytes(t);
}

static size_t element_bytes(nib_kv_dtype t) {
    return t == NIB_KV_FP32 ? 4 : t == NIB_KV_FP8 ? 1 : 2;
}

static void set_defaults(const hparams *hp, fit_options *o) {
    const model_defaults *d = model_defaults_of(true);
    o->memory_utilization = o->memory_utilization > 0 ? o->memory_utilization : d->memory_utilization;
    if (o->max_model_len <= 0)
        o->max_model_len = hp->context_len < d->max_model_len ? hp->context_len : d->max_model_len;
    o->max_num_seqs = o->max_num_seqs > 0 ? o->max_num_seqs : d->max_num_seqs;
    o->max_num_batched_tokens =
        o->max_num_batched_tokens > 0 ? o->max_num_batched_tokens : d->max_num_batched_tokens;
    o->kv_dtype = o->kv_dtype == NIB_KV_AUTO ? d->kv_dtype : o->kv_dtype;
}

/* Buffers of a step: x, h, qkv, q, a, g, y; gate and up; a row of logits, and what sampling changes of it,
 * per sequence. */
static double activation_bytes(const hparams *hp, const fit_options *o) {
    double rows = o->max_num_batched_tokens, seqs = o->max_num_seqs, d = hp->head_dim;
    double dim = padded(hp->dim), heads = padded(hp->n_heads * d), ffn = padded(hp->ffn_dim);
    double qkv = padded((hp->n_heads + 2 * hp->n_kv_heads) * d), vocab = padded(hp->vocab);
    double f32 = dim + qkv + heads + (hp->norms == NORM_BEFORE ? 0 : dim) + 2 * ffn;
    double act = dim + heads + ffn; /* each FP32, and FP8 beside it */
    return rows * (4 * f32 + 5 * act) + seqs * (5 * dim + 8 * vocab);
}

void fit_needs(const model_file *f, fit_options *o, fit_plan *p) {
    const hparams *hp = &f->hp;
    *p = (fit_plan){.context = CONTEXT_BYTES};
    size_t rank = 0; /* of the widest branch: what lies between its two matrices, of each part */
    set_defaults(hp, o);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        if (t->place.slot == SLOT_NONE)
            continue;
        rank = t->branch.rank > rank ? t->branch.rank : rank;
        p->weights += tensor_bytes(t);
        if (t->place.slot != SLOT_EMBED || hp->tied)
            p->token += tensor_bytes(t);
    }
    double element = (double)element_bytes(o->kv_dtype),
           scale = o->kv_dtype == NIB_KV_FP8 ? sizeof(float) : 0;
    double row = 2.0 * hp->n_kv_heads * (hp->head_dim * element + scale);
    rank = (rank + 31) / 32 * 32; /* as GPUs keep it */
    p->activations =
        activation_bytes(hp, o) + 4.0 * o->max_num_batched_tokens * WEIGHT_MAX_PARTS * (double)rank;
    p->kv_page = KV_PAGE_TOKENS * row * hp->n_layers;
    for (int layer = 0; layer < hp->n_layers; layer++) { /* a window's pages are given back */
        int seen = hp->local[layer] && hp->sliding_window < o->max_model_len
                       ? hp->sliding_window + KV_PAGE_TOKENS
                       : o->max_model_len;
        p->kv_one += row * ((seen + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
    }
}

void fit_on(fit_plan *p, const fit_options *o, const fit_card *card) {
    assert(o->max_model_len > 0);
    p->usable = card->memory * o->memory_utilization;
    p->kv = p->usable - p->weights - p->activations - p->context;
    p->kv_tokens = p->kv > 0 ? (int64_t)(p->kv / p->kv_page) * KV_PAGE_TOKENS : 0;
    p->tokens_per_s = card->bandwidth / p->token;
    p->tokens_per_s_full = card->bandwidth / (p->token + p->kv_one);
}

void fit_words(const fit_plan *p, const fit_options *o, char *text, size_t size) {
    double missing = p->kv_one - p->kv;
    if (p->kv < 0)
        snprintf(text, size, "does not fit: weights, activations and context take %.1f GB of %.1f usable",
                 (p->weights + p->activations + p->context) / 1e9, p->usable / 1e9);
    else if (missing > 0)
        snprintf(text, size,
                 "no sequence of %d tokens fits: %.1f GB are left for the cache, it takes %.1f; at most %lld",
                 o->max_model_len, p->kv / 1e9, p->kv_one / 1e9, (long long)p->kv_tokens);
    else
        snprintf(text, size, "fits: %.1f GB for the cache, %lld tokens, %.0f sequences of %d", p->kv / 1e9,
                 (long long)p->kv_tokens, p->kv / p->kv_one, o->max_model_len);
}
