/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed tests. See speed.h.
 */
#include "eval/speed.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"

model_limits speed_limits(int longest, nib_kv_dtype kv_dtype) {
    model_limits l = {.max_rows = longest < SPEED_MAX_ROWS ? longest : SPEED_MAX_ROWS,
                      .max_out = 1,
                      .n_pages = CACHE_EVERY_GROUP((longest + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS),
                      .kv_dtype = kv_dtype};
    return l;
}

double speed_kv_bytes(const hparams *hp, double bytes_per_position, int pos) {
    double bytes = 0;
    for (int layer = 0; layer < hp->n_layers; layer++) {
        int seen = pos + 1;
        if (hp->sliding_window > 0 && hp->local[layer] && seen > hp->sliding_window)
            seen = hp->sliding_window;
        bytes += seen * bytes_per_position / hp->n_layers;
    }
    return bytes;
}

typedef struct speed_session {
    model *m;
    const model_limits *limits;
    int32_t *tokens, *pages;
    uint64_t done, total; /* tokens, for the progress */
    const progress *p;
    const volatile sig_atomic_t *stop;
    double weight_bytes, kv_bytes_per_position;
    double bytes; /* moved since last set to 0 */
} speed_session;

/* Tokens [pos, pos + n) of one sequence in batches of at most MAX_ROWS. */
static nib_status feed(speed_session *s, int pos, int n, int max_rows, nib_error *err) {
    for (int end = pos + n; pos < end;) {
        int rows = end - pos < max_rows ? end - pos : max_rows;
        int32_t last = rows - 1;
        batch_seq seq = {.pages = CACHE_EVERY_GROUP(s->pages),
                         .n_pages = (pos + rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
                         .n_rows = rows,
                         .pos = pos};
        batch b = {.tokens = s->tokens + pos,
                   .n_rows = rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = &last,
                   .n_out =
                       max_rows == 1 || pos + rows == end ? 1 : 0}; /* every decoded token reads the head */
        const float *logits;
        if (s->stop && *s->stop)
            return nib_fail(err, NIB_CANCELLED, "interrupted");
        NIB_TRY(model_forward(s->m, &b, &logits, err));
        pos += rows;
        s->bytes += s->weight_bytes + speed_kv_bytes(model_hparams(s->m), s->kv_bytes_per_position, pos - 1);
        s->done += (uint64_t)rows;
        progress_report(s->p, "measuring", s->done, s->total);
    }
    return NIB_OK;
}

static nib_status run_once(speed_session *s, const speed_test *t, double *seconds, nib_error *err) {
    double start = clock_seconds();
    s->bytes = 0;
    if (t->n_prompt > 0)
        NIB_TRY(feed(s, t->depth, t->n_prompt, s->limits->max_rows, err));
    else
        NIB_TRY(feed(s, t->depth, t->n_gen, 1, err));
    *seconds = clock_seconds() - start;
    return NIB_OK;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarize(double *rates, int n, speed_result *out) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++)
        sum += rates[i];
    out->tokens_per_s = sum / n;
    for (int i = 0; i < n; i++)
        squares += (rates[i] - out->tokens_per_s) * (rates[i] - out->tokens_per_s);
    out->deviation = n > 1 ? sqrt(squares / (n - 1)) : 0;
    qsort(rates, (size_t)n, sizeof *rates, ascending);
    out->median = n % 2 ? rates[n / 2] : (rates[n / 2] + rates[n / 2 - 1]) / 2;
}

static nib_status run_test(speed_session *s, const speed_test *t, speed_result *out, nib_error *err) {
    double rates[SPEED_MAX_REPEATS], seconds;
    int n = t->n_prompt + t->n_gen;
    s->total = (uint64_t)t->depth + (uint64_t)n * (uint64_t)(t->repeats + 1);
    NIB_TRY(feed(s, 0, t->depth, s->limits->max_rows, err)); /* its pages stay: the test starts behind them */
    NIB_TRY(run_once(s, t, &seconds, err));
    if (t->timing)
        t->timing(t->context);
    for (int i = 0; i < t->repeats; i++) {
        NIB_TRY(run_once(s, t, &seconds, err));
        rates[i] = n / (seconds > 0 ? seconds : 1e-9);
    }
    out->bytes_per_token = s->bytes / n;
    summarize(rates, t->repeats, out);
    return NIB_OK;
}

nib_status speed_run(model *m, const model_limits *limits, const speed_test *test, const progress *p,
                     const volatile sig_atomic_t *stop, speed_result *out, nib_error *err) {
    *out = (speed_result){0};
    int longest = test->depth + test->n_prompt + test->n_gen;
    if (longest > limits->n_pages[0] * KV_PAGE_TOKENS || test->repeats < 1 ||
        test->repeats > SPEED_MAX_REPEATS || (test->n_prompt > 0) == (test->n_gen > 0))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a test of %d tokens, %d times; expected at most %d tokens and %d times", longest,
                        test->repeats, limits->n_pages[0] * KV_PAGE_TOKENS, SPEED_MAX_REPEATS);
    speed_session s = {.m = m,
                       .limits = limits,
                       .p = p,
                       .stop = stop,
                       .tokens = mem_array((size_t)longest, sizeof(int32_t)),
                       .pages = mem_array((size_t)limits->n_pages[0], sizeof(int32_t)),
                       .weight_bytes = (double)model_bytes_per_token(m),
                       .kv_bytes_per_position =
                           (double)model_kv_bytes(m) / ((double)limits->n_pages[0] * KV_PAGE_TOKENS)};
    nib_status status = NIB_OK;
    if (!s.tokens || !s.pages)
        status = nib_fail(err, NIB_NO_MEMORY, "out of memory for a test of %d tokens", longest);
    uint32_t random = 12345;
    for (int i = 0; status == NIB_OK && i < longest; i++) {
        random = random * 1664525u + 1013904223u;
        s.tokens[i] = (int32_t)((random >> 8) % (uint32_t)model_hparams(m)->vocab);
    }
    for (int i = 0; status == NIB_OK && i < limits->n_pages[0]; i++)
        s.pages[i] = i;
    if (status == NIB_OK)
        status = run_test(&s, test, out, err);
    mem_free(s.tokens);
    mem_free(s.pages);
    return status;
}
