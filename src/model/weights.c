/* SPDX-License-Identifier: Apache-2.0
 *
 * From tensors to weights: each slot a family needs must be there, once, in the shape the hyper-parameters
 * give it; then the backend packs it. Sentences name the file, the tensor and what was expected.
 */
#include "model/weights.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mapfile.h"

typedef struct binder {
    weights *w;
    const model_file *file;
    const hparams *hp;
    backend *be;
} binder;

/* ---- tensors, checked ---- */

static nib_status find(const binder *b, const tensor **out, slot s, int layer, size_t rows, size_t cols,
                       nib_error *err) {
    const tensor *t = model_file_find(b->file, place_of(s, layer));
    char where[32] = "";
    if (layer >= 0)
        snprintf(where, sizeof where, " of layer %d", layer);
    if (!t)
        return nib_fail(err, NIB_BAD_FILE, "%s: no tensor for %s%s, expected one of [%zu, %zu]",
                        b->file->path, slot_name(s), where, rows, cols);
    if (t->rows != rows || t->cols != cols)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor '%s' is [%zu, %zu]; %s%s must be [%zu, %zu]",
                        b->file->path, t->name, t->rows, t->cols, slot_name(s), where, rows, cols);
    if (!dtype_get(t->dtype)->is_weight)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: tensor '%s' is stored as %s, which is no weight format",
                        b->file->path, t->name, dtype_get(t->dtype)->name);
    *out = t;
    return NIB_OK;
}

static nib_status vector(const binder *b, const float **out, slot s, int layer, size_t n, float plus,
                         nib_error *err) {
    const tensor *t;
    NIB_TRY(find(b, &t, s, layer, 1, n, err));
    float *v = arena_alloc(&b->w->arena, n, sizeof *v);
    if (!v)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor '%s'", b->file->path, t->name);
    tensor_decode_row(t, 0, v);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(v[i]))
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor '%s' holds a number that is not finite",
                            b->file->path, t->name);
        v[i] += plus;
    }
    *out = v;
    return NIB_OK;
}

static nib_status norm(const binder *b, const float **out, slot s, int layer, size_t n, nib_error *err) {
    return vector(b, out, s, layer, n, b->hp->norm_plus_one ? 1.0f : 0.0f, err);
}

static nib_status matrix(const binder *b, weight **out, slot s, int layer, size_t rows, size_t cols,
                         nib_error *err) {
    const tensor *t;
    NIB_TRY(find(b, &t, s, layer, rows, cols, err));
    return b->be->weight_pack(b->be, out, &t, 1, err);
}

/* ---- the parts of a network ---- */

static nib_status bind_embed(const binder *b, nib_error *err) {
    return matrix(b, &b->w->embed, SLOT_EMBED, -1, (size_t)b->hp->vocab, (size_t)b->hp->dim, err);
}

static nib_status bind_attention(const binder *b, int layer, nib_error *err) {
    const hparams *hp = b->hp;
    layer_weights *l = &b->w->layers[layer];
    size_t dim = (size_t)hp->dim, d = (size_t)hp->head_dim;
    size_t q_rows = (size_t)hp->n_heads * d, kv_rows = (size_t)hp->n_kv_heads * d;
    const tensor *parts[3];
    NIB_TRY(find(b, &parts[0], SLOT_Q, layer, q_rows, dim, err));
    NIB_TRY(find(b, &parts[1], SLOT_K, layer, kv_rows, dim, err));
    NIB_TRY(find(b, &parts[2], SLOT_V, layer, kv_rows, dim, err));
    NIB_TRY(b->be->weight_pack(b->be, &l->qkv, parts, 3, err));
    return matrix(b, &l->attn_out, SLOT_O, layer, dim, q_rows, err);
}

