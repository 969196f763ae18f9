/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed: llama-bench's tests. pp N: N tokens of prompt in batches of as many rows as the model takes, a token
 * drawn from the last row; tg N: N_SEQS sequences of N tokens, all by one token a step; either after DEPTH
 * tokens (of each sequence) that are not timed. One run to warm up, then REPEATS timed ones. Drawing is
 * greedy, as the op does it. Tokenizing is not in it; ids are made up (a fixed sequence). Caller: cli bench.
 */
#ifndef EVAL_SPEED_H
#define EVAL_SPEED_H

#include <signal.h>

#include "base/progress.h"
#include "model/model.h"

#define SPEED_MAX_REPEATS 1000

typedef struct speed_test {
    int n_prompt; /* tokens of a pp test; 0 for a tg test */
    int n_gen;    /* tokens of a tg test; 0 for a pp test */
    int n_seqs;   /* written side by side; 1 for a pp test */
    int depth;
    int repeats;
    void (*timing)(void *context); /* called when warm, before the timed runs; may be NULL */
    void *context;
} speed_test;

typedef struct speed_result {
    double tokens_per_s,
        deviation; /* of all sequences: mean and sample standard deviation over the repeats */
    double median;
    double bytes_per_token; /* all weights once per batch, and its keys and values once */
    double flops_per_token; /* multiplications and additions, those masked away not counted */
} speed_result;

/* KV pages of a test, of every cache group. */
int speed_pages(const speed_test *test);

/* LIMITS are what M was opened with. *STOP (may be NULL) is looked at between batches. */
nib_status speed_run(model *m, const model_limits *limits, const speed_test *test, const progress *p,
                     const volatile sig_atomic_t *stop, speed_result *out, nib_error *err);

/* Bytes of keys and values read by one token at position POS. */
double speed_kv_bytes(const hparams *hp, double bytes_per_position, int pos);

/* Of the scores and sums of N_ROWS tokens from position POS on. */
double speed_attention_flops(const hparams *hp, int pos, int n_rows);

#endif
