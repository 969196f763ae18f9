/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampler: one token from one row of logits.
 *
 * Order: repeat penalty, temperature, top-k, top-p (of what top-k left), min-p, then one draw. The vocabulary
 * is never sorted: a histogram of the logits tells where the wanted head of the distribution ends, and only
 * that head is. The draw's random number is a function of the seed and of how many were drawn before, so a
 * sequence gets the same text whatever runs beside it, preempted or not.
 *
 * Owns scratch memory for one vocabulary: one thread at a time.
 */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "base/status.h"

#define SAMPLER_PENALTY_WINDOW 64 /* tokens back that repeat_penalty looks at */

typedef struct sampler sampler;

nib_status sampler_open(sampler **out, int vocab, nib_error *err);
void sampler_close(sampler *s); /* NULL is fine */

/* Logits [vocab]; TOKENS [n_tokens] the sequence so far; N_DRAWN tokens of it were sampled. Returns -1 when
 * the logits are not all finite numbers. */
int32_t sampler_pick(sampler *s, const nib_sampling *how, const float *logits, const int32_t *tokens,
                     int n_tokens, uint64_t n_drawn);

#endif
