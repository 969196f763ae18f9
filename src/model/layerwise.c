/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of a forward turned inside out. Each batch has an x of its own; a half of a layer is bound, run
 * over all batches, and freed.
 */
#include "model/layerwise.h"

#include "base/mem.h"
#include "base/stop.h"
#include "model/key_rows.h"
#include "model/network.h"

typedef struct walk {
    const model_file *file;
    const layerwise_job *job;
    model *m;
    buf **x;        /* [n_batches] F32 [rows, dim] */
    vec **observed; /* the model's; those of one layer at a time */
    key_rows keys;  /* for a look, and */
    float *rows;    /* [max_rows, the widest input] */
    uint64_t done;
    nib_error *err;
} walk;

static nib_status open_streams(walk *w) {
    const layerwise_job *job = w->job;
    w->x = mem_array(job->n_batches, sizeof *w->x);
    if (!w->x)
        return nib_fail(w->err, NIB_NO_MEMORY, "%s: no memory to calibrate", w->file->path);
    for (size_t i = 0; i < job->n_batches; i++)
        NIB_TRY(w->m->be->buf_new(w->m->be, &w->x[i], BUF_F32, SPLIT_NONE, (size_t)job->batches[i].n_rows,
                                  (size_t)w->m->hp->dim, w->err));
    return NIB_OK;
}

static size_t inputs_of(const hparams *hp, slot s) {
    if (s == SLOT_O)
        return (size_t)hp->n_heads * (size_t)hp->head_dim;
    return (size_t)(s == SLOT_DOWN ? hp->ffn_dim : hp->dim);
}

static nib_status open_look(walk *w) {
    size_t widest = inputs_of(w->m->hp, SLOT_Q);
    for (slot s = SLOT_O; s <= SLOT_DOWN; s++)
        widest = inputs_of(w->m->hp, s) > widest ? inputs_of(w->m->hp, s) : widest;
    w->rows = mem_array((size_t)w->m->limits.max_rows, widest * sizeof *w->rows);
    if (!w->rows)
        return nib_fail(w->err, NIB_NO_MEMORY, "%s: no memory to calibrate", w->file->path);
    return key_rows_open(&w->keys, w->m, w->err);
}

static nib_status open_all(walk *w, backend *be) {
    NIB_TRY(network_open(&w->m, w->file, be, &w->job->limits, w->err));
    NIB_TRY(weights_bind_vectors(&w->m->w, w->m->limits.max_len, w->file, be, w->err));
    w->m->observed = w->observed = mem_array((size_t)w->m->hp->n_layers * SLOT_COUNT, sizeof *w->observed);
    if (!w->observed)
        return nib_fail(w->err, NIB_NO_MEMORY, "%s: no memory to calibrate", w->file->path);
    NIB_TRY(network_open_layer_cache(w->m, w->err));
    NIB_TRY(open_streams(w));
    return w->job->look ? open_look(w) : NIB_OK;
}

static void close_all(walk *w) {
    key_rows_close(&w->keys);
    mem_free(w->rows);
    for (size_t i = 0; w->x && i < w->job->n_batches; i++)
        if (w->x[i])
            w->m->be->buf_free(w->m->be, w->x[i]);
    mem_free(w->x);
    for (int i = 0; w->m && w->observed && i < w->m->hp->n_layers * SLOT_COUNT; i++)
        if (w->observed[i])
            w->m->be->vec_free(w->m->be, w->observed[i]);
    mem_free(w->observed);
    if (w->m)
        w->m->x = NULL; /* one of those */
    network_close(w->m);
}

/* The sums of LAYER that the job asks for begin where they stand, */
static nib_status observe_from(walk *w, int layer) {
    model *m = w->m;
    for (int i = layer * SLOT_COUNT; i < (layer + 1) * SLOT_COUNT; i++)
        if (w->job->sums[i])
            NIB_TRY(m->be->vec_new(m->be, &w->observed[i], VEC_F64, inputs_of(m->hp, (slot)(i % SLOT_COUNT)),
                                   w->job->sums[i], w->err));
    return NIB_OK;
}

/* and go back there. */
static void observe_to(walk *w, int layer) {
    model *m = w->m;
    for (int i = layer * SLOT_COUNT; i < (layer + 1) * SLOT_COUNT; i++) {
        if (!w->observed[i])
            continue;
        m->be->vec_read(m->be, w->observed[i], w->job->sums[i]);
        m->be->vec_free(m->be, w->observed[i]);
        w->observed[i] = NULL;
    }
}

