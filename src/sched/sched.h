/* SPDX-License-Identifier: Apache-2.0
 *
 * Sched: which rows the next step computes, and on which KV pages. Integers only: no tensors, no text.
 *
 * Policy: first come, first served; decode rows before prefill chunks; a request is admitted when the pages
 * its whole prompt and one more token need are free; when a running sequence finds no page, the youngest is
 * put back to wait and computed again from its tokens (preemption).
 *
 * Invariants (sched_check): a page has one holder; a running sequence holds exactly the pages of the
 * positions it computed or was admitted for; whoever runs came before whoever waits; a waiting sequence
 * holds nothing. Each step makes progress: while any sequence lives, sched_next finds rows.
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "base/status.h"
#include "nouns/batch.h"

typedef struct sched sched;

typedef struct sched_limits {
    int n_pages;  /* KV pages in all */
    int max_seqs; /* sequences in flight */
    int max_rows; /* rows of one step; at least max_seqs, so that everyone who decodes is in every step */
    int max_len;  /* tokens of one sequence */
} sched_limits;

nib_status sched_open(sched **out, const sched_limits *limits, nib_error *err);
void sched_close(sched *s); /* NULL is fine */

/* A new sequence with this prompt; it may grow to MAX_TOKENS more (cut at max_len). *id names it until it
 * ends: by sched_commit, sched_end or sched_drop. An error when it could not run even alone. */
nib_status sched_add(sched *s, const int32_t *prompt, int n_prompt, int max_tokens, int *id, nib_error *err);

/* The next step's batch, or NULL when no sequence lives. Valid until sched_commit or sched_drop. ids[i] is
 * the sequence of out row i. Every id is below sched_id_bound. */
const batch *sched_next(sched *s, const int **ids);
int sched_id_bound(const sched *s);

/* TOKENS[i] was sampled for out row i of that batch. ENDED[i] ends its sequence, freeing its pages; a
 * sequence that has reached its limit must be ended. */
void sched_commit(sched *s, const int32_t *tokens, const bool *ended);

/* The batch could not be computed: every sequence in it ends. Returns how many; *ids lists them until the
 * next call. */
int sched_drop(sched *s, const int **ids);

void sched_end(sched *s, int id); /* cancel; between commit and next only */

/* The tokens of a sequence so far, prompt first; *limit (may be NULL) is where it must end. */
const int32_t *sched_tokens(const sched *s, int id, int *n, int *limit);

typedef struct sched_counts {
    int waiting, running, free_pages;
    uint64_t preemptions;
} sched_counts;
void sched_count(const sched *s, sched_counts *out);
void sched_check(const sched *s); /* asserts every invariant: for tests */

#endif
