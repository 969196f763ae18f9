/* SPDX-License-Identifier: Apache-2.0
 *
 * Pace: how many rows of prefill a step may take while others decode, from how long steps took. A step's time
 * is shared by how many requests are answered and how many are read or wait: beside a backlog of short
 * prompts the answers go slower until those are among them, beside one long prompt they keep most of their
 * pace. With prefill a step takes PACE_LEAST to PACE_MOST times one that only decodes.
 */
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#define PACE_LEAST 1.6 /* so that one step in a hundred takes no more than twice as long */
#define PACE_MOST  6.0

typedef struct pace {
    double decode_s; /* a step that only decodes; 0: none seen */
    double row_s;    /* what a row of prefill adds; 0: none seen */
    int n_mixed;     /* steps of both kinds since one that only decoded */
    int n_decoding;  /* rows of the last step */
} pace;              /* zero-initialize */

/* A step of so many rows took SECONDS. */
void pace_saw(pace *p, int decode_rows, int prefill_rows, double seconds);

/* Rows of prefill beside decoding, 1 to MAX_ROWS, where N_REQUESTS are there in all; now and then PACE_NONE,
 * to see what decoding takes by now. */
#define PACE_NONE (-1)
int pace_budget(const pace *p, int n_requests, int max_rows);

#endif
