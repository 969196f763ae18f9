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
#include "base/mem.h"

typedef struct binder {
    weights *w;
    const model_file *file;
    const hparams *hp;
    backend *be;
    const progress *watch; /* may be NULL */
    uint64_t total;        /* bytes of all matrices */
} binder;

/* ---- tensors, checked ---- */

static nib_status find(const binder *b, const tensor **out, place at, size_t rows, size_t cols,
                       nib_error *err) {
    const tensor *t = model_file_find(b->file, at);
    char where[32] = "";
    if (at.layer >= 0)
        snprintf(where, sizeof where, " of layer %d", at.layer);
    if (!t)
        return nib_fail(err, NIB_BAD_FILE, "%s: no tensor for %s%s, expected one of [%zu, %zu]",
                        b->file->path, slot_name(at.slot), where, rows, cols);
    if (t->rows != rows || t->cols != cols)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor '%s' is [%zu, %zu]; %s%s must be [%zu, %zu]",
                        b->file->path, t->name, t->rows, t->cols, slot_name(at.slot), where, rows, cols);
    if (!dtype_get(t->dtype)->is_weight)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: tensor '%s' is stored as %s, which is no weight format",
                        b->file->path, t->name, dtype_get(t->dtype)->name);
    *out = t;
    return NIB_OK;
}

/* Values of a vector's tensor, FP32 [n], freed with mem_free. */
static nib_status read_vector(const binder *b, float **out, place at, size_t n, float plus, nib_error *err) {
    const tensor *t;
    NIB_TRY(find(b, &t, at, 1, n, err));
    float *v = mem_array(n, sizeof *v);
    if (!v)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor '%s'", b->file->path, t->name);
    tensor_decode_row(t, 0, v);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(v[i])) {
            mem_free(v);
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor '%s' holds a number that is not finite",
                            b->file->path, t->name);
        }
        v[i] += plus;
    }
    *out = v;
    return NIB_OK;
}

static nib_status norm(const binder *b, vec **out, slot s, int layer, size_t n, nib_error *err) {
    float *values;
    NIB_TRY(read_vector(b, &values, place_of(s, layer), n, b->hp->norm_plus_one ? 1.0f : 0.0f, err));
    nib_status status = b->be->vec_new(b->be, out, VEC_F32, n, values, err);
    mem_free(values);
    return status;
}

/* One tensor, or several as one: rows joined in order. */
static nib_status pack(const binder *b, weight **out, const tensor *const *parts, size_t n_parts,
                       split_kind split, nib_error *err) {
    if (progress_stopped(b->watch))
        return nib_fail(err, NIB_CANCELLED, "%s: loading was cancelled", b->file->path);
    NIB_TRY(b->be->weight_pack(b->be, out, parts, n_parts, split, err));
    for (size_t i = 0; i < n_parts; i++)
        b->w->bound_bytes += tensor_total_bytes(parts[i]);
    progress_report(b->watch, "loading", b->w->bound_bytes, b->total);
    return NIB_OK;
}

static nib_status matrix(const binder *b, weight **out, place at, size_t rows, size_t cols, split_kind split,
                         nib_error *err) {
    const tensor *t;
    NIB_TRY(find(b, &t, at, rows, cols, err));
    return pack(b, out, &t, 1, split, err);
}

/* ---- the parts of a network ---- */

static nib_status bind_embed(const binder *b, nib_error *err) {
    return matrix(b, &b->w->embed, place_of(SLOT_EMBED, PLACE_NO_LAYER), (size_t)b->hp->vocab,
                  (size_t)b->hp->dim, b->hp->tied ? SPLIT_ROWS : SPLIT_NONE, err);
}

static nib_status bind_attention(const binder *b, int layer, nib_error *err) {
    const hparams *hp = b->hp;
    layer_weights *l = &b->w->layers[layer];
    size_t dim = (size_t)hp->dim, d = (size_t)hp->head_dim;
    size_t q_rows = (size_t)hp->n_heads * d, kv_rows = (size_t)hp->n_kv_heads * d;
    const tensor *parts[3];
    NIB_TRY(find(b, &parts[0], place_of(SLOT_Q, layer), q_rows, dim, err));
    NIB_TRY(find(b, &parts[1], place_of(SLOT_K, layer), kv_rows, dim, err));
    NIB_TRY(find(b, &parts[2], place_of(SLOT_V, layer), kv_rows, dim, err));
    NIB_TRY(pack(b, &l->qkv, parts, 3, SPLIT_HEADS, err));
    return matrix(b, &l->attn_out, place_of(SLOT_O, layer), dim, q_rows, SPLIT_COLS, err);
}

