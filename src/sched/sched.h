/* SPDX-License-Identifier: Apache-2.0
 *
 * Sched: which rows the next step computes, and on which pages of each cache group. Integers only: no
 * tensors, no text.
 *
 * Policy: by priority, then first come, first served. Decode rows come before prefill chunks, and while
 * anyone decodes prefill keeps within a budget of rows. A prompt that would fill a step alone leaves a
 * quarter of its rows to those of its priority behind it, of a few rows up to 16 and three quarters, so that
 * a short request does not wait for a long one's end. A request is admitted when the pages that its whole
 * prompt and one more token need are free, in the order of the line. When a running sequence finds no page,
 * the last in the order is put back to wait and computed again from its tokens (preemption); so is one of a
 * lower priority when one of a higher finds no place.
 *
 * Full pages are remembered by what stands in them (prefix.h): a new or preempted sequence that begins alike
 * shares them instead of computing them, until they are needed for something else.
 *
 * Invariants (sched_check): a page is referred to as often as sequences hold it; pages that more than one
 * holds, or that are remembered, are never written; a waiting sequence holds nothing. Each step makes
 * progress: while any sequence lives, sched_next finds rows.
 *
 * Planning a step takes microseconds (bench_sched), so nothing is planned ahead: what can be done while a
 * step is computed is sched_add.
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "base/status.h"
#include "nouns/batch.h"

typedef struct sched sched;

typedef struct sched_limits {
    int n_groups;
    /* CACHE_FULL: pages for one whole sequence at least. CACHE_WINDOW: for window + max_rows positions and
     * one page more, or for one whole sequence. CACHE_STATE: a slot for every sequence; what is more serves
     * the prefix cache. */
    cache_group groups[CACHE_MAX_GROUPS];
    int max_seqs; /* sequences in flight */
    int max_rows; /* rows of one step; at least max_seqs, so that everyone who decodes is in every step */
    int max_out;  /* rows of one step whose logits can be had; at least max_seqs */
    int max_len;  /* tokens of one sequence */
    bool no_prefix_cache; /* remember nothing */
} sched_limits;

nib_status sched_open(sched **out, const sched_limits *limits, nib_error *err);
void sched_close(sched *s); /* NULL is fine */

typedef struct sched_request {
    int32_t *tokens; /* [limit] the prompt, and room; the caller's, until the sequence ends */
    int32_t n_prompt, limit;
    int priority;         /* lower first */
    uint64_t salt;        /* shares remembered pages only with sequences of the same */
    bool no_prefix_cache; /* it neither reads nor leaves remembered pages */
} sched_request;

/* A new sequence. *id names it until it ends: by sched_commit, sched_end or sched_drop. Also while a step is
 * computed. Refused: 1 <= n_prompt < limit <= max_len does not hold, or it could not run even alone. */
nib_status sched_add(sched *s, const sched_request *r, int *id, nib_error *err);

/* The same for tokens with which FROM begins (asserted): where nobody waits before them they share its pages,
 * and at most the last page's rows are computed again. Between commit and next only. */
nib_status sched_fork(sched *s, int from, const sched_request *r, int *id, nib_error *err);

/* Rows of prefill in a step in which anyone decodes; 0: as many as there is room for; below: none. */
void sched_set_budget(sched *s, int prefill_rows);

/* Guesses of what follows the tokens of a sequence, for its next step only: where there is room they become
 * rows, and outputs, behind its own. Returns how many were taken (none where the sequence does not decode, or
 * where a CACHE_STATE group could not take them back). Between commit and next only. */
int sched_draft(sched *s, int id, const int32_t *guesses, int n);

/* The first KEEP tokens of a sequence stay, and it goes on with N others; what was computed beyond them is
 * forgotten. For guesses that a larger network did not share: only without a prefix cache and CACHE_STATE
 * groups, and where windows are larger than the network's by as many tokens as are ever taken back. Between
 * commit and next only. */
void sched_rewrite(sched *s, int id, int32_t keep, const int32_t *tokens, int32_t n);

/* ---- a step ---- */

/* A sequence whose next token this step gives: from out row OUT of the batch; N_OUT - 1 further rows belong
 * to its guesses, in their order. */
typedef struct sched_out {
    int id;
    int32_t out, n_out;
} sched_out;

typedef struct sched_copy {
    int group;
    int32_t to, from; /* pages or slots */
} sched_copy;

typedef struct sched_step {
    const batch *batch;
    const int *ids;        /* [batch->n_seqs] whose rows they are */
    const sched_out *outs; /* [n_outs] */
    int n_outs;
    const sched_copy *copies; /* [n_copies] to be made in this order before the step */
    int n_copies;
    int n_decode_rows; /* of the batch: of sequences that were decoding; the others are prefill */
} sched_step;

/* The next step, or NULL when no sequence lives. Valid until sched_commit or sched_drop. */
const sched_step *sched_next(sched *s);

/* TOKENS[i] was sampled for out row i. Of outs[k], the first N_ACCEPTED[k] tokens are taken: one, and one for
 * each guess before it that was right; none only where it ends. ENDED[k] ends the sequence; one that has
 * reached its limit must be ended. */
void sched_commit(sched *s, const int32_t *tokens, const int *n_accepted, const bool *ended);

/* The step could not be computed: every sequence in it ends. Returns how many; *ids lists them until the next
 * call. */
int sched_drop(sched *s, const int **ids);

void sched_end(sched *s, int id);  /* cancel; between commit and next only */
void sched_clear_prefix(sched *s); /* forgets all remembered pages; between commit and next only */

/* ---- views ---- */

int sched_id_bound(const sched *s); /* every id is below it */

typedef struct sched_view {
    const int32_t *tokens; /* [n_tokens] so far, prompt first */
    int32_t n_tokens, limit;
    int32_t n_computed;
    int32_t n_cached; /* of the prompt, found in the prefix cache when it first ran; -1 before */
    bool running;
} sched_view;
sched_view sched_see(const sched *s, int id);

typedef struct sched_counts {
    int waiting, running;
    /* FREE: nobody holds them, remembered ones too. */
    int32_t n_pages[CACHE_MAX_GROUPS], free_pages[CACHE_MAX_GROUPS], remembered_pages[CACHE_MAX_GROUPS];
    uint64_t preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens of admitted sequences; those whose pages were found */
} sched_counts;
void sched_count(const sched *s, sched_counts *out);
void sched_check(const sched *s); /* asserts every invariant: for tests */

#endif
