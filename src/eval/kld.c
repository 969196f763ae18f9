/* SPDX-License-Identifier: Apache-2.0
 *
 * KL divergence from a base, side by side or from the base's file. See eval.h and kldfile.h.
 */
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "eval/kldfile.h"
#include "eval/scores.h"
#include "eval/softmax.h"
#include "eval/windows.h"

typedef struct kld_run {
    scores scores;
    size_t vocab;
    kldfile_reader *file;                    /* against a file */
    kldfile_record records[WINDOWS_MAX_OUT]; /* the rows at hand */
} kld_run;

static nib_status check_rows(const windows_rows *rows, nib_error *err) {
    const kld_run *r = rows->context;
    size_t row = rows->first, n = (size_t)rows->n;
    NIB_TRY(scores_check(r->scores.nll + row, n, row, err));
    NIB_TRY(scores_check(r->scores.nll_base + row, n, row, err));
    return scores_check(r->scores.kld + row, n, row, err);
}

/* Scored row ROW: the true token's ln p, and the base's. */
static void set_target(kld_run *r, size_t row, double log_prob, double log_prob_base) {
    r->scores.nll[row] = -log_prob;
    r->scores.nll_base[row] = -log_prob_base;
    r->scores.p_diff[row] = exp(log_prob) - exp(log_prob_base);
}

static void score_pairs(void *arg, int thread, size_t begin, size_t end) {
    (void)thread;
    const windows_rows *rows = arg;
    kld_run *r = rows->context;
    for (size_t i = begin; i < end; i++) {
        const float *x = rows->logits[0] + i * r->vocab, *base = rows->logits[1] + i * r->vocab;
        softmax_row sx = softmax_of(x, r->vocab), sb = softmax_of(base, r->vocab);
        size_t at = rows->first + i;
        set_target(r, at, softmax_log_prob(x, &sx, rows->targets[i]),
                   softmax_log_prob(base, &sb, rows->targets[i]));
        r->scores.kld[at] = softmax_kl(base, &sb, x, &sx, r->vocab);
        r->scores.same_top[at] = sx.argmax == sb.argmax;
    }
}

static nib_status score_pair(windows_rows *rows, nib_error *err) {
    pool_for(rows->pool, (size_t)rows->n, 1, score_pairs, rows);
    return check_rows(rows, err);
}

static void score_records(void *arg, int thread, size_t begin, size_t end) {
    (void)thread;
    const windows_rows *rows = arg;
    kld_run *r = rows->context;
    for (size_t i = begin; i < end; i++) {
        const float *x = rows->logits[0] + i * r->vocab;
        softmax_row sx = softmax_of(x, r->vocab);
        size_t at = rows->first + i;
        set_target(r, at, softmax_log_prob(x, &sx, rows->targets[i]), r->records[i].target_log_prob);
        r->scores.kld[at] = kldfile_kl(&r->records[i], x, &sx);
        r->scores.same_top[at] = sx.argmax == r->records[i].top;
    }
}

static nib_status score_file(windows_rows *rows, nib_error *err) {
    kld_run *r = rows->context;
    for (int i = 0; i < rows->n; i++)
        NIB_TRY(kldfile_next(r->file, &r->records[i], err));
    pool_for(rows->pool, (size_t)rows->n, 1, score_records, rows);
    return check_rows(rows, err);
}

static nib_status compare(model *const *models, int n_models, kldfile_reader *file, const eval_text *text,
                          const eval_options *options, eval_kld_result *out, nib_error *err) {
    *out = (eval_kld_result){0};
    kld_run *r = mem_array(1, sizeof *r);
    if (!r)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    r->vocab = (size_t)model_hparams(models[0])->vocab;
    r->file = file;
    double start = clock_seconds();
    nib_status status = scores_open(&r->scores, windows_scored(text), err);
    if (status == NIB_OK)
        status = windows_run(models, n_models, text, options, "KL divergence", file ? score_file : score_pair,
                             r, err);
    if (status == NIB_OK)
        scores_summarize(&r->scores, out);
    out->seconds = clock_seconds() - start;
    scores_close(&r->scores);
    mem_free(r);
    return status;
}

nib_status eval_kld(model *m, model *base, const eval_text *text, const eval_options *options,
                    eval_kld_result *out, nib_error *err) {
    model *models[2] = {m, base};
    return compare(models, 2, NULL, text, options, out, err);
}

nib_status eval_kld_against_file(model *m, const eval_text *text, const char *path,
                                 const eval_options *options, eval_kld_result *out, nib_error *err) {
    kldfile_reader *file = NULL;
    NIB_TRY(kldfile_open(&file, path, err));
    nib_status status = kldfile_match(file, text, model_hparams(m)->vocab, err);
    if (status == NIB_OK)
        status = compare(&m, 1, file, text, options, out, err);
    kldfile_close(file);
    return status;
}

typedef struct save_run {
    double *nll;
    size_t vocab;
    kldfile_writer *file;
} save_run;

static void encode_range(void *arg, int thread, size_t begin, size_t end) {
    (void)thread;
    const windows_rows *rows = arg;
    save_run *r = rows->context;
    for (size_t i = begin; i < end; i++) {
        const float *x = rows->logits[0] + i * r->vocab;
        softmax_row s = softmax_of(x, r->vocab);
        r->nll[rows->first + i] = -softmax_log_prob(x, &s, rows->targets[i]);
        kldfile_encode(r->file, (int)i, x, &s, rows->targets[i]);
    }
}

static nib_status save_rows(windows_rows *rows, nib_error *err) {
    save_run *r = rows->context;
    pool_for(rows->pool, (size_t)rows->n, 1, encode_range, rows);
    NIB_TRY(scores_check(r->nll + rows->first, (size_t)rows->n, rows->first, err));
    return kldfile_write(r->file, rows->n, err);
}

nib_status eval_kld_save(model *base, const eval_text *text, const char *path, const eval_options *options,
                         eval_ppl_result *out, nib_error *err) {
    *out = (eval_ppl_result){.n_scored = windows_scored(text)};
    save_run r = {.nll = mem_array(out->n_scored, sizeof(double)),
                  .vocab = (size_t)model_hparams(base)->vocab};
    if (!r.nll)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the scores of %zu tokens", out->n_scored);
    double start = clock_seconds();
    nib_status status = kldfile_create(&r.file, path, text, model_hparams(base)->vocab, WINDOWS_MAX_OUT, err);
    if (status == NIB_OK) {
        status = windows_run(&base, 1, text, options, "base distributions", save_rows, &r, err);
        if (status == NIB_OK) {
            scores_ppl(r.nll, out);
            status = kldfile_commit(r.file, err);
        } else {
            kldfile_abandon(r.file);
        }
    }
    out->seconds = clock_seconds() - start;
    mem_free(r.nll);
    return status;
}