static nib_status bind_attention_vectors(const binder *b, int layer, nib_error *err) {
    const hparams *hp = b->hp;
    layer_weights *l = &b->w->layers[layer];
    size_t d = (size_t)hp->head_dim;
    float turned = rope_attention_factor(hp->local[layer] ? &hp->rope_local : &hp->rope);
    NIB_TRY(norm(b, &l->attn_norm, SLOT_ATTN_NORM, layer, (size_t)hp->dim, err));
    l->attn = (attn_params){
        .layer = layer,
        .n_heads = hp->n_heads,
        .n_kv_heads = hp->n_kv_heads,
        .head_dim = hp->head_dim,
        .norm_eps = hp->norm_eps,
        .inv_freq = hp->local[layer] ? b->w->inv_freq_local : b->w->inv_freq,
        .interleaved = hp->rope_interleaved,
        .scale = hp->attn_scale * turned * turned,
        .window = hp->local[layer] ? hp->sliding_window : 0,
    };
    if (hp->family == FAMILY_LLAMA)
        return NIB_OK;
    NIB_TRY(norm(b, &l->attn.q_norm, SLOT_Q_NORM, layer, d, err));
    return norm(b, &l->attn.k_norm, SLOT_K_NORM, layer, d, err);
}

static nib_status bind_mlp(const binder *b, int layer, nib_error *err) {
    layer_weights *l = &b->w->layers[layer];
    size_t dim = (size_t)b->hp->dim, ffn_dim = (size_t)b->hp->ffn_dim;
    const tensor *parts[2];
    NIB_TRY(find(b, &parts[0], SLOT_GATE, layer, ffn_dim, dim, err));
    NIB_TRY(find(b, &parts[1], SLOT_UP, layer, ffn_dim, dim, err));
    NIB_TRY(b->be->weight_pack(b->be, &l->gate_up, parts, 2, err));
    return matrix(b, &l->down, SLOT_DOWN, layer, dim, ffn_dim, err);
}

static nib_status bind_mlp_vectors(const binder *b, int layer, nib_error *err) {
    layer_weights *l = &b->w->layers[layer];
    size_t dim = (size_t)b->hp->dim;
    NIB_TRY(norm(b, &l->ffn_norm, SLOT_FFN_NORM, layer, dim, err));
    if (b->hp->family != FAMILY_GEMMA3)
        return NIB_OK;
    NIB_TRY(norm(b, &l->post_attn_norm, SLOT_POST_ATTN_NORM, layer, dim, err));
    return norm(b, &l->post_ffn_norm, SLOT_POST_FFN_NORM, layer, dim, err);
}

static nib_status make_rope_tables(const binder *b, nib_error *err) {
    size_t n = (size_t)b->hp->head_dim / 2;
    const float *divisors = NULL;
    if (model_file_find(b->file, place_of(SLOT_ROPE_FREQS, PLACE_NO_LAYER))) {
        NIB_TRY(vector(b, &divisors, SLOT_ROPE_FREQS, -1, n, 0.0f, err));
        for (size_t i = 0; i < n; i++)
            if (!(divisors[i] > 0))
                return nib_fail(err, NIB_BAD_FILE, "%s: a RoPE frequency divisor of %g, expected more than 0",
                                b->file->path, (double)divisors[i]);
    }
    float *table = arena_alloc(&b->w->arena, 2 * n, sizeof *table);
    if (!table)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the RoPE tables", b->file->path);
    rope_inv_freq(table, &b->hp->rope, b->hp->head_dim, b->hp->context_len, divisors);
    rope_inv_freq(table + n, &b->hp->rope_local, b->hp->head_dim, b->hp->context_len, NULL);
    b->w->inv_freq = table;
    b->w->inv_freq_local = table + n;
    return NIB_OK;
}

static nib_status bind_common(const binder *b, nib_error *err) {
    weights *w = b->w;
    NIB_TRY(make_rope_tables(b, err));
    w->layers = arena_alloc(&w->arena, (size_t)b->hp->n_layers, sizeof *w->layers);
    if (!w->layers)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %d layers", b->file->path, b->hp->n_layers);
    return norm(b, &w->final_norm, SLOT_FINAL_NORM, -1, (size_t)b->hp->dim, err);
}

static nib_status bind(const binder *b, nib_error *err) {
    weights *w = b->w;
    NIB_TRY(bind_common(b, err));
    NIB_TRY(bind_embed(b, err));
    if (b->hp->tied)
        w->head = w->embed;
    else
        NIB_TRY(matrix(b, &w->head, SLOT_HEAD, -1, (size_t)b->hp->vocab, (size_t)b->hp->dim, err));
    for (int i = 0; i < b->hp->n_layers; i++) {
        NIB_TRY(bind_attention(b, i, err));
        NIB_TRY(bind_attention_vectors(b, i, err));
        NIB_TRY(bind_mlp(b, i, err));
        NIB_TRY(bind_mlp_vectors(b, i, err));
    }
    return NIB_OK;
}

