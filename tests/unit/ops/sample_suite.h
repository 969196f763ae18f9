/* SPDX-License-Identifier: Apache-2.0
 *
 * Golden draws through the op `sample` of one backend, several rows at once: a seed gives the token that it
 * always gave. Included by the tests of every backend.
 */
#ifndef SAMPLE_SUITE_H
#define SAMPLE_SUITE_H

#include "golden_draws.h"
#include "ops/ops.h"

enum { SAMPLE_SUITE_ROWS = GOLDEN_DRAWS };

/* LOGITS [n, vocab] and HOW [n] through the op. */
static void sample_suite_op(backend *be, sampled *out, const float *logits, int vocab, const sample_row *how,
                            int n) {
    static int32_t tokens[SAMPLE_SUITE_ROWS], rows[SAMPLE_SUITE_ROWS];
    int32_t page = 0;
    nib_error err = {""};
    buf *b;
    for (int i = 0; i < n; i++)
        rows[i] = i;
    batch_seq seq = {.pages = CACHE_EVERY_GROUP(&page), .n_pages = 1, .n_rows = n};
    batch step = {.tokens = tokens, .n_rows = n, .seqs = &seq, .n_seqs = 1, .out_rows = rows, .n_out = n};
    if (be->buf_new(be, &b, BUF_F32, SPLIT_ROWS, SAMPLE_SUITE_ROWS, (size_t)vocab, &err) != NIB_OK)
        fail_msg("%s", err.text);
    be->buf_write(be, b, logits, (size_t)n, NULL);
    step_begin(be, &step, 0);
    op_sample(be, out, b, how);
    if (step_finish(be, &err) != NIB_OK)
        fail_msg("%s", err.text);
    be->buf_free(be, b);
}

static inline void sample_suite_golden(backend *be) {
    static float logits[GOLDEN_DRAWS * GOLDEN_MAX_VOCAB];
    static int32_t tokens[GOLDEN_TOKENS];
    for (int v = 0; v < GOLDEN_VOCABS; v++)
        for (int s = 0; s < GOLDEN_SETTINGS; s++) {
            const golden_setting *g = &golden_settings[s];
            uint64_t seed = (uint64_t)(100 * v + s);
            int vocab = golden_vocabs[v];
            sample_row how[GOLDEN_DRAWS];
            sampled out[GOLDEN_DRAWS];
            golden_sequence(tokens, vocab, seed);
            for (int d = 0; d < GOLDEN_DRAWS; d++) {
                golden_logits(logits + (size_t)d * (size_t)vocab, vocab, seed);
                how[d] = (sample_row){.temperature = g->temperature,
                                      .top_k = g->top_k,
                                      .top_p = g->top_p,
                                      .min_p = g->min_p,
                                      .repeat_penalty = g->repeat_penalty,
                                      .penalty_window = 64,
                                      .tokens = tokens,
                                      .n_tokens = GOLDEN_TOKENS,
                                      .n_prompt = GOLDEN_TOKENS,
                                      .seed = (uint64_t)(7 * v + s + 1),
                                      .position = (uint64_t)d,
                                      .n_top = -1};
            }
            sample_suite_op(be, out, logits, vocab, how, GOLDEN_DRAWS);
            for (int d = 0; d < GOLDEN_DRAWS; d++)
                if (out[d].token != golden_tokens[v][s][d])
                    fail_msg("%s: vocabulary %d, setting %d, draw %d: %d, not %d", be->path, vocab, s, d,
                             out[d].token, golden_tokens[v][s][d]);
        }
}

#endif
