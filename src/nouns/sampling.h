/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling: how one row of logits becomes a token, and what became of it. Made by the engine, read by the
 * backend's sample op. The order:
 *
 *   1. bias is added; tokens outside the mask become minus infinity
 *   2. repeat penalty (divides positive, multiplies negative logits of the last penalty_window tokens, once
 *      each), presence and frequency penalty (subtracted from tokens generated so far)
 *   3. temperature 0: the largest logit, the lowest id among equals. Else divide by the temperature
 *   4. top-k, top-p of what top-k left, min-p relative to the most probable
 *   5. one draw: of what is left, in the order of probability (equal ones by id) where top-k or top-p cut,
 *      else in the order of ids, the first at which the sum of probabilities exceeds a uniform number. That
 *      is a function of seed and position alone, so a sequence gets the same text whatever runs beside it,
 *      preempted or not
 *
 * A logit of minus infinity is a token that cannot come; NaN, plus infinity, or no token left is an error
 * (token -1).
 */
#ifndef NOUNS_SAMPLING_H
#define NOUNS_SAMPLING_H

#include <stdint.h>

#define SAMPLE_MAX_TOP 20 /* alternatives whose log-probabilities can be asked for */

typedef struct token_bias {
    int32_t token;
    float bias;
} token_bias;

typedef struct sample_row {
    float temperature;
    int32_t top_k;        /* 0, or the vocabulary and more: off */
    float top_p;          /* 0 or 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 0 or 1: off */
    float presence_penalty, frequency_penalty;
    int32_t penalty_window; /* tokens back that repeat_penalty looks at */
    const int32_t *tokens;  /* [n_tokens] the sequence so far, prompt first */
    int32_t n_tokens, n_prompt;
    const token_bias *bias; /* [n_bias] distinct tokens */
    int32_t n_bias;
    const uint32_t *mask; /* [ceil(vocab / 32)] bit token % 32 of word token / 32: allowed; NULL: all */
    uint64_t seed;
    uint64_t position; /* of the draw: tokens drawn before in this sequence */
    int32_t n_top;     /* log-probabilities: -1 none, 0 of the token, n also of the n most probable */
} sample_row;

typedef struct token_logprob {
    int32_t token;
    float logprob; /* natural logarithm of the softmax of the logits as the network gave them */
} token_logprob;

typedef struct sampled {
    int32_t token; /* -1: the logits hold NaN or plus infinity, or nothing is allowed */
    float logprob;
    int32_t n_top;
    token_logprob top[SAMPLE_MAX_TOP]; /* descending; equal ones by ascending token */
} sampled;

/* A uniform number in [0, 1) from (seed, position): splitmix64's finalizer over a Weyl sequence. */
static inline double sample_uniform(uint64_t seed, uint64_t position) {
    uint64_t z = seed * 0xD1342543DE82EF95u + (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

#endif
