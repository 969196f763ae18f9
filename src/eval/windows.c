/* SPDX-License-Identifier: Apache-2.0
 *
 * Windows of a text, and the loop over them. See windows.h and eval.h.
 */
#include "eval/windows.h"

#include <string.h>

#include "base/cores.h"
#include "base/mem.h"
#include "base/stop.h"

nib_status eval_text_open(eval_text *out, const tokenizer *words, const char *text, size_t bytes, int n_ctx,
                          int n_chunks, const char *where, nib_error *err) {
    memset(out, 0, sizeof *out);
    if (n_ctx < 4 || n_chunks < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "windows of %d tokens, %d of them: expected at least 4 and 0",
                        n_ctx, n_chunks);
    if (bytes > 0 && text[bytes - 1] == '\n')
        bytes--;
    token_list list = {0};
    bool bos = tokenizer_adds_bos(words) && tokenizer_bos(words) >= 0;
    nib_status status = bos ? token_list_push(&list, tokenizer_bos(words), err) : NIB_OK;
    if (status == NIB_OK)
        status = tokenizer_encode(words, text, bytes, TOKENIZE_NO_SPECIAL, &list, err);
    if (status == NIB_OK && list.n < 2 * (size_t)n_ctx)
        status = nib_fail(err, NIB_BAD_ARGUMENT,
                          "%s: the text gives %zu tokens, and two windows of %d are needed at least", where,
                          list.n, n_ctx);
    if (status != NIB_OK) {
        token_list_free(&list);
        return status;
    }
    size_t whole = list.n / (size_t)n_ctx;
    if (n_chunks == 0 || (size_t)n_chunks > whole)
        n_chunks = (int)whole;
    out->tokens = list.ids;
    out->n_ctx = n_ctx;
    out->n_chunks = n_chunks;
    out->bos = bos ? tokenizer_bos(words) : -1;
    out->n_text_tokens = list.n;
    return NIB_OK;
}

void eval_text_close(eval_text *t) {
    token_list list = {.ids = t->tokens};
    token_list_free(&list);
    t->tokens = NULL;
}

nib_status eval_text_compare(const eval_text *text, const eval_text *base_text, const char *where,
                             const char *model_name, const char *base_name, nib_error *err) {
    if (text->bos != base_text->bos)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s starts windows with BOS %d and %s with %d (-1: none); expected the same",
                        model_name, text->bos, base_name, base_text->bos);
    size_t n = (size_t)text->n_chunks * (size_t)text->n_ctx,
           n_base = (size_t)base_text->n_chunks * (size_t)base_text->n_ctx;
    for (size_t i = 0; i < n && i < n_base; i++)
        if (text->tokens[i] != base_text->tokens[i])
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "%s: token %zu is %d for %s and %d for %s; expected two models with the same "
                            "tokenizer",
                            where, i, text->tokens[i], model_name, base_text->tokens[i], base_name);
    if (n != n_base)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: %zu tokens in windows for %s and %zu for %s; expected two models with the same "
                        "tokenizer",
                        where, n, model_name, n_base, base_name);
    return NIB_OK;
}

