/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibration. See calibrate.h.
 */
#include "eval/calibrate.h"

#include <assert.h>
#include <math.h>

#include "base/mem.h"
#include "eval/input_look.h"

#define MAX_ROWS   256
#define OUT_ONE_IN 8 /* rows whose logits are computed, only so that the head's input is seen */

/* Some rows of a window that are computed together. */
typedef struct piece {
    batch_seq seq;
    int32_t out_rows[MAX_ROWS / OUT_ONE_IN];
} piece;

typedef struct calibration {
    const model_file *file;
    backend *be;
    const hparams *hp;
    const calibrate_options *o;
    double **sums; /* [n_layers * SLOT_COUNT], as layerwise_run wants them */
    size_t n_sums;
    size_t n_rows, n_out_rows; /* seen by the layers, by the head */
    const calib_set *set;      /* windows, each with its BOS */
    int32_t pages[CALIB_SET_WINDOW / KV_PAGE_TOKENS];
    /* where it looks: */
    pool *team;
    input_looker looker;
    input_look *looks; /* [n_sums] of inputs */
    float (*keys)[2];  /* [n_layers] the largest key and value */
} calibration;

static nib_status no_memory(const calibration *c, nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", c->file->path);
}

static nib_status sums_new(calibration *c, nib_error *err) {
    c->n_sums = (size_t)c->hp->n_layers * SLOT_COUNT;
    c->sums = mem_array(c->n_sums, sizeof *c->sums);
    for (size_t i = 0; c->sums && i < c->n_sums; i++) {
        const size_t cols = input_stats_cols(c->hp, (slot)(i % SLOT_COUNT), (int)(i / SLOT_COUNT));
        if (cols && !(c->sums[i] = mem_array(cols, sizeof(double))))
            return no_memory(c, err);
    }
    return c->sums ? NIB_OK : no_memory(c, err);
}

static nib_status looks_new(calibration *c, nib_error *err) {
    c->looks = mem_array(c->n_sums, sizeof *c->looks);
    c->keys = mem_array((size_t)c->hp->n_layers, sizeof *c->keys);
    if (!c->looks || !c->keys)
        return no_memory(c, err);
    NIB_TRY(pool_new(&c->team, c->o->threads > 1 ? c->o->threads : 1, err));
    NIB_TRY(input_looker_open(&c->looker, c->team, err));
    for (size_t i = 0; i < c->n_sums; i++) {
        const size_t cols = input_stats_cols(c->hp, (slot)(i % SLOT_COUNT), (int)(i / SLOT_COUNT));
        if (cols)
            NIB_TRY(input_look_open(&c->looks[i], cols, err));
    }
    return NIB_OK;
}

static void close_all(calibration *c) {
    for (size_t i = 0; c->sums && i < c->n_sums; i++)
        mem_free(c->sums[i]);
    for (size_t i = 0; c->looks && i < c->n_sums; i++)
        input_look_close(&c->looks[i]);
    input_looker_close(&c->looker);
    pool_free(c->team);
    mem_free(c->sums);
    mem_free(c->looks);
    mem_free(c->keys);
}

static void look(void *context, int layer, slot s, const float *x, size_t rows) {
    calibration *c = context;
    if (s != SLOT_K_SCALE && s != SLOT_V_SCALE) {
        input_look_add(&c->looks[(size_t)layer * SLOT_COUNT + s], &c->looker, x, rows);
        return;
    }
    float *most = &c->keys[layer][s == SLOT_V_SCALE];
    for (size_t i = 0; i < rows * (size_t)c->hp->n_kv_heads * (size_t)c->hp->head_dim; i++)
        *most = fmaxf(*most, fabsf(x[i]));
}

static size_t total_rows(const calibration *c) {
    return c->set->starts[c->set->n_windows];
}

