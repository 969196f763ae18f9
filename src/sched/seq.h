/* SPDX-License-Identifier: Apache-2.0
 *
 * Seq: one sequence as the scheduler keeps it, and lists of them in order of precedence. Private to the room.
 *
 * A sequence is its tokens and how many of them lie in its pages (n_computed); what is left is the rows it
 * needs before its next token can be sampled. One left row is decoding, more are prefill, and a preempted
 * sequence is simply one with n_computed = 0 again. Its last token is never computed (nothing follows it), so
 * a sequence of LIMIT tokens needs pages for LIMIT - 1 positions.
 */
#ifndef SCHED_SEQ_H
#define SCHED_SEQ_H

#include "sched/prefix.h"
#include "sched/sched.h"

typedef struct seq {
    int id;
    int priority;
    uint64_t arrival;
    bool running;
    bool remembers;  /* it reads and names prefix blocks */
    int32_t *tokens; /* [limit], the caller's */
    int32_t n_tokens, limit;
    int32_t n_computed; /* positions that lie in the pages */
    int32_t n_drafts;   /* guesses behind the tokens, of the next step or the one being computed */
    int32_t n_planned;  /* rows of the step being computed; 0 when not in it */
    int32_t n_out;      /* of them, whose logits are wanted */
    int32_t n_cached;   /* positions found in the prefix cache when it first ran; -1 before */
    uint64_t salt;
    prefix_end chain; /* its full pages up to here are named */
    /* Pages [first, end) of each group are held; of a CACHE_STATE group, one slot. */
    int32_t *pages[CACHE_MAX_GROUPS]; /* [pages_of(limit - 1)] */
    int32_t first[CACHE_MAX_GROUPS], end[CACHE_MAX_GROUPS];
    struct seq *prev, *next; /* in the waiting or the running list */
} seq;

typedef struct seq_list {
    seq *first, *last;
    int n;
} seq_list;

static inline int32_t seq_pages_of(int32_t n_positions) {
    return (n_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

seq *seq_new(const sched_request *r, int n_groups); /* NULL: no memory */
void seq_free(seq *q);                              /* NULL is fine */

/* A before B: the lower priority number, then who came first. */
bool seq_precedes(const seq *a, const seq *b);
void seq_list_insert(seq_list *l, seq *q); /* keeps the order */
void seq_list_remove(seq_list *l, seq *q);

#endif
