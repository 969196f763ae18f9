/* SPDX-License-Identifier: Apache-2.0
 *
 * Pace: how many rows of prefill a step may take while others decode, from how long steps took. A step's time
 * is shared by how many requests are answered and how many are read or wait: beside a backlog of short
 * prompts the answers go slower until those are among them, beside one long prompt they keep most of their
 * pace: a step takes PACE_LEAST times one that only decodes, and grows to PACE_LONG times while a prompt is
 * read for long, since the fewer rows a step has room for, the more each of them costs.
 */
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#define PACE_LEAST    1.6
#define PACE_LONG     2.0  /* what answers may be held up by one prompt, whatever its length */
#define PACE_MOST     6.0  /* beside a backlog */
#define PACE_PATIENCE 10.0 /* seconds of reading that would make it 1 more */

typedef struct pace {
    double decode_s; /* a step that only decodes; 0: none seen */
    double row_s;    /* what a row of prefill adds; 0: none seen */
    int n_mixed;     /* steps of both kinds since one that only decoded */
    int n_decoding;  /* rows of the last step */
} pace;              /* zero-initialize */

/* A step of so many rows took SECONDS. */
void pace_saw(pace *p, int decode_rows, int prefill_rows, double seconds);

/* Rows of prefill beside decoding, 1 to MAX_ROWS, where N_REQUESTS are there in all and steps have read a
 * prompt for READ_S seconds; now and then PACE_NONE, to see what decoding takes by now. */
#define PACE_NONE (-1)
int pace_budget(const pace *p, int n_requests, double read_s, int max_rows);

#endif
