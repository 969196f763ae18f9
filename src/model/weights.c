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

/* The tensor at AT, which the network has. */
static nib_status find(const binder *b, const tensor **out, place at, nib_error *err) {
    const tensor *t = model_file_find(b->file, at);
    size_t rows, cols;
    bool has = hparams_has(b->hp, at.slot, &rows, &cols);
    assert(has || at.slot == SLOT_ROPE_FREQS);
    char where[32] = "";
    if (at.layer >= 0)
        snprintf(where, sizeof where, " of layer %d", at.layer);
    if (!has) /* RoPE's divisors, which a file may leave out */
        rows = 1, cols = (size_t)b->hp->rope_dim / 2;
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

static bool has(const binder *b, slot s) {
    size_t rows, cols;
    return hparams_has(b->hp, s, &rows, &cols);
}

/* ---- vectors ---- */

/* Values of a vector's tensor into DST. */
static nib_status read_values(const binder *b, float *dst, const tensor *t, nib_error *err) {
    tensor own;
    void *memory;
    nib_error why = {""};
    nib_status status = tensor_read(&own, &memory, t, &why);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s: %s", b->file->path, why.text);
    tensor_decode_row(&own, 0, dst);
    mem_free(memory);
    for (size_t i = 0; i < t->cols; i++)
        if (!isfinite(dst[i]))
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor '%s' holds a number that is not finite",
                            b->file->path, t->name);
    return NIB_OK;
}

/* Vectors in SLOTS [n_slots] of LAYER, one after the other, as (value + PLUS) * TIMES; *out stays NULL where
 * the network has none. */
static nib_status vectors(const binder *b, vec **out, const slot *slots, int n_slots, int layer, float plus,
                          float times, nib_error *err) {
    const tensor *parts[3] = {NULL};
    size_t n = 0, at = 0;
    if (!has(b, slots[0]))
        return NIB_OK;
    for (int i = 0; i < n_slots; i++) {
        NIB_TRY(find(b, &parts[i], place_of(slots[i], layer), err));
        n += parts[i]->cols;
    }
    float *values = mem_array(n, sizeof *values);
    if (!values)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor '%s'", b->file->path, parts[0]->name);
    nib_status status = NIB_OK;
    for (int i = 0; i < n_slots && status == NIB_OK; at += parts[i++]->cols)
        status = read_values(b, values + at, parts[i], err);
    for (size_t i = 0; i < n; i++)
        values[i] = (values[i] + plus) * times;
    if (status == NIB_OK)
        status = b->be->vec_new(b->be, out, VEC_F32, n, values, err);
    mem_free(values);
    return status;
}

static nib_status norm(const binder *b, vec **out, slot s, int layer, nib_error *err) {
    return vectors(b, out, &s, 1, layer, b->hp->norm_plus_one ? 1 : 0, 1, err);
}

/* ---- matrices ---- */

/* One tensor, or several as one: rows joined in order. */
static nib_status pack(const binder *b, weight **out, const tensor *const *parts, size_t n_parts,
                       split_kind split, nib_error *err) {
    if (progress_stopped(b->watch))
        return nib_fail(err, NIB_CANCELLED, "%s: loading was cancelled", b->file->path);
    nib_error why = {""};
    nib_status status = b->be->weight_pack(b->be, out, parts, n_parts, split, &why);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s: %s", b->file->path, why.text);
    for (size_t i = 0; i < n_parts; i++)
        b->w->bound_bytes += tensor_total_bytes(parts[i]);
    progress_report(b->watch, "loading", b->w->bound_bytes, b->total);
    return NIB_OK;
}

/* Until all that was packed is read. */
static nib_status wait(const binder *b, nib_error *err) {
    nib_error why = {""};
    const nib_status status = b->be->weights_wait ? b->be->weights_wait(b->be, &why) : NIB_OK;
    return status == NIB_OK ? NIB_OK : nib_fail(err, status, "%s: %s", b->file->path, why.text);
}

/* What the matrix gives is multiplied by TIMES. */
static nib_status matrix(const binder *b, weight **out, place at, split_kind split, float times,
                         nib_error *err) {
    const tensor *t;
    NIB_TRY(find(b, &t, at, err));
    tensor scaled = *t;
    scaled.tensor_scale *= times;
    scaled.branch.scale *= times;
    const tensor *part = &scaled;
    return pack(b, out, &part, 1, split, err);
}