/* Layer LAYER is the how-many-th of its cache group? */
static int layer_in_group(const hparams *hp, int layer) {
    int n = 0;
    for (int i = 0; i < layer; i++)
        n += hp->local[i] == hp->local[layer];
    return n;
}

/* Global layers come first where there are any: the order of model_groups. */
static int group_of(const hparams *hp, int layer) {
    if (!hp->local[layer])
        return 0;
    for (int i = 0; i < hp->n_layers; i++)
        if (!hp->local[i])
            return 1;
    return 0;
}

static nib_status bind_attention_vectors(const binder *b, int layer, nib_error *err) {
    const hparams *hp = b->hp;
    layer_weights *l = &b->w->layers[layer];
    size_t d = (size_t)hp->head_dim;
    NIB_TRY(norm(b, &l->attn_norm, SLOT_ATTN_NORM, layer, (size_t)hp->dim, err));
    if (hp->qk_norm == QK_NORM_HEAD) {
        NIB_TRY(norm(b, &l->q_norm, SLOT_Q_NORM, layer, d, err));
        NIB_TRY(norm(b, &l->k_norm, SLOT_K_NORM, layer, d, err));
    }
    l->attn = (attn_params){
        .group = group_of(hp, layer),
        .layer = layer_in_group(hp, layer),
        .n_heads = hp->n_heads,
        .n_kv_heads = hp->n_kv_heads,
        .head_dim = hp->head_dim,
        .q_norm = l->q_norm,
        .k_norm = l->k_norm,
        .norm_eps = hp->norm_eps,
        .inv_freq = hp->local[layer] ? b->w->inv_freq_local : b->w->inv_freq,
        .rope_scale = rope_attention_factor(hp->local[layer] ? &hp->rope_local : &hp->rope),
        .interleaved = hp->rope_interleaved,
        .scale = hp->attn_scale,
        .window = hp->local[layer] ? hp->sliding_window : 0,
    };
    return NIB_OK;
}

static nib_status bind_mlp(const binder *b, int layer, nib_error *err) {
    layer_weights *l = &b->w->layers[layer];
    size_t dim = (size_t)b->hp->dim, ffn_dim = (size_t)b->hp->ffn_dim;
    const tensor *parts[2];
    NIB_TRY(find(b, &parts[0], place_of(SLOT_GATE, layer), ffn_dim, dim, err));
    NIB_TRY(find(b, &parts[1], place_of(SLOT_UP, layer), ffn_dim, dim, err));
    NIB_TRY(pack(b, &l->gate_up, parts, 2, SPLIT_ROWS, err));
    return matrix(b, &l->down, place_of(SLOT_DOWN, layer), dim, ffn_dim, SPLIT_COLS, err);
}

bool weights_have_post_norms(const hparams *hp) {
    return hp->norms == NORM_AROUND;
}

static nib_status bind_mlp_vectors(const binder *b, int layer, nib_error *err) {
    layer_weights *l = &b->w->layers[layer];
    size_t dim = (size_t)b->hp->dim;
    NIB_TRY(norm(b, &l->ffn_norm, SLOT_FFN_NORM, layer, dim, err));
    if (!weights_have_post_norms(b->hp))
        return NIB_OK;
    NIB_TRY(norm(b, &l->post_attn_norm, SLOT_POST_ATTN_NORM, layer, dim, err));
    return norm(b, &l->post_ffn_norm, SLOT_POST_FFN_NORM, layer, dim, err);
}

/* ---- RoPE ---- */

/* The divisors that a GGUF file may hold, [n], freed with mem_free; NULL: none. */
static nib_status read_divisors(const binder *b, float **out, size_t n, nib_error *err) {
    place at = place_of(SLOT_ROPE_FREQS, PLACE_NO_LAYER);
    *out = NULL;
    if (!model_file_find(b->file, at))
        return NIB_OK;
    NIB_TRY(read_vector(b, out, at, n, 0.0f, err));
    for (size_t i = 0; i < n; i++)
        if (!((*out)[i] > 0)) {
            float bad = (*out)[i];
            mem_free(*out);
            return nib_fail(err, NIB_BAD_FILE, "%s: a RoPE frequency divisor of %g, expected more than 0",
                            b->file->path, (double)bad);
        }
    return NIB_OK;
}