static void queue_part(model *m, weights_part part, int layer) {
    switch (part) {
    case WEIGHTS_EMBED:
        op_embed(m->be, m->x, m->w.embed, m->hp->embed_scale);
        break;
    case WEIGHTS_ATTENTION:
        attention_half(m, &m->w.layers[layer]);
        break;
    case WEIGHTS_MLP:
        mlp_half(m, &m->w.layers[layer]);
        break;
    }
}

/* ---- looking at rows ---- */

static void look_at(const walk *w, int layer, slot s, const buf *input, size_t rows) {
    w->m->be->buf_read(w->m->be, input, w->rows);
    w->job->look(w->job->context, layer, s, w->rows, rows);
}

/* What the part of a layer that batch B has just passed through has left where its matrices read it. */
static nib_status look_at_part(walk *w, weights_part part, int layer, const batch *b) {
    const size_t rows = (size_t)b->n_rows;
    const bool attention = part == WEIGHTS_ATTENTION;
    if (!w->job->look || part == WEIGHTS_EMBED)
        return NIB_OK;
    look_at(w, layer, attention ? SLOT_Q : SLOT_GATE, w->m->h, rows);
    look_at(w, layer, attention ? SLOT_O : SLOT_DOWN, attention ? w->m->a : w->m->g, rows);
    if (!attention)
        return NIB_OK;
    NIB_TRY(key_rows_read(&w->keys, layer, b, w->err));
    w->job->look(w->job->context, layer, SLOT_K_SCALE, w->keys.keys, rows);
    w->job->look(w->job->context, layer, SLOT_V_SCALE, w->keys.values, rows);
    return NIB_OK;
}

/* ---- the walk ---- */

/* One part of the network over all batches. */
static nib_status run_part(walk *w, weights_part part, int layer) {
    model *m = w->m;
    NIB_TRY(weights_bind_part(&m->w, w->file, m->be, part, layer, w->err));
    for (size_t i = 0; i < w->job->n_batches; i++) {
        const batch *b = &w->job->batches[i];
        NIB_TRY(stop_check(w->job->interrupted, w->err));
        m->x = w->x[i];
        step_begin(m->be, b, 0);
        queue_part(m, part, layer);
        NIB_TRY(step_finish(m->be, w->err));
        NIB_TRY(look_at_part(w, part, layer, b));
        w->done += part == WEIGHTS_MLP ? (uint64_t)b->n_rows : 0;
        progress_report(w->job->progress, "calibrating", w->done, w->job->total);
    }
    weights_unbind_part(&m->w, w->file, m->be, part, layer);
    return NIB_OK;
}

static nib_status run_layer(walk *w, int layer) {
    NIB_TRY(observe_from(w, layer));
    NIB_TRY(run_part(w, WEIGHTS_ATTENTION, layer));
    NIB_TRY(run_part(w, WEIGHTS_MLP, layer));
    observe_to(w, layer);
    return NIB_OK;
}

/* The norm that the head reads, for its sums, which stand at layer 0. */
static nib_status run_final_norm(walk *w) {
    model *m = w->m;
    NIB_TRY(observe_from(w, 0));
    for (size_t i = 0; i < w->job->n_batches; i++) {
        if (w->job->batches[i].n_out == 0)
            continue;
        m->x = w->x[i];
        step_begin(m->be, &w->job->batches[i], 0);
        network_final_norm(m);
        NIB_TRY(step_finish(m->be, w->err));
        if (w->job->look)
            look_at(w, 0, SLOT_HEAD, m->h_out, (size_t)w->job->batches[i].n_out);
    }
    observe_to(w, 0);
    return NIB_OK;
}

static nib_status run_all(walk *w, backend *be) {
    NIB_TRY(open_all(w, be));
    NIB_TRY(run_part(w, WEIGHTS_EMBED, PLACE_NO_LAYER));
    for (int layer = 0; layer < w->m->hp->n_layers; layer++)
        NIB_TRY(run_layer(w, layer));
    return run_final_norm(w);
}

nib_status layerwise_run(const model_file *file, backend *be, const layerwise_job *job, nib_error *err) {
    walk w = {.file = file, .job = job, .done = job->done, .err = err};
    nib_status status = run_all(&w, be);
    close_all(&w);
    return status;
}
