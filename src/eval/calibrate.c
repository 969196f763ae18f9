/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibration. See calibrate.h.
 */
#include "eval/calibrate.h"

#include <string.h>

#include "base/mem.h"

#define MAX_ROWS   256
#define OUT_ONE_IN 8 /* rows whose logits are computed, only so that the head's input is seen */

model_limits calibrate_limits(void) {
    model_limits l = {.max_rows = MAX_ROWS,
                      .max_out = MAX_ROWS / OUT_ONE_IN,
                      .n_kv_pages = CALIBRATE_WINDOW / KV_PAGE_TOKENS,
                      .kv_dtype = NIB_KV_FP32};
    return l;
}

typedef struct calibration {
    model *m;
    const hparams *hp;
    double **sums; /* [n_layers * SLOT_COUNT], as model_observe wants them */
    size_t n_sums;
    size_t n_rows, n_out_rows; /* seen by the layers, by the head */
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
        return SLOT_Q;
    case SLOT_UP:
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

/* IDS [n] are one window, starting at position 0. */
static nib_status run_window(calibration *c, const int32_t *ids, int n, nib_error *err) {
    for (int pos = 0; pos < n; pos += MAX_ROWS) {
        int rows = n - pos < MAX_ROWS ? n - pos : MAX_ROWS;
        int32_t out_rows[MAX_ROWS / OUT_ONE_IN];
        int n_out = 0;
        for (int i = OUT_ONE_IN - 1; i < rows; i += OUT_ONE_IN)
            out_rows[n_out++] = i;
        batch_seq seq = {.pages = c->pages,
                         .n_pages = (pos + rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
                         .n_rows = rows,
                         .pos = pos};
        batch b = {.tokens = ids + pos,
                   .n_rows = rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = out_rows,
                   .n_out = n_out};
        const float *logits;
        NIB_TRY(model_forward(c->m, &b, &logits, err));
        c->n_rows += (size_t)rows;
        c->n_out_rows += (size_t)n_out;
    }
    return NIB_OK;
}

static nib_status run_text(calibration *c, const token_list *list, int32_t bos, const progress *p,
                           nib_error *err) {
    int32_t window[CALIBRATE_WINDOW];
    int n = 0;
    for (size_t i = 0; i < list->n; i++) {
        if (list->ids[i] < 0 || list->ids[i] >= c->hp->vocab)
            return nib_fail(err, NIB_BAD_FILE, "token %d of the text lies outside a vocabulary of %d",
                            list->ids[i], c->hp->vocab);
        if (n == 0 && bos >= 0)
            window[n++] = bos;
        window[n++] = list->ids[i];
        if (n == CALIBRATE_WINDOW || i + 1 == list->n) {
            NIB_TRY(run_window(c, window, n, err));
            n = 0;
            progress_report(p, "calibrating", i + 1, list->n);
        }
    }
    return NIB_OK;
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
    }
    return NIB_OK;
}

nib_status calibrate(importance *out, model *m, const tokenizer *words, const char *text, size_t bytes,
                     size_t max_tokens, const progress *p, size_t *n_tokens, nib_error *err) {
    memset(out, 0, sizeof *out);
    calibration c = {.m = m, .hp = model_hparams(m)};
    for (int i = 0; i < CALIBRATE_WINDOW / KV_PAGE_TOKENS; i++)
        c.pages[i] = i;
    token_list list = {0};
    int32_t bos = tokenizer_adds_bos(words) ? tokenizer_bos(words) : -1;
    nib_status status = tokenizer_encode(words, text, bytes, TOKENIZE_NO_SPECIAL, &list, err);
    if (status == NIB_OK && list.n < 16)
        status = nib_fail(err, NIB_BAD_ARGUMENT,
                          "the calibration text has %zu tokens; expected 16 at least, better 4,000", list.n);
    if (status == NIB_OK && max_tokens && list.n > max_tokens)
        list.n = max_tokens;
    if (status == NIB_OK && bos >= c.hp->vocab)
        status =
            nib_fail(err, NIB_BAD_FILE, "the BOS token %d lies outside a vocabulary of %d", bos, c.hp->vocab);
    if (status == NIB_OK)
        status = sums_new(&c, err);
    if (status == NIB_OK) {
        model_observe(m, c.sums);
        status = run_text(&c, &list, bos, p, err);
        model_observe(m, NULL);
    }
    if (status == NIB_OK)
        status = means_of(out, &c, err);
    if (status == NIB_OK && n_tokens)
        *n_tokens = list.n;
    if (status != NIB_OK)
        calibrate_free(out);
    sums_free(&c);
    token_list_free(&list);
    return status;
}

void calibrate_free(importance *i) {
    for (size_t k = 0; i->mean_squares && k < (size_t)i->n_layers * SLOT_COUNT; k++)
        mem_free(i->mean_squares[k]);
    mem_free(i->mean_squares);
    memset(i, 0, sizeof *i);
}
