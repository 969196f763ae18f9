/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk: batches of the text through the network half a layer at a time, and at each of its four inputs
 * (and the head's) the choice of the matrices that read it. See tune.h.
 */
#include "tune/tune.h"

#include <assert.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/stop.h"
#include "tune/beside.h"
#include "tune/journal.h"
#include "tune/walk.h"

#define MAX_READERS 3 /* matrices that read one input */

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
    journal journal;
    journal_entry *entries; /* [n] */
    bool *kept;             /* [n] whose codes a stopped run has left there */

    walk_text text;
    walk now, source; /* by the view; by FILE, where what was lost is to be made good */
    bool with_source;
    moments train, test;   /* of the walk_site at hand */
    int strength[N_SITES]; /* of the shrinking, where the last layer's search ended */
    uint64_t done, total;
} tune;

/* ---- opening ---- */

/* Of all that the result depends on; of large tensors, pieces. */
static uint64_t fingerprint(const tune *t) {
    enum { PIECES = 16, PIECE = 4096 };
    const tune_options *o = t->o;
    static const char version[] = "tune 9";
    uint64_t h = journal_hash(JOURNAL_SEED, version, sizeof version);
    h = journal_hash(h, &o->method, sizeof o->method);
    h = journal_hash(h, o->starts, (o->n_windows + 1) * sizeof *o->starts);
    h = journal_hash(h, o->ids, o->starts[o->n_windows] * sizeof *o->ids);
    if (o->counts)
        h = journal_hash(h, o->counts, o->n_windows * sizeof *o->counts);
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
        h = journal_hash(h, &t->matrices[i].rank, sizeof t->matrices[i].rank);
        h = journal_hash(h, &t->matrices[i].grid, sizeof t->matrices[i].grid);
    }
    return h;
}

static nib_status open_lists(tune *t, nib_error *err) {
    t->stand_ins = mem_array(t->file->n_tensors, sizeof *t->stand_ins);
    t->made = mem_array(t->n, sizeof *t->made);
    t->entries = mem_array(t->n, sizeof *t->entries);
    t->kept = mem_array(t->n, sizeof *t->kept);
    if (!t->stand_ins || !t->made || !t->entries || !t->kept)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", t->file->path);
    for (size_t i = 0; i < t->n; i++) {
        const tensor *m = t->matrices[i].t;
        const gptq_grid grid = t->matrices[i].grid;
        t->entries[i].codes_bytes = m->rows * gptq_code_bytes(grid, m->cols) + beside_bytes(&t->matrices[i]);
        t->entries[i].scales_bytes = m->rows * gptq_scale_bytes(grid, m->cols);
    }
    return NIB_OK;
}

static nib_status open_all(tune *t, nib_error *err) {
    const char *path = t->o->journal;
    NIB_TRY(walk_text_cut(&t->text, t->o, t->file, err));
    NIB_TRY(open_lists(t, err));
    NIB_TRY(pool_new(&t->pool, t->o->threads, err));
    NIB_TRY(journal_open(&t->journal, path, fingerprint(t), t->entries, t->n, err));
    for (size_t i = 0; i < t->n; i++)
        t->kept[i] = journal_has(&t->journal, i);
    for (int at = 0; at < N_SITES; at++)
        t->strength[at] = CHOOSE_FIRST;
    t->view = *t->file;
    t->view.stand_ins = t->stand_ins;
    t->with_source = t->o->method == TUNE_BEST;
    size_t floats = t->text.n_rows * walk_row_floats(&t->file->hp) * (t->with_source ? 2 : 1);
    bool on_disk = floats > t->o->memory_bytes / sizeof(float);
    NIB_TRY(walk_open(&t->now, &t->text, &t->view, t->be, on_disk, path, err));
    return t->with_source ? walk_open(&t->source, &t->text, t->file, t->be, on_disk, path, err) : NIB_OK;
}

/* ---- the sites ---- */

static bool reads_site(const tune_matrix *m, walk_site at, int layer) {
    return walk_reads(at, m->slot) && (at == SITE_HEAD || m->t->place.layer == layer);
}