model_limits eval_limits(int n_ctx, nib_kv_dtype kv_dtype) {
    model_limits l = {.max_rows = WINDOWS_MAX_ROWS,
                      .max_out = WINDOWS_MAX_OUT,
                      .n_pages = CACHE_EVERY_GROUP((n_ctx + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS),
                      .kv_dtype = kv_dtype};
    return l;
}

typedef struct run {
    model *const *models;
    int n_models;
    const eval_text *text;
    const eval_options *options;
    const char *what;
    windows_rows_fn rows;
    void *context;
    pool *pool;
    int32_t *window; /* [n_ctx] ids with BOS in place */
    int32_t *pages;  /* 0, 1, 2, ...: every window uses the same pages again */
    uint64_t done, total;
} run;

/* Rows [pos, pos + n) of the window; with SCORED their logits are wanted. */
static nib_status run_batch(run *r, int pos, int n, bool scored, size_t row, nib_error *err) {
    int32_t out_rows[WINDOWS_MAX_OUT];
    for (int i = 0; scored && i < n; i++)
        out_rows[i] = i;
    batch_seq seq = {.pages = CACHE_EVERY_GROUP(r->pages),
                     .n_pages = (pos + n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
                     .n_rows = n,
                     .pos = pos};
    batch b = {.tokens = r->window + pos,
               .n_rows = n,
               .seqs = &seq,
               .n_seqs = 1,
               .out_rows = out_rows,
               .n_out = scored ? n : 0};
    const float *logits[2] = {NULL, NULL};
    for (int i = 0; i < r->n_models; i++) {
        NIB_TRY(stop_check(r->options->stop, err));
        NIB_TRY(model_forward(r->models[i], &b, &logits[i], err));
        r->done += (uint64_t)n;
        progress_report(&r->options->progress, r->what, r->done, r->total);
    }
    if (!scored)
        return NIB_OK;
    windows_rows rows = {.context = r->context,
                         .logits = logits,
                         .targets = r->window + pos + 1,
                         .first = row,
                         .n = n,
                         .pool = r->pool};
    return r->rows(&rows, err);
}

static nib_status run_window(run *r, int chunk, nib_error *err) {
    int n_ctx = r->text->n_ctx, first = n_ctx / 2,
        last = n_ctx - 1; /* the last row predicts nothing we know */
    memcpy(r->window, r->text->tokens + (size_t)chunk * (size_t)n_ctx, (size_t)n_ctx * sizeof *r->window);
    if (r->text->bos >= 0)
        r->window[0] = r->text->bos;
    for (int pos = 0; pos < first; pos += WINDOWS_MAX_ROWS) {
        int n = first - pos < WINDOWS_MAX_ROWS ? first - pos : WINDOWS_MAX_ROWS;
        NIB_TRY(run_batch(r, pos, n, false, 0, err));
    }
    size_t row = (size_t)chunk * (size_t)(last - first);
    for (int pos = first; pos < last; pos += WINDOWS_MAX_OUT) {
        int n = last - pos < WINDOWS_MAX_OUT ? last - pos : WINDOWS_MAX_OUT;
        NIB_TRY(run_batch(r, pos, n, true, row + (size_t)(pos - first), err));
    }
    return NIB_OK;
}

static nib_status check_tokens(model *const *models, int n_models, const eval_text *text, nib_error *err) {
    for (int m = 0; m < n_models; m++) {
        int32_t vocab = model_hparams(models[m])->vocab;
        if (vocab != model_hparams(models[0])->vocab)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "the models have vocabularies of %d and %d tokens; expected the same",
                            model_hparams(models[0])->vocab, vocab);
        for (size_t i = 0; i < (size_t)text->n_chunks * (size_t)text->n_ctx; i++)
            if (text->tokens[i] < 0 || text->tokens[i] >= vocab)
                return nib_fail(err, NIB_BAD_FILE, "token %d of the text lies outside a vocabulary of %d",
                                text->tokens[i], vocab);
        if (text->bos >= vocab)
            return nib_fail(err, NIB_BAD_FILE, "the BOS token %d lies outside a vocabulary of %d", text->bos,
                            vocab);
    }
    return NIB_OK;
}

nib_status windows_run(model *const *models, int n_models, const eval_text *text, const eval_options *options,
                       const char *what, windows_rows_fn rows, void *context, nib_error *err) {
    NIB_TRY(check_tokens(models, n_models, text, err));
    int n_pages = (text->n_ctx + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    run r = {.models = models,
             .n_models = n_models,
             .text = text,
             .options = options,
             .what = what,
             .rows = rows,
             .context = context,
             .window = mem_array((size_t)text->n_ctx, sizeof(int32_t)),
             .pages = mem_array((size_t)n_pages, sizeof(int32_t)),
             .total = (uint64_t)text->n_chunks * (uint64_t)(text->n_ctx - 1) * (uint64_t)n_models};
    nib_status status = pool_new(&r.pool, options->threads > 0 ? options->threads : cores_physical(), err);
    if (status == NIB_OK && (!r.window || !r.pages))
        status = nib_fail(err, NIB_NO_MEMORY, "out of memory for a window of %d tokens", text->n_ctx);
    for (int i = 0; status == NIB_OK && i < n_pages; i++)
        r.pages[i] = i;
    for (int c = 0; status == NIB_OK && c < text->n_chunks; c++)
        status = run_window(&r, c, err);
    pool_free(r.pool);
    mem_free(r.window);
    mem_free(r.pages);
    return status;
}
