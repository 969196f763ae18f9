/* SPDX-License-Identifier: Apache-2.0
 *
 * See walk.h.
 */
#include "tune/walk.h"

#include <math.h>

#include "base/mem.h"

#define HOLD_OUT 8 /* one window in so many */

/* ---- the text ---- */

static nib_status check_windows(const tune_options *o, const model_file *file, nib_error *err) {
    if (o->n_windows < 2)
        return nib_fail(err, NIB_BAD_ARGUMENT, "a calibration text of %zu windows; expected 2 at least",
                        o->n_windows);
    for (size_t w = 0; w < o->n_windows; w++)
        if (o->starts[w + 1] <= o->starts[w] || o->starts[w + 1] - o->starts[w] > TUNE_WINDOW)
            return nib_fail(err, NIB_BAD_ARGUMENT, "calibration window %zu: expected 1 to %d tokens", w,
                            TUNE_WINDOW);
    for (size_t i = o->starts[0]; i < o->starts[o->n_windows]; i++)
        if (o->ids[i] < 0 || o->ids[i] >= file->hp.vocab)
            return nib_fail(err, NIB_BAD_FILE, "token %d of the text lies outside a vocabulary of %d",
                            o->ids[i], file->hp.vocab);
    return NIB_OK;
}

static void cut_window(walk_text *t, const tune_options *o, size_t w) {
    bool held_out = o->n_windows < HOLD_OUT ? w == o->n_windows - 1 : w % HOLD_OUT == HOLD_OUT - 1;
    for (size_t at = o->starts[w]; at < o->starts[w + 1]; at += WALK_MAX_ROWS) {
        size_t n = o->starts[w + 1] - at < WALK_MAX_ROWS ? o->starts[w + 1] - at : WALK_MAX_ROWS;
        size_t i = t->n_batches++, pos = at - o->starts[w];
        t->seqs[i] = (batch_seq){.pages = CACHE_EVERY_GROUP(t->pages),
                                 .n_pages = (int32_t)((pos + n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS),
                                 .n_rows = (int32_t)n,
                                 .pos = (int32_t)pos};
        t->batches[i] =
            (batch){.tokens = o->ids + at, .n_rows = (int32_t)n, .seqs = &t->seqs[i], .n_seqs = 1};
        t->first_row[i] = t->n_rows;
        t->held_out[i] = held_out;
        t->by[i] = o->counts ? sqrtf(o->counts[w]) : 1;
        t->n_rows += n;
    }
}

nib_status walk_text_cut(walk_text *t, const tune_options *o, const model_file *file, nib_error *err) {
    size_t most = 0;
    NIB_TRY(check_windows(o, file, err));
    for (size_t w = 0; w < o->n_windows; w++)
        most += (o->starts[w + 1] - o->starts[w] + WALK_MAX_ROWS - 1) / WALK_MAX_ROWS;
    t->batches = mem_array(most, sizeof *t->batches);
    t->seqs = mem_array(most, sizeof *t->seqs);
    t->first_row = mem_array(most, sizeof *t->first_row);
    t->held_out = mem_array(most, sizeof *t->held_out);
    t->by = mem_array(most, sizeof *t->by);
    if (!t->batches || !t->seqs || !t->first_row || !t->held_out || !t->by)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", file->path);
    for (int i = 0; i < WALK_PAGES; i++)
        t->pages[i] = i;
    for (size_t w = 0; w < o->n_windows; w++)
        cut_window(t, o, w);
    return NIB_OK;
}

void walk_text_free(walk_text *t) {
    mem_free(t->batches);
    mem_free(t->seqs);
    mem_free(t->first_row);
    mem_free(t->held_out);
    mem_free(t->by);
}

/* ---- the walk ---- */

bool walk_reads(walk_site at, slot s) {
    switch (at) {
    case SITE_QKV:
        return s == SLOT_Q || s == SLOT_K || s == SLOT_V || s == SLOT_QKV;
    case SITE_O:
        return s == SLOT_O;
    case SITE_GATE_UP:
        return s == SLOT_GATE || s == SLOT_UP || s == SLOT_GATE_UP;
    case SITE_DOWN:
        return s == SLOT_DOWN;
    case SITE_HEAD:
        break;
    }
    return s == SLOT_HEAD || s == SLOT_EMBED;
}

static size_t widest_inner(const hparams *hp) {
    size_t a = (size_t)hp->n_heads * (size_t)hp->head_dim, f = (size_t)hp->ffn_dim;
    return a > f ? a : f;
}

size_t walk_row_floats(const hparams *hp) {
    return (size_t)hp->dim + widest_inner(hp);
}

static float *x_of(const walk *w, size_t i) {
    return w->x.at + w->text->first_row[i] * w->dim;
}

static float *inner_of(const walk *w, size_t i, half_kind kind) {
    return w->inner.at + w->text->first_row[i] * halves_inner_cols(w->net, kind);
}

static nib_status embed(walk *w, nib_error *err) {
    NIB_TRY(halves_embed_begin(w->net, err));
    nib_status status = NIB_OK;
    for (size_t i = 0; i < w->text->n_batches && status == NIB_OK; i++) {
        status = halves_embed(w->net, &w->text->batches[i], x_of(w, i), err);
        walk_leave(w, i);
    }
    halves_embed_end(w->net);
    return status;
}

nib_status walk_open(walk *w, const walk_text *text, const model_file *file, backend *be, bool on_disk,
                     const char *path, nib_error *err) {
    *w = (walk){.text = text, .dim = (size_t)file->hp.dim, .inner_cols = widest_inner(&file->hp)};
    model_limits limits = {.max_rows = WALK_MAX_ROWS,
                           .max_out = 1,
                           .n_pages = CACHE_EVERY_GROUP(WALK_PAGES),
                           .kv_dtype = NIB_KV_FP32};
    w->input = mem_array(w->dim, WALK_MAX_ROWS * sizeof *w->input);
    if (!w->input)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", file->path);
    NIB_TRY(halves_open(&w->net, file, be, &limits, err));
    NIB_TRY(stream_open(&w->x, text->n_rows * w->dim, on_disk, path, err));
    NIB_TRY(stream_open(&w->inner, text->n_rows * w->inner_cols, on_disk, path, err));
    return embed(w, err);
}

void walk_close(walk *w) {
    halves_close(w->net);
    stream_close(&w->x);
    stream_close(&w->inner);
    mem_free(w->input);
    *w = (walk){0};
}

nib_status walk_input(walk *w, walk_site at, int layer, size_t i, const float **out, nib_error *err) {
    const batch *b = &w->text->batches[i];
    *out = w->input;
    switch (at) {
    case SITE_QKV:
        return halves_input(w->net, HALF_ATTENTION, layer, b, x_of(w, i), w->input, err);
    case SITE_GATE_UP:
        return halves_input(w->net, HALF_MLP, layer, b, x_of(w, i), w->input, err);
    case SITE_HEAD:
        return halves_final(w->net, b, x_of(w, i), w->input, err);
    case SITE_O:
    case SITE_DOWN:
        break;
    }
    *out = inner_of(w, i, at == SITE_O ? HALF_ATTENTION : HALF_MLP);
    return NIB_OK;
}

const float *walk_residual(const walk *w, size_t i) {
    return x_of(w, i);
}

static nib_status step(walk *w, half_kind kind, int layer, bool second, size_t i, nib_error *err) {
    const batch *b = &w->text->batches[i];
    nib_status status = second ? halves_add(w->net, kind, layer, b, inner_of(w, i, kind), x_of(w, i), err)
                               : halves_inner(w->net, kind, layer, b, x_of(w, i), inner_of(w, i, kind), err);
    walk_leave(w, i);
    return status;
}

void walk_leave(const walk *w, size_t i) {
    size_t rows = (size_t)w->text->batches[i].n_rows;
    stream_leave(&w->x, w->text->first_row[i] * w->dim, rows * w->dim);
    stream_leave(&w->inner, w->text->first_row[i] * w->inner_cols, rows * w->inner_cols);
}

nib_status walk_half(walk *w, half_kind kind, int layer, bool second, walk_after *after, void *context,
                     nib_error *err) {
    NIB_TRY(halves_bind(w->net, kind, layer, err));
    nib_status status = NIB_OK;
    for (size_t i = 0; i < w->text->n_batches && status == NIB_OK; i++) {
        status = step(w, kind, layer, second, i, err);
        if (status == NIB_OK)
            status = after(context, i, err);
    }
    halves_unbind(w->net, kind, layer);
    return status;
}