static size_t find_readers(const tune *t, walk_site at, int layer, size_t found[MAX_READERS]) {
    size_t n = 0;
    for (size_t i = 0; i < t->n && n < MAX_READERS; i++)
        if (reads_site(&t->matrices[i], at, layer))
            found[n++] = i;
    return n;
}

/* Of a batch at a site, where the source's inputs are seen too or not, and of its matrices' choice: in steps
 * of half a layer on a batch, which take as long as choosing for 10 columns or 5. */
static size_t moment_steps(const tune *t) {
    return t->with_source ? 2 : 1;
}

static size_t choice_steps(const tune *t, size_t cols) {
    return cols / (t->with_source ? 5 : 10) + 1;
}

/* Of a site; 0 where no matrix reads it. */
static uint64_t site_steps(const tune *t, walk_site at, int layer) {
    size_t found[MAX_READERS], n = find_readers(t, at, layer, found);
    return n ? t->text.n_batches * moment_steps(t) + choice_steps(t, t->matrices[found[0]].t->cols) : 0;
}

/* Nothing is to be chosen at a site: a stopped run has left all codes. */
static bool is_kept(const tune *t, walk_site at, int layer) {
    size_t found[MAX_READERS], n = find_readers(t, at, layer, found);
    for (size_t i = 0; i < n; i++)
        if (!t->kept[found[i]])
            return false;
    return true;
}

/* All the work, and what is behind. */
static void look_ahead(tune *t) {
    const int n_layers = t->file->hp.n_layers;
    int n_kept = 0;
    const uint64_t head = site_steps(t, SITE_HEAD, 0);
    t->done = is_kept(t, SITE_HEAD, 0) ? head : 0;
    t->total = head + t->text.n_batches * (t->with_source ? 8 : 4) * (uint64_t)n_layers;
    for (int layer = 0; layer < n_layers; layer++) {
        bool kept = true;
        for (int at = SITE_QKV; at < SITE_HEAD; at++) {
            const uint64_t steps = site_steps(t, (walk_site)at, layer);
            const bool behind = is_kept(t, (walk_site)at, layer);
            t->total += steps;
            t->done += behind ? steps : 0;
            kept &= behind;
        }
        n_kept += kept;
    }
    if (t->done > 0 && t->o->goes_on)
        t->o->goes_on(t->o->context, n_kept, n_layers);
    progress_report(&t->o->progress, "quantizing layer by layer", t->done, t->total);
}

static nib_status tick(tune *t, size_t steps, nib_error *err) {
    NIB_TRY(stop_check(t->o->interrupted, err));
    t->done += steps;
    progress_report(&t->o->progress, "quantizing layer by layer", t->done, t->total);
    return NIB_OK;
}

static nib_status tick_batch(void *context, nib_error *err) {
    tune *t = context;
    return tick(t, moment_steps(t), err);
}

static nib_status choose_readers(tune *t, walk_site at, const size_t *found, size_t n, nib_error *err) {
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
                      .train = &t->train,
                      .held_out = &t->test,
                      .method = t->o->method,
                      .strength = &t->strength[at],
                      .pool = t->pool,
                      .interrupted = t->o->interrupted};
    NIB_TRY(beside_choose_codes(&job, err));
    for (size_t i = 0; i < n; i++) {
        const tune_matrix *m = matrices[i];
        double note[JOURNAL_NOTES] = {(double)m->way, m->shrink,       m->error,
                                      m->sweep_error, t->strength[at], m->share};
        memcpy(t->entries[found[i]].note, note, sizeof note);
        journal_note(&t->journal, found[i]);
    }
    return NIB_OK;
}

