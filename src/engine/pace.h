/* SPDX-License-Identifier: Apache-2.0
 *
 * Pace: how many rows of prefill a step may take while others decode, from how long steps took. Such a step
 * should take PACE_FACTOR times one that only decodes: answers go on at half their pace, and the prompt gets
 * the other half of the time.
 */
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#define PACE_FACTOR 2.0

typedef struct pace {
    double decode_s; /* a step that only decodes; 0: none seen */
    double row_s;    /* what a row of prefill adds; 0: none seen */
    int n_mixed;     /* steps of both kinds since one that only decoded */
} pace;              /* zero-initialize */

/* A step of so many rows took SECONDS. */
void pace_saw(pace *p, int decode_rows, int prefill_rows, double seconds);

/* Rows of prefill beside decoding, 1 to MAX_ROWS; now and then PACE_NONE, to see what decoding takes by now.
 */
#define PACE_NONE (-1)
int pace_budget(const pace *p, int max_rows);

#endif
