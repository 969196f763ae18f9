/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of struct sched, which sched.c and sched_check.c share.
 */
#ifndef SCHED_SCHED_INSIDE_H
#define SCHED_SCHED_INSIDE_H

#include "sched/seq.h"

struct sched {
    sched_limits limits;
    bool has_state; /* a CACHE_STATE group */
    bool remembers; /* there is a prefix cache */
    int32_t budget; /* see sched_set_budget */
    int32_t kept;   /* rows that plan_behind leaves to the first */
    pages pools[CACHE_MAX_GROUPS];
    prefix prefix;
    int32_t *matched; /* [pages_of(max_len)] blocks of the sequence being admitted */

    seq **by_id;   /* [n_ids]; NULL where the id is free */
    int *free_ids; /* [n_free_ids] a stack */
    int n_ids, n_free_ids;
    seq_list waiting, running; /* both in order of precedence */
    uint64_t n_arrivals, n_preemptions, prefix_queries, prefix_hits;
    bool in_step; /* between sched_next and sched_commit */

    /* the step's arrays, sized once */
    sched_step step;
    batch batch;
    int32_t *tokens, *out_rows; /* [max_rows], [max_out] */
    batch_seq *seqs;            /* [max_seqs] */
    int *seq_ids;               /* [max_seqs] */
    sched_out *outs;            /* [max_seqs] */
    sched_copy *copies;         /* [max_copies] */
    int max_copies;
};

#endif
