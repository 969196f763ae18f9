/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk: batches of the text through the network half a layer at a time, and at each of its four inputs
 * (and the head's) the choice of the matrices that read it. See tune.h.
 */
#include "tune/tune.h"

#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "base/pool.h"
#include "model/halves.h"
#include "tune/choose.h"
#include "tune/gram.h"
#include "tune/journal.h"
#include "tune/stream.h"

#define MAX_ROWS     256 /* of a batch */
#define HOLD_OUT     8   /* one window in so many */
#define MAX_READERS  3   /* matrices that read one input */
#define WINDOW_PAGES (TUNE_WINDOW / KV_PAGE_TOKENS)

/* An input of linear layers, in the order of a layer's work. */
typedef enum site { SITE_QKV = 0, SITE_O, SITE_GATE_UP, SITE_DOWN, SITE_HEAD } site;
enum { N_SITES = SITE_HEAD + 1 };

typedef struct tune {
    const model_file *file;
    model_file view;          /* FILE with what was chosen so far in the place of its matrices */
    const tensor **stand_ins; /* [file->n_tensors] */
    tensor *made;             /* [n] */
    tune_matrix *matrices;    /* [n] */
    size_t n;
    const tune_options *o;
    backend *be;
    pool *pool;
    halves *net;
    journal journal;
    journal_entry *entries; /* [n] */

    batch *batches; /* [n_batches] */
    batch_seq *seqs;
    size_t *first_row; /* [n_batches] of the streams */
    bool *held_out;    /* [n_batches] */
    size_t n_batches, n_rows;
    int32_t pages[WINDOW_PAGES];
    stream x, inner;       /* [n_rows, dim], [n_rows, inner_cols] */
    size_t inner_cols;     /* of the wider of the halves */
    float *input;          /* [MAX_ROWS, dim] */
    gram train, test;      /* of the site at hand */
    int strength[N_SITES]; /* of the shrinking, where the last layer's search ended */
    uint64_t done, total;
} tune;

/* ---- batches ---- */

static void cut_batches(tune *t) {
    const tune_options *o = t->o;
    for (size_t w = 0; w < o->n_windows; w++) {
        bool held_out = o->n_windows < HOLD_OUT ? w == o->n_windows - 1 : w % HOLD_OUT == HOLD_OUT - 1;
        for (size_t at = o->starts[w]; at < o->starts[w + 1]; at += MAX_ROWS) {
            size_t n = o->starts[w + 1] - at < MAX_ROWS ? o->starts[w + 1] - at : MAX_ROWS;
            size_t i = t->n_batches++, pos = at - o->starts[w];
            t->seqs[i] = (batch_seq){.pages = CACHE_EVERY_GROUP(t->pages),
                                     .n_pages = (int32_t)((pos + n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS),
                                     .n_rows = (int32_t)n,
                                     .pos = (int32_t)pos};
            t->batches[i] =
                (batch){.tokens = o->ids + at, .n_rows = (int32_t)n, .seqs = &t->seqs[i], .n_seqs = 1};
            t->first_row[i] = t->n_rows;
            t->held_out[i] = held_out;
            t->n_rows += n;
        }
    }
}

static nib_status check_windows(const tune *t, nib_error *err) {
    const tune_options *o = t->o;
    if (o->n_windows < 2)
        return nib_fail(err, NIB_BAD_ARGUMENT, "a calibration text of %zu windows; expected 2 at least",
                        o->n_windows);
    for (size_t w = 0; w < o->n_windows; w++)
        if (o->starts[w + 1] <= o->starts[w] || o->starts[w + 1] - o->starts[w] > TUNE_WINDOW)
            return nib_fail(err, NIB_BAD_ARGUMENT, "calibration window %zu: expected 1 to %d tokens", w,
                            TUNE_WINDOW);
    for (size_t i = o->starts[0]; i < o->starts[o->n_windows]; i++)
        if (o->ids[i] < 0 || o->ids[i] >= t->file->hp.vocab)
            return nib_fail(err, NIB_BAD_FILE, "token %d of the text lies outside a vocabulary of %d",
                            o->ids[i], t->file->hp.vocab);
    return NIB_OK;
}

/* ---- opening ---- */

/* Of all that the result depends on; of large tensors, pieces. */
static uint64_t fingerprint(const tune *t) {
    enum { PIECES = 16, PIECE = 4096 };
    const tune_options *o = t->o;
    static const char version[] = "tune 3";
    uint64_t h = journal_hash(JOURNAL_SEED, version, sizeof version);
    h = journal_hash(h, &o->method, sizeof o->method);
    h = journal_hash(h, o->starts, (o->n_windows + 1) * sizeof *o->starts);
    h = journal_hash(h, o->ids, o->starts[o->n_windows] * sizeof *o->ids);
    h = journal_hash(h, t->be->path, strlen(t->be->path));
    for (size_t i = 0; i < t->file->n_tensors; i++) {
        const tensor *w = &t->file->tensors[i];
        size_t piece = w->bytes / PIECES < PIECE ? w->bytes / PIECES : PIECE;
        h = journal_hash(h, w->name, strlen(w->name));
        for (size_t p = 0; p < PIECES; p++)
            h = journal_hash(h, (const char *)w->data + w->bytes / PIECES * p, piece);
        mapfile_forget(w->data, w->bytes);
    }
    for (size_t i = 0; i < t->n; i++) {
        h = journal_hash(h, t->matrices[i].t->name, strlen(t->matrices[i].t->name));
        h = journal_hash(h, &t->matrices[i].tensor_scale, sizeof(float));
        h = journal_hash(h, &t->matrices[i].fp8_exact, sizeof(bool));
    }
    return h;
}

static nib_status open_lists(tune *t, nib_error *err) {
    size_t most = 0;
    for (size_t w = 0; w < t->o->n_windows; w++)
        most += (t->o->starts[w + 1] - t->o->starts[w] + MAX_ROWS - 1) / MAX_ROWS;
    t->stand_ins = mem_array(t->file->n_tensors, sizeof *t->stand_ins);
    t->made = mem_array(t->n, sizeof *t->made);
    t->entries = mem_array(t->n, sizeof *t->entries);
    t->batches = mem_array(most, sizeof *t->batches);
    t->seqs = mem_array(most, sizeof *t->seqs);
    t->first_row = mem_array(most, sizeof *t->first_row);
    t->held_out = mem_array(most, sizeof *t->held_out);
    t->input = mem_array((size_t)t->file->hp.dim, MAX_ROWS * sizeof *t->input);
    if (!t->stand_ins || !t->made || !t->entries || !t->batches || !t->seqs || !t->first_row ||
        !t->held_out || !t->input)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", t->file->path);
    for (int i = 0; i < WINDOW_PAGES; i++)
        t->pages[i] = i;
    cut_batches(t);
    for (size_t i = 0; i < t->n; i++) {
        const tensor *m = t->matrices[i].t;
        t->entries[i].codes_bytes = m->rows * (m->cols / 2);
        t->entries[i].scales_bytes = m->rows * (m->cols / 16);
    }
    return NIB_OK;
}

static nib_status open_all(tune *t, nib_error *err) {
    NIB_TRY(check_windows(t, err));
    NIB_TRY(open_lists(t, err));
    NIB_TRY(pool_new(&t->pool, t->o->threads, err));
    NIB_TRY(journal_open(&t->journal, t->o->journal, fingerprint(t), t->entries, t->n, err));
    for (int at = 0; at < N_SITES; at++)
        t->strength[at] = CHOOSE_FIRST;
    t->view = *t->file;
    t->view.stand_ins = t->stand_ins;
    model_limits limits = {.max_rows = MAX_ROWS,
                           .max_out = 1,
                           .n_pages = CACHE_EVERY_GROUP(WINDOW_PAGES),
                           .kv_dtype = NIB_KV_FP32};
    NIB_TRY(halves_open(&t->net, &t->view, t->be, &limits, err));
    size_t a = halves_inner_cols(t->net, HALF_ATTENTION), g = halves_inner_cols(t->net, HALF_MLP);
    size_t dim = (size_t)t->file->hp.dim;
    t->inner_cols = a > g ? a : g;
    bool on_disk = t->n_rows * (dim + t->inner_cols) > t->o->memory_bytes / sizeof(float);
    NIB_TRY(stream_open(&t->x, t->n_rows * dim, on_disk, t->o->journal, err));
    return stream_open(&t->inner, t->n_rows * t->inner_cols, on_disk, t->o->journal, err);
}

/* ---- the sites ---- */

static bool reads_site(const tune_matrix *m, site at, int layer) {
    slot s = m->slot;
    if (at == SITE_HEAD)
        return s == SLOT_HEAD || s == SLOT_EMBED;
    if (m->t->place.layer != layer)
        return false;
    switch (at) {
    case SITE_QKV:
        return s == SLOT_Q || s == SLOT_K || s == SLOT_V;
    case SITE_O:
        return s == SLOT_O;
    case SITE_GATE_UP:
        return s == SLOT_GATE || s == SLOT_UP;
    default:
        return s == SLOT_DOWN;
    }
}

static size_t find_readers(const tune *t, site at, int layer, size_t found[MAX_READERS]) {
    size_t n = 0;
    for (size_t i = 0; i < t->n && n < MAX_READERS; i++)
        if (reads_site(&t->matrices[i], at, layer))
            found[n++] = i;
    return n;
}

static nib_status tick(tune *t, size_t steps, nib_error *err) {
    if (t->o->interrupted && *t->o->interrupted)
        return nib_fail(err, NIB_CANCELLED, "interrupted");
    t->done += steps;
    progress_report(&t->o->progress, "quantizing layer by layer", t->done, t->total);
    return NIB_OK;
}

static float *x_of(const tune *t, size_t i) {
    return t->x.at + t->first_row[i] * (size_t)t->file->hp.dim;
}

static float *inner_of(const tune *t, size_t i, half_kind kind) {
    return t->inner.at + t->first_row[i] * halves_inner_cols(t->net, kind);
}

static void leave(const tune *t, size_t i) {
    size_t rows = (size_t)t->batches[i].n_rows, dim = (size_t)t->file->hp.dim;
    stream_leave(&t->x, t->first_row[i] * dim, rows * dim);
    stream_leave(&t->inner, t->first_row[i] * t->inner_cols, rows * t->inner_cols);
}

/* What the readers of a site read of batch I. */
static nib_status input_of(tune *t, site at, int layer, size_t i, const float **out, nib_error *err) {
    const batch *b = &t->batches[i];
    *out = t->input;
    switch (at) {
    case SITE_QKV:
        return halves_input(t->net, HALF_ATTENTION, layer, b, x_of(t, i), t->input, err);
    case SITE_GATE_UP:
        return halves_input(t->net, HALF_MLP, layer, b, x_of(t, i), t->input, err);
    case SITE_HEAD:
        return halves_final(t->net, b, x_of(t, i), t->input, err);
    case SITE_O:
    case SITE_DOWN:
        break;
    }
    *out = inner_of(t, i, at == SITE_O ? HALF_ATTENTION : HALF_MLP);
    return NIB_OK;
}

static nib_status gather_moments(tune *t, site at, int layer, size_t cols, nib_error *err) {
    NIB_TRY(gram_open(&t->train, t->be, cols, err));
    NIB_TRY(gram_open(&t->test, t->be, cols, err));
    for (size_t i = 0; i < t->n_batches; i++) {
        const float *input;
        NIB_TRY(input_of(t, at, layer, i, &input, err));
        NIB_TRY(gram_add(t->held_out[i] ? &t->test : &t->train, input, (size_t)t->batches[i].n_rows, err));
        leave(t, i);
        NIB_TRY(tick(t, 1, err));
    }
    NIB_TRY(gram_finish(&t->train, err));
    return gram_finish(&t->test, err);
}

static nib_status choose_readers(tune *t, site at, const size_t *found, size_t n, nib_error *err) {
    tune_matrix *matrices[MAX_READERS];
    uint8_t *codes[MAX_READERS], *scales[MAX_READERS];
    for (size_t i = 0; i < n; i++) {
        matrices[i] = &t->matrices[found[i]];
        codes[i] = t->entries[found[i]].codes;
        scales[i] = t->entries[found[i]].scales;
    }
    choose_job job = {.matrices = matrices,
                      .codes = codes,
                      .scales = scales,
                      .n = n,
                      .h = t->train.h,
                      .held_out = t->test.h,
                      .method = t->o->method,
                      .strength = &t->strength[at],
                      .pool = t->pool,
                      .interrupted = t->o->interrupted};
    NIB_TRY(choose_codes(&job, err));
    for (size_t i = 0; i < n; i++) {
        const tune_matrix *m = matrices[i];
        double note[JOURNAL_NOTES] = {(double)m->way, m->shrink, m->error, m->sweep_error, t->strength[at]};
        memcpy(t->entries[found[i]].note, note, sizeof note);
        journal_note(&t->journal, found[i]);
    }
    return NIB_OK;
}

/* Matrix I as the network computes with it from here on. */
static void stand_in(tune *t, site at, size_t i) {
    tune_matrix *m = &t->matrices[i];
    const journal_entry *e = &t->entries[i];
    m->way = (tune_way)(int)e->note[0];
    m->shrink = e->note[1];
    m->error = e->note[2];
    m->sweep_error = e->note[3];
    t->strength[at] = (int)e->note[4];
    m->codes = e->codes;
    m->scales = e->scales;
    t->made[i] = *m->t;
    t->made[i].dtype = DT_NVFP4;
    t->made[i].data = e->codes;
    t->made[i].bytes = e->codes_bytes;
    t->made[i].block_scales = e->scales;
    t->made[i].row_scales = NULL;
    t->made[i].tensor_scale = m->tensor_scale;
    t->stand_ins[m->t - t->file->tensors] = &t->made[i];
}

static nib_status run_site(tune *t, site at, int layer, nib_error *err) {
    size_t found[MAX_READERS], n = find_readers(t, at, layer, found);
    bool there = true;
    for (size_t i = 0; i < n; i++)
        there &= journal_has(&t->journal, found[i]);
    if (there)
        return tick(t, 3 * t->n_batches, err);
    nib_status status = gather_moments(t, at, layer, t->matrices[found[0]].t->cols, err);
    if (status == NIB_OK)
        status = choose_readers(t, at, found, n, err);
    gram_close(&t->train);
    gram_close(&t->test);
    NIB_TRY(status);
    return tick(t, 2 * t->n_batches, err);
}

static nib_status choose_site(tune *t, site at, int layer, nib_error *err) {
    size_t found[MAX_READERS], n = find_readers(t, at, layer, found);
    NIB_TRY(run_site(t, at, layer, err));
    for (size_t i = 0; i < n; i++)
        stand_in(t, at, found[i]);
    return NIB_OK;
}

/* ---- the walk ---- */

typedef nib_status (*half_step)(tune *t, half_kind kind, int layer, size_t i, nib_error *err);

static nib_status step_inner(tune *t, half_kind kind, int layer, size_t i, nib_error *err) {
    return halves_inner(t->net, kind, layer, &t->batches[i], x_of(t, i), inner_of(t, i, kind), err);
}

static nib_status step_add(tune *t, half_kind kind, int layer, size_t i, nib_error *err) {
    return halves_add(t->net, kind, layer, &t->batches[i], inner_of(t, i, kind), x_of(t, i), err);
}

/* A step of half a layer over all batches, with the matrices as they are now. */
static nib_status run_step(tune *t, half_step step, half_kind kind, int layer, nib_error *err) {
    NIB_TRY(halves_bind(t->net, kind, layer, err));
    nib_status status = NIB_OK;
    for (size_t i = 0; i < t->n_batches && status == NIB_OK; i++) {
        status = step(t, kind, layer, i, err);
        leave(t, i);
        if (status == NIB_OK)
            status = tick(t, 1, err);
    }
    halves_unbind(t->net, kind, layer);
    return status;
}

static nib_status run_layer(tune *t, int layer, nib_error *err) {
    NIB_TRY(choose_site(t, SITE_QKV, layer, err));
    NIB_TRY(run_step(t, step_inner, HALF_ATTENTION, layer, err));
    NIB_TRY(choose_site(t, SITE_O, layer, err));
    NIB_TRY(run_step(t, step_add, HALF_ATTENTION, layer, err));
    NIB_TRY(choose_site(t, SITE_GATE_UP, layer, err));
    NIB_TRY(run_step(t, step_inner, HALF_MLP, layer, err));
    NIB_TRY(choose_site(t, SITE_DOWN, layer, err));
    return run_step(t, step_add, HALF_MLP, layer, err);
}

static nib_status embed(tune *t, nib_error *err) {
    NIB_TRY(halves_embed_begin(t->net, err));
    nib_status status = NIB_OK;
    for (size_t i = 0; i < t->n_batches && status == NIB_OK; i++) {
        status = halves_embed(t->net, &t->batches[i], x_of(t, i), err);
        leave(t, i);
    }
    halves_embed_end(t->net);
    return status;
}

static nib_status run_all(tune *t, nib_error *err) {
    int n_layers = t->file->hp.n_layers;
    NIB_TRY(open_all(t, err));
    t->total = (uint64_t)t->n_batches * (16 * (uint64_t)n_layers + 3); /* four sites of 3, four steps of 1 */
    NIB_TRY(embed(t, err));
    for (int layer = 0; layer < n_layers; layer++)
        NIB_TRY(run_layer(t, layer, err));
    return choose_site(t, SITE_HEAD, 0, err);
}

nib_status tune_run(tune **out, const model_file *file, backend *be, tune_matrix *matrices, size_t n,
                    const tune_options *options, nib_error *err) {
    *out = NULL;
    NIB_TRY(model_file_need_network(file, err));
    tune *t = mem_array(1, sizeof *t);
    if (!t)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", file->path);
    t->file = file;
    t->be = be;
    t->matrices = matrices;
    t->n = n;
    t->o = options;
    nib_status status = run_all(t, err);
    halves_close(t->net); /* the codes alone are kept */
    pool_free(t->pool);
    stream_close(&t->x);
    stream_close(&t->inner);
    if (status != NIB_OK) {
        tune_close(t, false);
        return status;
    }
    *out = t;
    return NIB_OK;
}

void tune_close(tune *t, bool remove_journal) {
    if (!t)
        return;
    journal_close(&t->journal, remove_journal);
    mem_free(t->stand_ins);
    mem_free(t->made);
    mem_free(t->entries);
    mem_free(t->batches);
    mem_free(t->seqs);
    mem_free(t->first_row);
    mem_free(t->held_out);
    mem_free(t->input);
    mem_free(t);
}
