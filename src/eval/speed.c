/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed tests. See speed.h.
 */
#include "eval/speed.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/stop.h"

static int seq_pages(const speed_test *t) {
    return (t->depth + t->n_prompt + t->n_gen + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

int speed_pages(const speed_test *t) {
    return t->n_seqs * seq_pages(t);
}

/* Positions that N_ROWS tokens from POS on see, each its own, summed over the layers. */
static double seen_by(const hparams *hp, int pos, int n_rows) {
    double sum = 0;
    for (int layer = 0; layer < hp->n_layers; layer++) {
        const int window = hp->sliding_window > 0 && hp->local[layer] ? hp->sliding_window : INT_MAX;
        const int growing = window - pos <= 0 ? 0 : window - pos < n_rows ? window - pos : n_rows;
        sum += growing * (pos + (growing + 1) / 2.0) + (double)(n_rows - growing) * window;
    }
    return sum;
}

double speed_kv_bytes(const hparams *hp, double bytes_per_position, int pos) {
    return seen_by(hp, pos, 1) * bytes_per_position / hp->n_layers;
}

double speed_attention_flops(const hparams *hp, int pos, int n_rows) {
    return 4.0 * hp->n_heads * hp->head_dim * seen_by(hp, pos, n_rows);
}

typedef struct speed_session {
    model *m;
    const model_limits *limits;
    const speed_test *test;
    int32_t *tokens; /* [longest] of every sequence */
    int32_t *pages;  /* [n_seqs][seq_pages] */
    /* a step, [n_seqs] each */
    batch_seq *seqs;
    int32_t *step_tokens, *out_rows;
    sample_row *rows;
    sampled *drawn;
    uint64_t done, total; /* tokens, for the progress */
    const progress *p;
    const volatile sig_atomic_t *stop;
    double weight_bytes, kv_bytes_per_position;
    double bytes, flops; /* moved and computed since last set to 0 */
} speed_session;

static nib_status step(speed_session *s, const batch *b, nib_error *err) {
    NIB_TRY(stop_check(s->stop, err));
    model_begin(s->m, b, b->n_out ? s->rows : NULL, b->n_out ? s->drawn : NULL);
    NIB_TRY(model_wait(s->m, NULL, err));
    s->bytes += s->weight_bytes;
    s->flops += model_flops(s->m, b->n_rows, b->n_out);
    for (int i = 0; i < b->n_seqs; i++) {
        const batch_seq *seq = &b->seqs[i];
        s->bytes += speed_kv_bytes(model_hparams(s->m), s->kv_bytes_per_position, seq->pos + seq->n_rows - 1);
        s->flops += speed_attention_flops(model_hparams(s->m), seq->pos, seq->n_rows);
    }
    s->done += (uint64_t)b->n_rows;
    progress_report(s->p, "measuring", s->done, s->total);
    return NIB_OK;
}

/* N_ROWS rows of sequence I, which begin at position POS and are row ROW of the batch. */
static batch_seq seq_at(const speed_session *s, int i, int pos, int row, int n_rows) {
    return (batch_seq){.pages = CACHE_EVERY_GROUP(s->pages + (size_t)i * (size_t)seq_pages(s->test)),
                       .n_pages = (pos + n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
                       .row = row,
                       .n_rows = n_rows,
                       .pos = pos};
}

/* Tokens [pos, pos + n) of sequence I in batches of what the model takes; the last row draws a token. */
static nib_status feed(speed_session *s, int i, int pos, int n, nib_error *err) {
    for (int end = pos + n; pos < end;) {
        int rows = end - pos < s->limits->max_rows ? end - pos : s->limits->max_rows;
        batch_seq seq = seq_at(s, i, pos, 0, rows);
        batch b = {.tokens = s->tokens + pos,
                   .n_rows = rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = (int32_t[]){rows - 1},
                   .n_out = pos + rows == end ? 1 : 0};
        NIB_TRY(step(s, &b, err));
        pos += rows;
    }
    return NIB_OK;
}

/* Tokens [pos, pos + n) of every sequence, one of each a step. */
static nib_status write_answers(speed_session *s, int pos, int n, nib_error *err) {
    const int n_seqs = s->test->n_seqs;
    const batch b = {.tokens = s->step_tokens,
                     .n_rows = n_seqs,
                     .seqs = s->seqs,
                     .n_seqs = n_seqs,
                     .out_rows = s->out_rows,
                     .n_out = n_seqs};
    for (int end = pos + n; pos < end; pos++) {
        for (int i = 0; i < n_seqs; i++) {
            s->seqs[i] = seq_at(s, i, pos, i, 1);
            s->step_tokens[i] = s->tokens[pos];
        }
        NIB_TRY(step(s, &b, err));
    }
    return NIB_OK;
}

static nib_status run_once(speed_session *s, double *seconds, nib_error *err) {
    const speed_test *t = s->test;
    double start = clock_seconds();
    s->bytes = s->flops = 0;
    if (t->n_prompt > 0)
        NIB_TRY(feed(s, 0, t->depth, t->n_prompt, err));
    else
        NIB_TRY(write_answers(s, t->depth, t->n_gen, err));
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

static nib_status run_test(speed_session *s, speed_result *out, nib_error *err) {
    const speed_test *t = s->test;
    double rates[SPEED_MAX_REPEATS], seconds;
    int n = t->n_prompt + t->n_gen * t->n_seqs;
    s->total = (uint64_t)t->depth * (uint64_t)t->n_seqs + (uint64_t)n * (uint64_t)(t->repeats + 1);
    for (int i = 0; i < t->n_seqs; i++)
        NIB_TRY(feed(s, i, 0, t->depth, err)); /* its pages stay: the test starts behind them */
    NIB_TRY(run_once(s, &seconds, err));
    if (t->timing)
        t->timing(t->context);
    for (int i = 0; i < t->repeats; i++) {
        NIB_TRY(run_once(s, &seconds, err));
        rates[i] = n / (seconds > 0 ? seconds : 1e-9);
    }
    out->bytes_per_token = s->bytes / n;
    out->flops_per_token = s->flops / n;
    summarize(rates, t->repeats, out);
    return NIB_OK;
}

static nib_status check(const model_limits *limits, const speed_test *t, nib_error *err) {
    if (t->n_seqs < 1 || speed_pages(t) > limits->n_pages[0] || t->n_seqs > limits->max_out ||
        t->n_seqs > limits->max_rows || t->repeats < 1 || t->repeats > SPEED_MAX_REPEATS ||
        (t->n_prompt > 0) == (t->n_gen > 0) || (t->n_prompt > 0 && t->n_seqs != 1))
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "a test of %d tokens in each of %d sequences, %d times; expected at most %d tokens in "
            "all, %d sequences and %d times",
            t->depth + t->n_prompt + t->n_gen, t->n_seqs, t->repeats, limits->n_pages[0] * KV_PAGE_TOKENS,
            limits->max_out < limits->max_rows ? limits->max_out : limits->max_rows, SPEED_MAX_REPEATS);
    return NIB_OK;
}

nib_status speed_run(model *m, const model_limits *limits, const speed_test *test, const progress *p,
                     const volatile sig_atomic_t *stop, speed_result *out, nib_error *err) {
    *out = (speed_result){0};
    NIB_TRY(check(limits, test, err));
    const size_t longest = (size_t)(test->depth + test->n_prompt + test->n_gen),
                 n_seqs = (size_t)test->n_seqs;
    const int n_pages = speed_pages(test);
    speed_session s = {.m = m,
                       .limits = limits,
                       .test = test,
                       .p = p,
                       .stop = stop,
                       .tokens = mem_array(longest, sizeof(int32_t)),
                       .pages = mem_array((size_t)n_pages, sizeof(int32_t)),
                       .seqs = mem_array(n_seqs, sizeof(batch_seq)),
                       .step_tokens = mem_array(n_seqs, sizeof(int32_t)),
                       .out_rows = mem_array(n_seqs, sizeof(int32_t)),
                       .rows = mem_array(n_seqs, sizeof(sample_row)),
                       .drawn = mem_array(n_seqs, sizeof(sampled)),
                       .weight_bytes = (double)model_bytes_per_token(m),
                       .kv_bytes_per_position =
                           (double)model_kv_bytes(m) / ((double)limits->n_pages[0] * KV_PAGE_TOKENS)};
    nib_status status = NIB_OK;
    if (!s.tokens || !s.pages || !s.seqs || !s.step_tokens || !s.out_rows || !s.rows || !s.drawn)
        status = nib_fail(err, NIB_NO_MEMORY, "out of memory for a test of %zu tokens", longest);
    uint32_t random = 12345;
    for (size_t i = 0; status == NIB_OK && i < longest; i++) {
        random = random * 1664525u + 1013904223u;
        s.tokens[i] = (int32_t)((random >> 8) % (uint32_t)model_hparams(m)->vocab);
    }
    for (int i = 0; status == NIB_OK && i < n_pages; i++)
        s.pages[i] = i;
    for (size_t i = 0; status == NIB_OK && i < n_seqs; i++) {
        s.out_rows[i] = (int32_t)i;
        s.rows[i] = (sample_row){.n_top = -1}; /* greedy */
    }
    if (status == NIB_OK)
        status = run_test(&s, out, err);
    mem_free(s.tokens);
    mem_free(s.pages);
    mem_free(s.seqs);
    mem_free(s.step_tokens);
    mem_free(s.out_rows);
    mem_free(s.rows);
    mem_free(s.drawn);
    return status;
}
