/* SPDX-License-Identifier: Apache-2.0
 *
 * The scale of one FP8 key or value vector, chosen by its error, not by its largest element alone; and the
 * rounding of a key.
 *
 * With the largest |x| at 448 every element is rounded to 4 significant bits wherever it happens to fall in
 * its binade; a scale a fraction of an octave larger moves them all. Of KVSCALE_STEPS such scales the one
 * with the smallest sum of w (x - x^)^2 is taken. For keys w is the mean square of what the query multiplies
 * each dimension by, known from the token's own queries. A key's elements are then rounded so that their
 * mistakes cancel along these queries; docs/notes/kv-fp8.md has what that is worth.
 */
#ifndef CPU_KVSCALE_H
#define CPU_KVSCALE_H

#include <stdbool.h>
#include <stddef.h>

#define KVSCALE_STEPS   16 /* scales per octave that are tried */
#define KVSCALE_QUERIES 16 /* queries that a key is rounded along, at most */
#define KVSCALE_ROOM    (8 * (KVSCALE_QUERIES + 3))

/* How much a mistake along a query weighs beside those of single dimensions, and how much of the queries'
 * mean square a dimension weighs beside its own; docs/notes/kv-fp8.md. */
#define KVSCALE_STEER      0.3f
#define KVSCALE_MEAN_SHARE 0.3f

extern const float kvscale_factors[KVSCALE_STEPS]; /* 2^(i / KVSCALE_STEPS) */

/* x [n]; WEIGHTS [n] >= 0, or NULL: all 1. 0 when no |x| reaches KV_FP8_TINY, NaN when x is not finite: then
 * codes do not matter; else largest |x| / scale <= 448. */
float kvscale_fit(const float *x, const float *weights, size_t n);

/* What a mistake in each dimension of a key weighs in scores, WEIGHTS [n]: the squares of the token's own
 * QUERIES [n_queries, n], rotated, and a share of their mean. */
void kvscale_weigh(float *weights, const float *queries, size_t n_queries, size_t n);

/* x [n] becomes E4M3 values in units of SCALE (of kvscale_fit; 0: zeros, NaN: anything), each one of the two
 * neighbours of what it was, or that itself. WEIGHTS [n] of kvscale_weigh, QUERIES [n_queries, n]. It goes by
 * rotation pairs, so that dimensions that turn alike cancel. */
void kvscale_round(float *x, float scale, const float *weights, const float *queries, size_t n_queries,
                   size_t n, bool interleaved);

/* Keys of some tokens. What kvscale_keys makes of them, every rung's fp8_keys makes too, to the bit. */
typedef struct kvscale_job {
    float *k;             /* [n_tokens, n], rounded in place along the first KVSCALE_QUERIES queries */
    float *scales;        /* [n_tokens], of kvscale_fit */
    const float *queries; /* of token t at t * q_stride: [n_queries, n], rotated */
    size_t q_stride, n_queries, n_tokens, n;
    bool interleaved;
    float *room; /* KVSCALE_ROOM * n */
} kvscale_job;

void kvscale_keys(const kvscale_job *job);

/* kvscale_fit of x [n_tokens, x_stride], the first n of each; ROOM as above. */
void kvscale_scales(float *scales, const float *x, size_t x_stride, size_t n_tokens, size_t n, float *room);

#endif