/* Windows [first, end). */
static nib_status run_windows(calibration *c, size_t first, size_t end, batch *batches, piece *pieces,
                              nib_error *err) {
    const size_t *starts = c->set->starts;
    layerwise_job job = {.limits = {.max_rows = MAX_ROWS,
                                    .max_out = MAX_ROWS / OUT_ONE_IN,
                                    .n_pages = CACHE_EVERY_GROUP(CALIB_SET_WINDOW / KV_PAGE_TOKENS),
                                    .kv_dtype = NIB_KV_FP32},
                         .batches = batches,
                         .sums = c->sums,
                         .look = c->o->looks ? look : NULL,
                         .context = c,
                         .progress = &c->o->progress,
                         .done = (uint64_t)starts[first] * (uint64_t)c->hp->n_layers,
                         .total = (uint64_t)total_rows(c) * (uint64_t)c->hp->n_layers,
                         .interrupted = c->o->interrupted};
    for (size_t w = first, pos = 0; w < end; job.n_batches++) {
        piece *p = &pieces[job.n_batches];
        const size_t left = starts[w + 1] - starts[w] - pos;
        const int rows = left < MAX_ROWS ? (int)left : MAX_ROWS;
        int n_out = 0;
        for (int i = OUT_ONE_IN - 1; i < rows; i += OUT_ONE_IN)
            p->out_rows[n_out++] = i;
        p->seq = (batch_seq){.pages = CACHE_EVERY_GROUP(c->pages),
                             .n_pages = ((int)pos + rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
                             .n_rows = rows,
                             .pos = (int)pos};
        batches[job.n_batches] = (batch){.tokens = c->set->ids + starts[w] + pos,
                                         .n_rows = rows,
                                         .seqs = &p->seq,
                                         .n_seqs = 1,
                                         .out_rows = p->out_rows,
                                         .n_out = n_out};
        c->n_rows += (size_t)rows;
        c->n_out_rows += (size_t)n_out;
        pos += (size_t)rows;
        if (starts[w] + pos == starts[w + 1]) {
            w++;
            pos = 0;
        }
    }
    return layerwise_run(c->file, c->be, &job, err);
}

/* In walks through the layers of as many windows as CALIBRATE_STREAM_BYTES hold, but one at least. */
static nib_status run_all(calibration *c, nib_error *err) {
    static_assert(CALIB_SET_WINDOW % MAX_ROWS == 0, "a window is whole batches");
    const size_t window_bytes = CALIB_SET_WINDOW * (size_t)c->hp->dim * sizeof(float);
    const size_t room = CALIBRATE_STREAM_BYTES / window_bytes * CALIB_SET_WINDOW; /* rows of one walk */
    const size_t *starts = c->set->starts, n_windows = c->set->n_windows;
    const size_t most = total_rows(c) / MAX_ROWS + n_windows;
    batch *batches = mem_array(most, sizeof *batches);
    piece *pieces = mem_array(most, sizeof *pieces);
    nib_status status = batches && pieces ? NIB_OK : no_memory(c, err);
    for (size_t first = 0, end; first < n_windows && status == NIB_OK; first = end) {
        for (end = first + 1; end < n_windows && starts[end + 1] - starts[first] <= room;)
            end++;
        status = run_windows(c, first, end, batches, pieces, err);
    }
    mem_free(batches);
    mem_free(pieces);
    return status;
}

/* ---- what comes of it ---- */

static nib_status take_sums(input_stat *out, const double *sums, size_t n_rows, size_t cols, nib_error *err) {
    out->count = (float)n_rows;
    out->sums = mem_array(cols, sizeof *out->sums);
    if (!out->sums)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the statistics of %zu inputs", cols);
    for (size_t j = 0; j < cols; j++)
        out->sums[j] = (float)sums[j];
    return NIB_OK;
}

static nib_status check_sums(const calibration *c, const input_stat *stat, size_t cols, size_t i,
                             nib_error *err) {
    for (size_t j = 0; j < cols; j++)
        if (!isfinite(stat->sums[j]))
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: the inputs of %s in layer %d are no finite numbers: a damaged model",
                            c->file->path, slot_name((slot)(i % SLOT_COUNT)), (int)(i / SLOT_COUNT));
    return NIB_OK;
}

static nib_status finish(input_stats *out, const calibration *c, nib_error *err) {
    NIB_TRY(input_stats_open(out, c->hp->n_layers, err));
    for (size_t i = 0; i < c->n_sums; i++) {
        const slot s = (slot)(i % SLOT_COUNT), from = input_stats_slot(s);
        const int layer = (int)(i / SLOT_COUNT);
        const double *sums = c->sums[(size_t)layer * SLOT_COUNT + from];
        const size_t cols = input_stats_cols(c->hp, from, layer);
        const size_t n = from == SLOT_HEAD ? c->n_out_rows : c->n_rows;
        if (!sums || n == 0)
            continue;
        NIB_TRY(take_sums(&out->of[i], sums, n, cols, err));
        NIB_TRY(check_sums(c, &out->of[i], cols, i, err));
        if (c->looks && s == from)
            NIB_TRY(input_look_finish(&c->looks[i], &out->of[i], err));
    }
    for (int layer = 0; layer < c->hp->n_layers && c->looks; layer++)
        for (int values = 0; values < 2; values++) {
            input_stat *stat = input_stats_at(out, values ? SLOT_V_SCALE : SLOT_K_SCALE, layer);
            stat->peaks[0] = c->keys[layer][values];
            if (!isfinite(stat->peaks[0]))
                return nib_fail(err, NIB_BAD_FILE,
                                "%s: %s of layer %d are no finite numbers: a damaged model", c->file->path,
                                values ? "values" : "keys", layer);
            stat->has_peaks = true;
        }
    return NIB_OK;
}

static nib_status check_ids(const calibration *c, nib_error *err) {
    for (size_t i = 0; i < total_rows(c); i++)
        if (c->set->ids[i] < 0 || c->set->ids[i] >= c->hp->vocab)
            return nib_fail(err, NIB_BAD_FILE, "token %d of the text lies outside a vocabulary of %d",
                            c->set->ids[i], c->hp->vocab);
    return NIB_OK;
}

static nib_status run(calibration *c, nib_error *err) {
    assert(c->set->n_windows > 0);
    NIB_TRY(check_ids(c, err));
    NIB_TRY(sums_new(c, err));
    if (c->o->looks)
        NIB_TRY(looks_new(c, err));
    return run_all(c, err);
}

nib_status calibrate(input_stats *out, const model_file *file, backend *be, const calib_set *set,
                     const calibrate_options *options, nib_error *err) {
    *out = (input_stats){0};
    calibration c = {.file = file, .be = be, .hp = &file->hp, .o = options, .set = set};
    for (int i = 0; i < CALIB_SET_WINDOW / KV_PAGE_TOKENS; i++)
        c.pages[i] = i;
    nib_status status = run(&c, err);
    if (status == NIB_OK)
        status = finish(out, &c, err);
    if (status != NIB_OK)
        input_stats_free(out);
    close_all(&c);
    return status;
}