static nib_status make_rope_table(const binder *b, vec **out, const rope_params *r, const float *divisors,
                                  nib_error *err) {
    size_t n = (size_t)b->hp->head_dim / 2;
    float *inv_freq = mem_array(n, sizeof *inv_freq);
    if (!inv_freq)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the RoPE tables", b->file->path);
    rope_inv_freq(inv_freq, r, b->hp->head_dim, b->hp->context_len, divisors);
    nib_status status = b->be->vec_new(b->be, out, VEC_F32, n, inv_freq, err);
    mem_free(inv_freq);
    return status;
}

static nib_status make_rope_tables(const binder *b, nib_error *err) {
    float *divisors;
    NIB_TRY(read_divisors(b, &divisors, (size_t)b->hp->head_dim / 2, err));
    nib_status status = make_rope_table(b, &b->w->inv_freq, &b->hp->rope, divisors, err);
    if (status == NIB_OK)
        status = make_rope_table(b, &b->w->inv_freq_local, &b->hp->rope_local, NULL, err);
    mem_free(divisors);
    return status;
}

/* ---- all of it ---- */

static nib_status bind_common(const binder *b, nib_error *err) {
    weights *w = b->w;
    NIB_TRY(make_rope_tables(b, err));
    w->layers = mem_array((size_t)b->hp->n_layers, sizeof *w->layers);
    if (!w->layers)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %d layers", b->file->path, b->hp->n_layers);
    return norm(b, &w->final_norm, SLOT_FINAL_NORM, PLACE_NO_LAYER, (size_t)b->hp->dim, err);
}

static nib_status bind(const binder *b, nib_error *err) {
    weights *w = b->w;
    NIB_TRY(bind_common(b, err));
    NIB_TRY(bind_embed(b, err));
    if (b->hp->tied)
        w->head = w->embed;
    else
        NIB_TRY(matrix(b, &w->head, place_of(SLOT_HEAD, PLACE_NO_LAYER), (size_t)b->hp->vocab,
                       (size_t)b->hp->dim, SPLIT_ROWS, err));
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
                          const model_file *file, backend *be, const progress *watch, nib_error *err) {
    assert(file->has_network);
    *w = (weights){0};
    binder b = {.w = w, .file = file, .hp = &file->hp, .be = be, .watch = watch};
    for (size_t i = 0; i < file->n_tensors; i++)
        if (file->tensors[i].place.slot != SLOT_NONE && file->tensors[i].rows > 1)
            b.total += tensor_total_bytes(&file->tensors[i]);
    nib_status status = how(&b, err);
    if (status != NIB_OK)
        weights_free(w, &file->hp, be);
    return status;
}

nib_status weights_bind(weights *w, const model_file *file, backend *be, const progress *watch,
                        nib_error *err) {
    return bind_by(bind, w, file, be, watch, err);
}

nib_status weights_bind_vectors(weights *w, const model_file *file, backend *be, nib_error *err) {
    return bind_by(bind_vectors, w, file, be, NULL, err);
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

static void free_vec(backend *be, vec *v) {
    if (v)
        be->vec_free(be, v);
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
        weight *const matrices[] = {l->qkv, l->attn_out, l->gate_up, l->down};
        vec *const vectors[] = {l->attn_norm, l->post_attn_norm, l->ffn_norm, l->post_ffn_norm,
                                l->q_norm,    l->k_norm,         l->qkv_bias, l->attn_out_bias};
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++)
            free_one(be, matrices[j]);
        for (size_t j = 0; j < sizeof vectors / sizeof *vectors; j++)
            free_vec(be, vectors[j]);
    }
    if (w->head != w->embed)
        free_one(be, w->head);
    free_one(be, w->embed);
    free_vec(be, w->final_norm);
    free_vec(be, w->inv_freq);
    free_vec(be, w->inv_freq_local);
    mem_free(w->layers);
    *w = (weights){0};
}

static size_t layer_bytes(const weights *w, const hparams *hp) {
    size_t bytes = 0;
    for (int i = 0; i < hp->n_layers; i++) {
        const layer_weights *l = &w->layers[i];
        bytes += l->qkv->bytes + l->attn_out->bytes + l->gate_up->bytes + l->down->bytes;
    }
    return bytes;
}

size_t weights_bytes(const weights *w, const hparams *hp) {
    return layer_bytes(w, hp) + w->embed->bytes + (w->head != w->embed ? w->head->bytes : 0);
}

size_t weights_bytes_per_token(const weights *w, const hparams *hp) {
    return layer_bytes(w, hp) + w->head->bytes + w->embed->bytes / w->embed->rows;
}
