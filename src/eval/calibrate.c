/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibration. See calibrate.h.
 */
#include "eval/calibrate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"

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
    calib_set made;            /* of a text */
    const calib_set *set;      /* windows, each with its BOS */
    int32_t pages[CALIBRATE_WINDOW / KV_PAGE_TOKENS];
} calibration;

/* Input channels of the slots whose input is observed; 0 for all others. */
static size_t observed_cols(const hparams *hp, slot s, int layer) {
    switch (s) {
    case SLOT_Q:
    case SLOT_GATE:
        return (size_t)hp->dim;
    case SLOT_O:
        return (size_t)hp->n_heads * (size_t)hp->head_dim;
    case SLOT_DOWN:
        return (size_t)hp->ffn_dim;
    case SLOT_HEAD:
        return layer == 0 ? (size_t)hp->dim : 0;
    default:
        return 0;
    }
}

/* The slot whose observed input is also this slot's input. */
static slot input_of(slot s) {
    switch (s) {
    case SLOT_K:
    case SLOT_V:
    case SLOT_QKV:
        return SLOT_Q;
    case SLOT_UP:
    case SLOT_GATE_UP:
        return SLOT_GATE;
    case SLOT_EMBED: /* as a tied head */
        return SLOT_HEAD;
    default:
        return s;
    }
}

static nib_status sums_new(calibration *c, nib_error *err) {
    c->n_sums = (size_t)c->hp->n_layers * SLOT_COUNT;
    c->sums = mem_array(c->n_sums, sizeof *c->sums);
    if (!c->sums)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the calibration of %d layers",
                        c->hp->n_layers);
    for (size_t i = 0; i < c->n_sums; i++) {
        size_t cols = observed_cols(c->hp, (slot)(i % SLOT_COUNT), (int)(i / SLOT_COUNT));
        if (cols && !(c->sums[i] = mem_array(cols, sizeof(double))))
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the calibration of %d layers",
                            c->hp->n_layers);
    }
    return NIB_OK;
}

static void sums_free(calibration *c) {
    for (size_t i = 0; c->sums && i < c->n_sums; i++)
        mem_free(c->sums[i]);
    mem_free(c->sums);
}

static nib_status no_memory(const calibration *c, nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to calibrate it", c->file->path);
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
                                    .n_pages = CACHE_EVERY_GROUP(CALIBRATE_WINDOW / KV_PAGE_TOKENS),
                                    .kv_dtype = NIB_KV_FP32},
                         .batches = batches,
                         .sums = c->sums,
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
    static_assert(CALIBRATE_WINDOW % MAX_ROWS == 0, "a window is whole batches");
    static_assert(CALIB_SET_WINDOW <= CALIBRATE_WINDOW, "its pages hold a window");
    const size_t window_bytes = CALIBRATE_WINDOW * (size_t)c->hp->dim * sizeof(float);
    const size_t room = CALIBRATE_STREAM_BYTES / window_bytes * CALIBRATE_WINDOW; /* rows of one walk */
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

static nib_status means_of(importance *out, const calibration *c, nib_error *err) {
    out->n_layers = c->hp->n_layers;
    out->mean_squares = mem_array(c->n_sums, sizeof *out->mean_squares);
    if (!out->mean_squares)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the calibration of %d layers", out->n_layers);
    for (size_t i = 0; i < c->n_sums; i++) {
        slot s = (slot)(i % SLOT_COUNT), from = input_of(s);
        int layer = (int)(i / SLOT_COUNT);
        const double *sums = c->sums[(size_t)layer * SLOT_COUNT + from];
        size_t cols = observed_cols(c->hp, from, layer), n = from == SLOT_HEAD ? c->n_out_rows : c->n_rows;
        if (!sums || n == 0)
            continue;
        float *means = out->mean_squares[i] = mem_array(cols, sizeof(float));
        if (!means)
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the calibration of %d layers",
                            out->n_layers);
        for (size_t j = 0; j < cols; j++)
            means[j] = (float)(sums[j] / (double)n);
        for (size_t j = 0; j < cols; j++)
            if (!isfinite(means[j]))
                return nib_fail(err, NIB_BAD_FILE,
                                "%s: the inputs of %s in layer %d are no finite numbers: a damaged model",
                                c->file->path, slot_name(s), layer);
    }
    return NIB_OK;
}

/* The text in windows of CALIBRATE_WINDOW, BOS first in each. */
static nib_status cut_text(calibration *c, const tokenizer *words, nib_error *err) {
    const calibrate_options *o = c->o;
    const int32_t bos = tokenizer_adds_bos(words) ? tokenizer_bos(words) : -1;
    token_list list = {0};
    nib_status status = calib_set_encode(words, o->text, o->bytes, o->max_tokens, &list, err);
    if (o->max_tokens && list.n > o->max_tokens)
        list.n = o->max_tokens;
    if (status == NIB_OK && list.n < 16)
        status = nib_fail(err, NIB_BAD_ARGUMENT,
                          "the calibration text has %zu tokens; expected 16 at least, better 4,000", list.n);
    if (status == NIB_OK)
        status = calib_set_append(&c->made, list.ids, list.n, CALIBRATE_WINDOW, bos, err);
    token_list_free(&list);
    c->set = &c->made;
    return status;
}

static nib_status check_ids(const calibration *c, nib_error *err) {
    for (size_t i = 0; i < total_rows(c); i++)
        if (c->set->ids[i] < 0 || c->set->ids[i] >= c->hp->vocab)
            return nib_fail(err, NIB_BAD_FILE, "token %d of the text lies outside a vocabulary of %d",
                            c->set->ids[i], c->hp->vocab);
    return NIB_OK;
}

static nib_status run(calibration *c, const tokenizer *words, nib_error *err) {
    if (c->o->set)
        c->set = c->o->set;
    else
        NIB_TRY(cut_text(c, words, err));
    assert(c->set->n_windows > 0);
    NIB_TRY(check_ids(c, err));
    NIB_TRY(sums_new(c, err));
    return run_all(c, err);
}

nib_status calibrate(importance *out, const model_file *file, backend *be, const tokenizer *words,
                     const calibrate_options *options, size_t *n_tokens, nib_error *err) {
    memset(out, 0, sizeof *out);
    calibration c = {.file = file, .be = be, .hp = &file->hp, .o = options};
    for (int i = 0; i < CALIBRATE_WINDOW / KV_PAGE_TOKENS; i++)
        c.pages[i] = i;
    nib_status status = run(&c, words, err);
    if (status == NIB_OK)
        status = means_of(out, &c, err);
    if (status == NIB_OK && n_tokens)
        *n_tokens = c.set->n_tokens;
    if (status != NIB_OK)
        calibrate_free(out);
    sums_free(&c);
    calib_set_free(&c.made);
    return status;
}

void calibrate_free(importance *i) {
    for (size_t k = 0; i->mean_squares && k < (size_t)i->n_layers * SLOT_COUNT; k++)
        mem_free(i->mean_squares[k]);
    mem_free(i->mean_squares);
    memset(i, 0, sizeof *i);
}
