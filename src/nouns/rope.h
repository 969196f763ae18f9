/* SPDX-License-Identifier: Apache-2.0
 *
 * RoPE: by how many radians per position each pair of a head turns, and by what cosine and sine are
 * multiplied. Pure functions of what a file says about it; owns nothing. Callers: model makes its tables from
 * it, the writers compare with what other formats can say.
 *
 * A position p turns pair i of a head by p * inv_freq[i]. Sources: transformers modeling_rope_utils.py; GGUF
 * stores Llama 3's and longrope's scaling as tensors of divisors.
 */
#ifndef NOUNS_ROPE_H
#define NOUNS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#define ROPE_MAX_PAIRS 256 /* of a head, where a file lists a number for each */

typedef enum rope_kind {
    ROPE_PLAIN = 0,
    ROPE_LINEAR,  /* positions / factor */
    ROPE_LLAMA3,  /* long wavelengths stretched by the factor, short ones kept, those between mixed */
    ROPE_YARN,    /* the same with a ramp over pairs; cosine and sine are multiplied */
    ROPE_DYNAMIC, /* NTK: theta grows with the context that is asked for */
    ROPE_LONGROPE /* a divisor per pair, of two lists by the context that is asked for */
} rope_kind;

typedef struct rope_params {
    float theta;
    rope_kind kind;
    float factor;              /* of all kinds but ROPE_PLAIN */
    int32_t original_context;  /* what the network was trained with before it was stretched */
    float low_freq, high_freq; /* ROPE_LLAMA3 */
    float beta_fast,
        beta_slow;          /* ROPE_YARN: turns over the original context where the ramp begins and ends */
    bool no_truncate;       /* ROPE_YARN: the ramp's ends are not rounded to whole pairs */
    float attention_factor; /* ROPE_YARN, ROPE_LONGROPE: multiplies cosine and sine */
    float short_divisors[ROPE_MAX_PAIRS], long_divisors[ROPE_MAX_PAIRS]; /* ROPE_LONGROPE */
} rope_params;

const char *rope_kind_name(rope_kind k); /* as config.json spells it: "default", "linear", "llama3", ... */

/* inv_freq [head_dim / 2] for sequences of up to CONTEXT positions. DIVISORS [head_dim / 2] or NULL: a GGUF
 * file's own, on top. */
void rope_inv_freq(float *inv_freq, const rope_params *r, int head_dim, int32_t context,
                   const float *divisors);

/* By what ROPE_LLAMA3 divides the frequency of pair I: what GGUF stores. */
double rope_llama3_divisor(const rope_params *r, int head_dim, int pair);

/* What cosine and sine are multiplied by: 1 unless the kind says otherwise. q and k are both turned, so q.k
 * takes its square; a model may put that into the scale of its attention. */
float rope_attention_factor(const rope_params *r);

#endif