/* The tensors in SLOTS [n] of LAYER as one matrix, or JOINED, which holds them as one in the file: its rows
 * are cut into N_ROWS. */
static nib_status joined_matrix(const binder *b, weight **out, slot joined, const slot *slots,
                                const size_t *n_rows, size_t n, int layer, split_kind split, nib_error *err) {
    const tensor *parts[WEIGHT_MAX_PARTS], *whole = NULL;
    tensor cut[WEIGHT_MAX_PARTS];
    if (has(b, joined))
        NIB_TRY(find(b, &whole, place_of(joined, layer), err));
    for (size_t i = 0, row = 0; i < n; row += n_rows[i++]) {
        if (whole)
            cut[i] = tensor_rows(whole, row, n_rows[i]);
        else
            NIB_TRY(find(b, &parts[i], place_of(slots[i], layer), err));
        if (whole)
            parts[i] = &cut[i];
    }
    return pack(b, out, parts, n, split, err);
}

/* ---- the parts of a network ---- */

static nib_status bind_embed(const binder *b, nib_error *err) {
    return matrix(b, &b->w->embed, place_of(SLOT_EMBED, PLACE_NO_LAYER),
                  b->hp->tied ? SPLIT_ROWS : SPLIT_NONE, 1, err);
}

static nib_status bind_attention(const binder *b, int layer, nib_error *err) {
    static const slot slots[] = {SLOT_Q, SLOT_K, SLOT_V};
    const hparams *hp = b->hp;
    layer_weights *l = &b->w->layers[layer];
    size_t q = (size_t)hp->n_heads * (size_t)hp->head_dim, kv = (size_t)hp->n_kv_heads * (size_t)hp->head_dim;
    NIB_TRY(joined_matrix(b, &l->qkv, SLOT_QKV, slots, (size_t[]){q, kv, kv}, 3, layer, SPLIT_HEADS, err));
    return matrix(b, &l->attn_out, place_of(SLOT_O, layer), SPLIT_COLS, hp->residual_scale, err);
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

/* The scale that the file has for an FP8 cache; 0: none. */
static nib_status cache_scale(const binder *b, float *out, slot s, int layer, nib_error *err) {
    const tensor *t = model_file_find(b->file, place_of(s, layer));
    *out = 0;
    return t ? read_values(b, out, t, err) : NIB_OK;
}

static nib_status bind_attention_vectors(const binder *b, int layer, nib_error *err) {
    static const slot biases[] = {SLOT_Q_BIAS, SLOT_K_BIAS, SLOT_V_BIAS};
    static const slot out_bias = SLOT_O_BIAS;
    const hparams *hp = b->hp;
    layer_weights *l = &b->w->layers[layer];
    bool local = hp->local[layer];
    NIB_TRY(norm(b, &l->attn_norm, SLOT_ATTN_NORM, layer, err));
    NIB_TRY(norm(b, &l->post_attn_norm, SLOT_POST_ATTN_NORM, layer, err));
    NIB_TRY(norm(b, &l->q_norm, SLOT_Q_NORM, layer, err));
    NIB_TRY(norm(b, &l->k_norm, SLOT_K_NORM, layer, err));
    NIB_TRY(vectors(b, &l->qkv_bias, biases, 3, layer, 0, 1, err));
    NIB_TRY(vectors(b, &l->attn_out_bias, &out_bias, 1, layer, 0, hp->residual_scale, err));
    l->attn = (attn_params){
        .group = group_of(hp, layer),
        .layer = layer_in_group(hp, layer),
        .n_heads = hp->n_heads,
        .n_kv_heads = hp->n_kv_heads,
        .head_dim = hp->head_dim,
        .q_norm = l->q_norm,
        .k_norm = l->k_norm,
        .norm_eps = hp->norm_eps,
        .inv_freq = hp->no_rope[layer] ? NULL
                    : local            ? b->w->inv_freq_local
                                       : b->w->inv_freq,
        .rope_scale = rope_attention_factor(local ? &hp->rope_local : &hp->rope),
        .interleaved = hp->rope_interleaved,
        .query_log = hp->query_log,
        .query_log_len = hp->rope.original_context,
        .scale = hp->attn_scale,
        .cap = hp->attn_cap,
        .window = local ? hp->sliding_window : 0,
    };
    NIB_TRY(cache_scale(b, &l->attn.k_scale, SLOT_K_SCALE, layer, err));
    return cache_scale(b, &l->attn.v_scale, SLOT_V_SCALE, layer, err);
}

static nib_status bind_mlp(const binder *b, int layer, nib_error *err) {
    static const slot slots[] = {SLOT_GATE, SLOT_UP};
    layer_weights *l = &b->w->layers[layer];
    size_t ffn = (size_t)b->hp->ffn_dim;
    NIB_TRY(
        joined_matrix(b, &l->gate_up, SLOT_GATE_UP, slots, (size_t[]){ffn, ffn}, 2, layer, SPLIT_ROWS, err));
    return matrix(b, &l->down, place_of(SLOT_DOWN, layer), SPLIT_COLS, b->hp->residual_scale, err);
}

static nib_status bind_mlp_vectors(const binder *b, int layer, nib_error *err) {
    layer_weights *l = &b->w->layers[layer];
    NIB_TRY(norm(b, &l->ffn_norm, SLOT_FFN_NORM, layer, err));
    return norm(b, &l->post_ffn_norm, SLOT_POST_FFN_NORM, layer, err);
}

/* The backend is told what belongs together. */
static void tell_layer(const binder *b, const layer_weights *l) {
    const layer_parts parts = {.qkv = l->qkv,
                               .attn_out = l->attn_out,
                               .gate_up = l->gate_up,
                               .down = l->down,
                               .attn = &l->attn,
                               .norms = b->hp->norms};
    if (b->be->layer_know)
        b->be->layer_know(b->be, &parts);
}

/* ---- RoPE ---- */

/* The divisors that a GGUF file may hold, [n], freed with mem_free; NULL: none. */
static nib_status read_divisors(const binder *b, float **out, size_t n, nib_error *err) {
    place at = place_of(SLOT_ROPE_FREQS, PLACE_NO_LAYER);
    const tensor *t;
    *out = NULL;
    if (!model_file_find(b->file, at))
        return NIB_OK;
    NIB_TRY(find(b, &t, at, err));
    float *divisors = mem_array(n, sizeof *divisors);
    if (!divisors)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor '%s'", b->file->path, t->name);
    nib_status status = read_values(b, divisors, t, err);
    for (size_t i = 0; i < n && status == NIB_OK; i++)
        if (!(divisors[i] > 0))
            status = nib_fail(err, NIB_BAD_FILE, "%s: a RoPE frequency divisor of %g, expected more than 0",
                              b->file->path, (double)divisors[i]);
    if (status == NIB_OK)
        *out = divisors;
    else
        mem_free(divisors);
    return status;
}

static nib_status make_rope_table(const binder *b, vec **out, const rope_params *r, const float *divisors,
                                  nib_error *err) {
    size_t n = (size_t)b->hp->rope_dim / 2;
    float *inv_freq = mem_array(n, sizeof *inv_freq);
    if (!inv_freq)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the RoPE tables", b->file->path);
    rope_inv_freq(inv_freq, r, b->hp->rope_dim, b->w->max_len, divisors);
    nib_status status = b->be->vec_new(b->be, out, VEC_F32, n, inv_freq, err);
    mem_free(inv_freq);
    return status;
}

static nib_status make_rope_tables(const binder *b, nib_error *err) {
    float *divisors;
    NIB_TRY(read_divisors(b, &divisors, (size_t)b->hp->rope_dim / 2, err));
    nib_status status = make_rope_table(b, &b->w->inv_freq, &b->hp->rope, divisors, err);
    if (status == NIB_OK)
        status = make_rope_table(b, &b->w->inv_freq_local, &b->hp->rope_local, NULL, err);
    mem_free(divisors);
    return status;
}

/* ---- all of it ---- */

static nib_status bind_common(const binder *b, nib_error *err) {
    weights *w = b->w;
    assert(b->hp->norms == NORM_BEFORE || b->hp->residual_scale == 1); /* a norm would undo it */
    NIB_TRY(make_rope_tables(b, err));
    w->layers = mem_array((size_t)b->hp->n_layers, sizeof *w->layers);
    if (!w->layers)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %d layers", b->file->path, b->hp->n_layers);
    static const slot final_norm = SLOT_FINAL_NORM; /* what it multiplies, the logits are multiplied by too */
    return vectors(b, &w->final_norm, &final_norm, 1, PLACE_NO_LAYER, b->hp->norm_plus_one ? 1 : 0,
                   b->hp->logit_scale, err);
}

static nib_status bind(const binder *b, nib_error *err) {
    weights *w = b->w;
    NIB_TRY(bind_common(b, err));
    NIB_TRY(bind_embed(b, err));
    if (b->hp->tied)
        w->head = w->embed;
    else
        NIB_TRY(matrix(b, &w->head, place_of(SLOT_HEAD, PLACE_NO_LAYER), SPLIT_ROWS, 1, err));
    for (int i = 0; i < b->hp->n_layers; i++) {
        NIB_TRY(bind_attention(b, i, err));
        NIB_TRY(bind_attention_vectors(b, i, err));
        NIB_TRY(bind_mlp(b, i, err));
        NIB_TRY(bind_mlp_vectors(b, i, err));
        tell_layer(b, &w->layers[i]);
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

static nib_status bind_by(nib_status (*how)(const binder *b, nib_error *err), weights *w, int32_t max_len,
                          const model_file *file, backend *be, const progress *watch, nib_error *err) {
    assert(file->has_network);
    *w = (weights){.max_len = max_len};
    binder b = {.w = w, .file = file, .hp = &file->hp, .be = be, .watch = watch};
    for (size_t i = 0; i < file->n_tensors; i++)
        if (file->tensors[i].place.slot != SLOT_NONE && file->tensors[i].rows > 1)
            b.total += tensor_total_bytes(&file->tensors[i]);
    nib_status status = how(&b, err);
    if (status == NIB_OK)
        status = wait(&b, err);
    if (status != NIB_OK)
        weights_free(w, &file->hp, be);
    return status;
}

nib_status weights_bind(weights *w, int32_t max_len, const model_file *file, backend *be,
                        const progress *watch, nib_error *err) {
    return bind_by(bind, w, max_len, file, be, watch, err);
}

nib_status weights_bind_vectors(weights *w, int32_t max_len, const model_file *file, backend *be,
                                nib_error *err) {
    return bind_by(bind_vectors, w, max_len, file, be, NULL, err);
}

nib_status weights_bind_part(weights *w, const model_file *file, backend *be, weights_part part, int layer,
                             nib_error *err) {
    binder b = {.w = w, .file = file, .hp = &file->hp, .be = be};
    switch (part) {
    case WEIGHTS_EMBED:
        NIB_TRY(bind_embed(&b, err));
        break;
    case WEIGHTS_ATTENTION:
        NIB_TRY(bind_attention(&b, layer, err));
        break;
    case WEIGHTS_MLP:
        NIB_TRY(bind_mlp(&b, layer, err));
        break;
    }
    return wait(&b, err);
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
    static const slot slots[][6] = {[WEIGHTS_EMBED] = {SLOT_EMBED},
                                    [WEIGHTS_ATTENTION] = {SLOT_Q, SLOT_K, SLOT_V, SLOT_QKV, SLOT_O},
                                    [WEIGHTS_MLP] = {SLOT_GATE, SLOT_UP, SLOT_GATE_UP, SLOT_DOWN}};
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
        if (t)
            mapfile_forget(t->data, t->bytes);
    }
}

void weights_free(weights *w, const hparams *hp, backend *be) {
    for (int i = 0; w->layers && i < hp->n_layers; i++) {
        layer_weights *l = &w->layers[i];
        weight *const matrices[] = {l->qkv, l->attn_out, l->gate_up, l->down};
        vec *const vectors[] = {l->attn_norm, l->post_attn_norm, l->ffn_norm, l->post_ffn_norm,
                                l->q_norm,    l->k_norm,         l->qkv_bias, l->attn_out_bias,
                                l->k_mean,    l->qk_balance};
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

size_t weights_products(const weights *w, const hparams *hp) {
    size_t n = 0;
    for (int i = 0; i < hp->n_layers; i++) {
        const weight *const all[] = {w->layers[i].qkv, w->layers[i].attn_out, w->layers[i].gate_up,
                                     w->layers[i].down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            n += all[j]->rows * all[j]->cols;
    }
    return n;
}

size_t weights_bytes_per_token(const weights *w, const hparams *hp) {
    return layer_bytes(w, hp) + w->head->bytes + w->embed->bytes / w->embed->rows;
}
