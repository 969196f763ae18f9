/* SPDX-License-Identifier: Apache-2.0
 *
 * See reach.h.
 */
#include "tune/reach.h"

#include <math.h>

#include "base/mem.h"
#include "base/stop.h"
#include "tune/walk.h"

typedef struct reaching {
    const model_file *file;
    const tune_options *o;
    float *reach;
    float *keys, *values; /* [WALK_MAX_ROWS, n_kv_heads * head_dim] */
    walk_text text;
    walk now;
    int layer; /* at hand */
    uint64_t done, total;
} reaching;

static size_t cols_of(const hparams *hp, walk_site at) {
    return at == SITE_O      ? (size_t)hp->n_heads * (size_t)hp->head_dim
           : at == SITE_DOWN ? (size_t)hp->ffn_dim
                             : (size_t)hp->dim;
}

static nib_status look(reaching *r, walk_site at, int layer, nib_error *err) {
    const size_t cols = cols_of(&r->file->hp, at);
    float most = 0;
    bool finite = true;
    for (size_t i = 0; i < r->text.n_batches; i++) {
        const float *x;
        NIB_TRY(walk_input(&r->now, at, layer, i, &x, err));
        for (size_t j = 0; j < (size_t)r->text.batches[i].n_rows * cols; j++) {
            most = fmaxf(most, fabsf(x[j]));
            finite &= isfinite(x[j]) != 0;
        }
        walk_leave(&r->now, i);
    }
    if (!finite)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: the inputs of layer %d are no finite numbers: a damaged model", r->file->path,
                        layer);
    for (int s = 0; s < SLOT_COUNT; s++)
        if (walk_reads(at, (slot)s))
            r->reach[(size_t)layer * SLOT_COUNT + (size_t)s] = most;
    return NIB_OK;
}

static float most_of(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

static nib_status tick(void *context, size_t i, nib_error *err) {
    reaching *r = context;
    (void)i;
    NIB_TRY(stop_check(r->o->interrupted, err));
    progress_report(&r->o->progress, "looking at inputs", ++r->done, r->total);
    return NIB_OK;
}

/* Of batch I, which attention was computed of last. */
static nib_status look_at_keys(void *context, size_t i, nib_error *err) {
    reaching *r = context;
    const batch *b = &r->text.batches[i];
    const size_t n = (size_t)b->n_rows * (size_t)r->file->hp.n_kv_heads * (size_t)r->file->hp.head_dim;
    float *to = r->reach + (size_t)r->layer * SLOT_COUNT;
    NIB_TRY(halves_keys(r->now.net, r->layer, b, r->keys, r->values, err));
    to[SLOT_K_SCALE] = fmaxf(to[SLOT_K_SCALE], most_of(r->keys, n));
    to[SLOT_V_SCALE] = fmaxf(to[SLOT_V_SCALE], most_of(r->values, n));
    return tick(r, i, err);
}

static nib_status run_all(reaching *r, backend *be, nib_error *err) {
    const hparams *hp = &r->file->hp;
    NIB_TRY(walk_text_cut(&r->text, r->o, r->file, err));
    r->total = (uint64_t)r->text.n_batches * 4 * (uint64_t)hp->n_layers;
    const size_t width = (size_t)hp->n_kv_heads * (size_t)hp->head_dim;
    r->keys = mem_array(WALK_MAX_ROWS, width * sizeof *r->keys);
    r->values = mem_array(WALK_MAX_ROWS, width * sizeof *r->values);
    if (!r->keys || !r->values)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to look at its inputs", r->file->path);
    const bool on_disk = r->text.n_rows * walk_row_floats(hp) > r->o->memory_bytes / sizeof(float);
    NIB_TRY(walk_open(&r->now, &r->text, r->file, be, on_disk, r->o->journal, err));
    for (int layer = 0; layer < hp->n_layers; layer++)
        for (int at = SITE_QKV; at < SITE_HEAD; at++) {
            const half_kind kind = at < SITE_GATE_UP ? HALF_ATTENTION : HALF_MLP;
            r->layer = layer;
            NIB_TRY(look(r, (walk_site)at, layer, err));
            NIB_TRY(walk_half(&r->now, kind, layer, at == SITE_O || at == SITE_DOWN,
                              at == SITE_QKV ? look_at_keys : tick, r, err));
        }
    return NIB_OK;
}

nib_status reach_find(float *reach, const model_file *file, backend *be, const tune_options *options,
                      nib_error *err) {
    NIB_TRY(model_file_need_network(file, err));
    reaching r = {.file = file, .o = options, .reach = reach};
    const nib_status status = run_all(&r, be, err);
    walk_close(&r.now);
    mem_free(r.keys);
    mem_free(r.values);
    walk_text_free(&r.text);
    return status;
}