static nib_status bind_vectors(const binder *b, nib_error *err) {
    NIB_TRY(bind_common(b, err));
    for (int i = 0; i < b->hp->n_layers; i++) {
        NIB_TRY(bind_attention_vectors(b, i, err));
        NIB_TRY(bind_mlp_vectors(b, i, err));
    }
    return NIB_OK;
}

static nib_status bind_by(nib_status (*how)(const binder *b, nib_error *err), weights *w,
                          const model_file *file, backend *be, nib_error *err) {
    assert(file->has_network);
    *w = (weights){0};
    binder b = {.w = w, .file = file, .hp = &file->hp, .be = be};
    nib_status status = how(&b, err);
    if (status != NIB_OK)
        weights_free(w, &file->hp, be);
    return status;
}

nib_status weights_bind(weights *w, const model_file *file, backend *be, nib_error *err) {
    return bind_by(bind, w, file, be, err);
}

nib_status weights_bind_vectors(weights *w, const model_file *file, backend *be, nib_error *err) {
    return bind_by(bind_vectors, w, file, be, err);
}

nib_status weights_bind_part(weights *w, const model_file *file, backend *be, weights_part part, int layer,
                             nib_error *err) {
    binder b = {.w = w, .file = file, .hp = &file->hp, .be = be};
    switch (part) {
    case WEIGHTS_EMBED:
        return bind_embed(&b, err);
    case WEIGHTS_ATTENTION:
        return bind_attention(&b, layer, err);
    case WEIGHTS_MLP:
        return bind_mlp(&b, layer, err);
    }
    return NIB_OK;
}

static void free_one(backend *be, weight *packed) {
    if (packed)
        be->weight_free(be, packed);
}

static void free_at(backend *be, weight **packed) {
    free_one(be, *packed);
    *packed = NULL;
}

/* The part's pages of the mapped file leave memory too. */
void weights_unbind_part(weights *w, const model_file *file, backend *be, weights_part part, int layer) {
    static const slot slots[][5] = {[WEIGHTS_EMBED] = {SLOT_EMBED},
                                    [WEIGHTS_ATTENTION] = {SLOT_Q, SLOT_K, SLOT_V, SLOT_O},
                                    [WEIGHTS_MLP] = {SLOT_GATE, SLOT_UP, SLOT_DOWN}};
    if (part == WEIGHTS_EMBED) {
        free_at(be, &w->embed);
    } else if (part == WEIGHTS_ATTENTION) {
        free_at(be, &w->layers[layer].qkv);
        free_at(be, &w->layers[layer].attn_out);
    } else {
        free_at(be, &w->layers[layer].gate_up);
        free_at(be, &w->layers[layer].down);
    }
    for (int i = 0; slots[part][i]; i++) {
        const tensor *t = model_file_find(file, place_of(slots[part][i], layer));
        mapfile_forget(t->data, t->bytes);
    }
}

void weights_free(weights *w, const hparams *hp, backend *be) {
    for (int i = 0; w->layers && i < hp->n_layers; i++) {
        layer_weights *l = &w->layers[i];
        free_one(be, l->qkv);
        free_one(be, l->attn_out);
        free_one(be, l->gate_up);
        free_one(be, l->down);
    }
    if (w->head != w->embed)
        free_one(be, w->head);
    free_one(be, w->embed);
    arena_free(&w->arena);
    *w = (weights){0};
}

static size_t layer_bytes(const weights *w, const hparams *hp, const backend *be) {
    size_t bytes = 0;
    for (int i = 0; i < hp->n_layers; i++) {
        const layer_weights *l = &w->layers[i];
        bytes += be->weight_bytes(l->qkv) + be->weight_bytes(l->attn_out);
        bytes += be->weight_bytes(l->gate_up) + be->weight_bytes(l->down);
    }
    return bytes;
}

size_t weights_bytes(const weights *w, const hparams *hp, const backend *be) {
    size_t head = w->head != w->embed ? be->weight_bytes(w->head) : 0;
    return layer_bytes(w, hp, be) + be->weight_bytes(w->embed) + head;
}

size_t weights_bytes_per_token(const weights *w, const hparams *hp, const backend *be) {
    size_t embed_row = be->weight_bytes(w->embed) / (size_t)hp->vocab;
    return layer_bytes(w, hp, be) + be->weight_bytes(w->head) + embed_row;
}
