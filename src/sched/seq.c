/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences and their lists. See seq.h.
 */
#include "sched/seq.h"

#include <string.h>

#include "base/mem.h"

seq *seq_new(const sched_request *r, int n_groups) {
    seq *q = mem_array(1, sizeof *q);
    if (!q)
        return NULL;
    q->tokens = r->tokens;
    q->n_tokens = r->n_prompt;
    q->limit = r->limit;
    q->priority = r->priority;
    q->salt = r->salt;
    q->n_cached = -1;
    size_t n = (size_t)seq_pages_of(r->limit - 1);
    for (int g = 0; g < n_groups; g++) {
        q->pages[g] = mem_array(n, sizeof *q->pages[g]);
        if (!q->pages[g]) {
            seq_free(q);
            return NULL;
        }
        memset(q->pages[g], 0xFF, n * sizeof *q->pages[g]); /* PAGES_NONE */
    }
    return q;
}

void seq_free(seq *q) {
    if (!q)
        return;
    for (int g = 0; g < CACHE_MAX_GROUPS; g++)
        mem_free(q->pages[g]);
    mem_free(q);
}

bool seq_precedes(const seq *a, const seq *b) {
    return a->priority != b->priority ? a->priority < b->priority : a->arrival < b->arrival;
}

/* From the end: whoever comes now mostly belongs there. */
void seq_list_insert(seq_list *l, seq *q) {
    seq *before = l->last;
    while (before && seq_precedes(q, before))
        before = before->prev;
    q->prev = before;
    q->next = before ? before->next : l->first;
    *(q->next ? &q->next->prev : &l->last) = q;
    *(before ? &before->next : &l->first) = q;
    l->n++;
}

void seq_list_remove(seq_list *l, seq *q) {
    *(q->prev ? &q->prev->next : &l->first) = q->next;
    *(q->next ? &q->next->prev : &l->last) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}
