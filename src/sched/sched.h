/* SPDX-License-Identifier: Apache-2.0
 *
 * Sched: which rows the next step computes, and on which KV pages. Integers only: no tensors, no text.
 *
 * Policy: first come, first served; decode rows before prefill chunks; a request is admitted when the pages
 * its whole prompt and one more token need are free; when a running sequence finds no page, the youngest is
 * put back to wait and computed again from its tokens (preemption).
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "base/status.h"
#include "nouns/batch.h"

typedef struct sched sched;

typedef struct sched_limits {
    int n_pages;  /* KV pages in all */
    int max_seqs; /* sequences in flight */
    int max_rows; /* rows of one step */
    int max_len;  /* tokens of one sequence */
} sched_limits;

nib_status sched_open(sched **out, const sched_limits *limits, nib_error *err);
void sched_close(sched *s);

/* A new sequence with this prompt; it may grow to MAX_TOKENS more. *id names it until sched_end. */
nib_status sched_add(sched *s, const int32_t *prompt, int n_prompt, int max_tokens, int *id, nib_error *err);

/* The next step's batch, or NULL when nothing can run. Valid until sched_commit. ids[i] is the sequence of
 * out row i. */
const batch *sched_next(sched *s, const int **ids);

/* TOKENS[i] was sampled for out row i of that batch. ENDED[i] ends its sequence, freeing its pages. */
void sched_commit(sched *s, const int32_t *tokens, const bool *ended);

void sched_end(sched *s, int id); /* cancel; between commit and next only */

/* The tokens of a sequence so far, prompt first. */
const int32_t *sched_tokens(const sched *s, int id, int *n);

typedef struct sched_counts {
    int waiting, running, free_pages;
    uint64_t preemptions;
} sched_counts;
void sched_count(const sched *s, sched_counts *out);
void sched_check(const sched *s); /* asserts every invariant: for tests */

#endif
