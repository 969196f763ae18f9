/* SPDX-License-Identifier: Apache-2.0
 *
 * Eval: perplexity and KL divergence by llama-perplexity's convention.
 *
 * The convention: the text's ids are cut into windows of n_ctx (whole ones only); where the model asks for
 * BOS it replaces the first id of each window; each window starts with an empty KV cache; row i predicts id i
 * + 1; rows n_ctx/2 .. n_ctx-2 are scored, so that every scored row has context. Perplexity is e^(mean
 * negative log-likelihood). KL divergence is of the model from the base: sum_v p_base(v) (ln p_base(v) - ln
 * p(v)).
 *
 * Callers: cli eval, tests. Limits (calibration) and speed have headers of their own.
 */
#ifndef EVAL_EVAL_H
#define EVAL_EVAL_H

#include <signal.h>

#include "base/progress.h"
#include "model/model.h"
#include "text/tokenizer.h"

/* The windows of a text. */
typedef struct eval_text {
    int32_t *tokens; /* [n_chunks * n_ctx] */
    int n_ctx, n_chunks;
    int32_t bos;          /* replaces the first id of a window; -1: nothing does */
    size_t n_text_tokens; /* of the whole text */
} eval_text;

/* N_CHUNKS 0: all. Like llama-perplexity, drops one newline at the end and takes control tokens in the text
 * as plain text; a text of fewer than two windows is refused. WHERE names it. */
nib_status eval_text_open(eval_text *out, const tokenizer *words, const char *text, size_t bytes, int n_ctx,
                          int n_chunks, const char *where, nib_error *err);
void eval_text_close(eval_text *t);

/* The windows of one text by two tokenizers must be the same ids and the same BOS: else what one model
 * predicts says nothing of the other's, and this refuses it, naming WHERE (the text) and both. */
nib_status eval_text_compare(const eval_text *text, const eval_text *base_text, const char *where,
                             const char *model_name, const char *base_name, nib_error *err);

typedef struct eval_options {
    int threads; /* of the statistics; 0: physical cores */
    progress progress;
    const volatile sig_atomic_t *stop; /* looked at between batches, may be NULL: then NIB_CANCELLED */
} eval_options;

/* What model_open needs to run windows of N_CTX. */
model_limits eval_limits(int n_ctx, nib_kv_dtype kv_dtype);

typedef struct eval_mean {
    double value, error; /* standard error of the mean */
} eval_mean;

typedef struct eval_ppl_result {
    size_t n_scored;
    eval_mean nll, ppl;
    double seconds;
} eval_ppl_result;

nib_status eval_ppl(model *m, const eval_text *text, const eval_options *options, eval_ppl_result *out,
                    nib_error *err);

/* Percentiles that are reported, in per mille. */
#define EVAL_N_PERCENTILES 11
extern const int eval_permille[EVAL_N_PERCENTILES]; /* 1000 (maximum), 999, 990, ... 0 (minimum) */

typedef struct eval_kld_result {
    size_t n_scored;
    eval_mean ppl, ppl_base, log_ratio, ppl_ratio; /* ratio and its error from paired differences */
    double correlation;                            /* of ln PPL(model) and ln PPL(base) */
    eval_mean kld;
    double kld_at[EVAL_N_PERCENTILES];
    eval_mean p_diff, p_diff_rms; /* change of the true token's probability */
    double p_diff_at[EVAL_N_PERCENTILES];
    eval_mean same_top; /* share of rows whose most probable token is the base's */
    double seconds;
} eval_kld_result;

/* Side by side: both models run every window. */
nib_status eval_kld(model *m, model *base, const eval_text *text, const eval_options *options,
                    eval_kld_result *out, nib_error *err);

/* The base's distributions in a file (eval/kldfile.h): written once, compared with as often as wanted. */
nib_status eval_kld_save(model *base, const eval_text *text, const char *path, const eval_options *options,
                         eval_ppl_result *out, nib_error *err);
nib_status eval_kld_against_file(model *m, const eval_text *text, const char *path,
                                 const eval_options *options, eval_kld_result *out, nib_error *err);

/* n_ctx and n_chunks that the file was made with. */
nib_status eval_kld_file_shape(const char *path, int *n_ctx, int *n_chunks, nib_error *err);

#endif
