/* SPDX-License-Identifier: Apache-2.0
 *
 * Log-probabilities of the prompts' own tokens ("echo" with "logprobs", or "prompt_logprobs"). For answer.c.
 */
#ifndef SERVE_ANSWER_SCORE_H
#define SERVE_ANSWER_SCORE_H

#include "serve/answer.h"

/* Fills the prompts' tokens; waits for the engine. */
bool answer_score(answer *r, api_error *e);

#endif