/* Matrix I as the network computes with it from here on. */
static void stand_in(tune *t, walk_site at, size_t i) {
    tune_matrix *m = &t->matrices[i];
    const journal_entry *e = &t->entries[i];
    m->way = (tune_way)(int)e->note[0];
    m->shrink = e->note[1];
    m->error = e->note[2];
    m->sweep_error = e->note[3];
    t->strength[at] = (int)e->note[4];
    m->share = e->note[5];
    m->codes = e->codes;
    m->scales = e->scales;
    m->branch = beside_at(m, e->codes);
    t->made[i] = *m->t;
    t->made[i].dtype = m->grid == GPTQ_Q5_0 ? DT_Q5_0 : DT_NVFP4;
    t->made[i].data = e->codes;
    t->made[i].bytes = e->codes_bytes - beside_bytes(m);
    t->made[i].branch = m->branch;
    t->made[i].block_scales = m->grid == GPTQ_Q5_0 ? NULL : e->scales;
    t->made[i].row_scales = t->made[i].tile_scales = NULL;
    t->made[i].tensor_scale = m->grid == GPTQ_Q5_0 ? 1 : m->tensor_scale;
    t->stand_ins[m->t - t->file->tensors] = &t->made[i];
}

static nib_status run_site(tune *t, walk_site at, int layer, nib_error *err) {
    size_t found[MAX_READERS], n = find_readers(t, at, layer, found);
    if (is_kept(t, at, layer))
        return NIB_OK;
    moments_job job = {.train = &t->train,
                       .test = &t->test,
                       .now = &t->now,
                       .source = t->with_source ? &t->source : NULL,
                       .hp = &t->file->hp,
                       .team = t->pool,
                       .at = at,
                       .layer = layer,
                       .cols = t->matrices[found[0]].t->cols,
                       .tick = tick_batch,
                       .context = t};
    nib_status status = moments_gather(&job, err);
    if (status == NIB_OK)
        status = choose_readers(t, at, found, n, err);
    moments_close(&t->train);
    moments_close(&t->test);
    NIB_TRY(status);
    return tick(t, choice_steps(t, job.cols), err);
}

static nib_status choose_site(tune *t, walk_site at, int layer, nib_error *err) {
    size_t found[MAX_READERS], n = find_readers(t, at, layer, found);
    NIB_TRY(run_site(t, at, layer, err));
    for (size_t i = 0; i < n; i++)
        stand_in(t, at, found[i]);
    return NIB_OK;
}

/* ---- the walk ---- */

static nib_status after_step(void *context, size_t i, nib_error *err) {
    (void)i;
    return tick(context, 1, err);
}

/* With the matrices as they are now. */
static nib_status run_step(tune *t, half_kind kind, int layer, bool second, nib_error *err) {
    NIB_TRY(walk_half(&t->now, kind, layer, second, after_step, t, err));
    return t->with_source ? walk_half(&t->source, kind, layer, second, after_step, t, err) : NIB_OK;
}

static nib_status run_layer(tune *t, int layer, nib_error *err) {
    NIB_TRY(choose_site(t, SITE_QKV, layer, err));
    NIB_TRY(run_step(t, HALF_ATTENTION, layer, false, err));
    NIB_TRY(choose_site(t, SITE_O, layer, err));
    NIB_TRY(run_step(t, HALF_ATTENTION, layer, true, err));
    NIB_TRY(choose_site(t, SITE_GATE_UP, layer, err));
    NIB_TRY(run_step(t, HALF_MLP, layer, false, err));
    NIB_TRY(choose_site(t, SITE_DOWN, layer, err));
    return run_step(t, HALF_MLP, layer, true, err);
}

static nib_status run_all(tune *t, nib_error *err) {
    int n_layers = t->file->hp.n_layers;
    NIB_TRY(open_all(t, err));
    look_ahead(t);
    for (int layer = 0; layer < n_layers; layer++)
        NIB_TRY(run_layer(t, layer, err));
    NIB_TRY(choose_site(t, SITE_HEAD, 0, err));
    assert(t->done == t->total);
    return NIB_OK;
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
    walk_close(&t->now); /* the codes alone are kept */
    walk_close(&t->source);
    pool_free(t->pool);
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
    mem_free(t->kept);
    walk_text_free(&t->text);
    mem_free(t);
}
