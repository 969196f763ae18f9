/* SPDX-License-Identifier: Apache-2.0
 *
 * Choose: from the second moments of one input, the codes of the matrices that read it. Held-out moments
 * judge. Caller: tune.c.
 */
#ifndef TUNE_CHOOSE_H
#define TUNE_CHOOSE_H

#include "base/pool.h"
#include "tune/moments.h"
#include "tune/tune.h"

enum { CHOOSE_STRENGTHS = 6, CHOOSE_FIRST = 2 };

typedef struct choose_job {
    tune_matrix **matrices;    /* [n] of equal cols */
    uint8_t **codes, **scales; /* [n] where they go */
    size_t n;
    const moments *train, *held_out;
    tune_method method;
    int *strength; /* of the shrinking, of CHOOSE_STRENGTHS: where the search begins, then what it found */
    pool *pool;
    const volatile sig_atomic_t *interrupted;
} choose_job;

/* Fills codes, scales and what the matrices say of them; codes and scales may be in any state before. */
nib_status choose_codes(const choose_job *job, nib_error *err);

#endif
