/* SPDX-License-Identifier: Apache-2.0
 *
 * What the scheduler takes between two steps: sched_commit, then sched_next, with N sequences decoding.
 *
 *   bench_sched
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "sched/sched.h"

enum { MAX_LEN = 8192, N_STEPS = 2000 };

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(int n_seqs) {
    sched *s;
    sched_limits l = {.n_groups = 2,
                      .groups = {{.kind = CACHE_FULL, .n_pages = n_seqs * (MAX_LEN / KV_PAGE_TOKENS)},
                                 {.kind = CACHE_WINDOW, .window = 512, .n_pages = n_seqs * 16 + 16}},
                      .max_seqs = n_seqs,
                      .max_rows = n_seqs > 512 ? n_seqs : 512,
                      .max_out = n_seqs,
                      .max_len = MAX_LEN};
    if (sched_open(&s, &l, NULL) != NIB_OK)
        exit(1);
    int32_t *tokens = calloc((size_t)n_seqs * MAX_LEN, sizeof *tokens), *sampled = calloc((size_t)n_seqs, 4);
    int *accepted = calloc((size_t)n_seqs, sizeof *accepted), id;
    bool *ended = calloc((size_t)n_seqs, sizeof *ended);
    static double seconds[N_STEPS];
    for (int i = 0; i < n_seqs; i++) {
        int32_t *mine = tokens + (size_t)i * MAX_LEN;
        for (int k = 0; k < 100; k++)
            mine[k] = i * 100 + k;
        if (sched_add(s, &(sched_request){.tokens = mine, .n_prompt = 100, .limit = MAX_LEN}, &id, NULL) !=
            NIB_OK)
            exit(1);
        accepted[i] = 1;
    }
    const sched_step *step = sched_next(s);
    while (step->n_outs < n_seqs) {
        sched_commit(s, sampled, accepted, ended);
        step = sched_next(s);
    }
    for (int i = 0; i < N_STEPS; i++) {
        double start = clock_seconds();
        sched_commit(s, sampled, accepted, ended);
        step = sched_next(s);
        seconds[i] = clock_seconds() - start;
    }
    qsort(seconds, N_STEPS, sizeof *seconds, compare);
    printf("%4d sequences decode: %.1f us a step, the slowest of a hundred %.1f us\n", n_seqs,
           1e6 * seconds[N_STEPS / 2], 1e6 * seconds[N_STEPS * 99 / 100]);
    sched_commit(s, sampled, accepted, ended);
    sched_close(s);
    free(tokens);
    free(sampled);
    free(accepted);
    free(ended);
}

int main(void) {
    for (int n = 1; n <= 1024; n *= 4)
        bench(n);
    return 0;
}
