/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether an answer goes round in circles: its last tokens are the same few, again and again.
 */
#ifndef CLI_REPEATS_H
#define CLI_REPEATS_H

#include <stdint.h>

/* A circle of up to REPEATS_PERIOD tokens counts once it has come REPEATS_ROUNDS times, and has
 * REPEATS_TOKENS tokens in all: tables, rulers and lists that people ask for are shorter. */
#define REPEATS_PERIOD 128
#define REPEATS_ROUNDS 8
#define REPEATS_TOKENS 256

typedef struct repeats {
    int32_t last[REPEATS_PERIOD]; /* token i at i % REPEATS_PERIOD */
    int same[REPEATS_PERIOD + 1]; /* [p]: so many of the last tokens equal the one p before them */
    long n;
} repeats; /* zero-initialize */

/* Another token; the length of the circle that the answer is in now, 0: none. */
int repeats_push(repeats *r, int32_t token);

#endif
