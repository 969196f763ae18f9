/* SPDX-License-Identifier: Apache-2.0
 *
 * The scale of one FP8 key or value vector, chosen by its error, not by its largest element alone.
 *
 * With the largest |x| at 448 every element is rounded to 4 significant bits wherever it happens to fall in
 * its binade; a scale a fraction of an octave larger moves them all. Of KVSCALE_STEPS such scales the one
 * with the smallest sum of w (x - x^)^2 is taken. For keys w is the mean square of what the query multiplies
 * each dimension by, known from the token's own queries; docs/notes/kv-fp8.md has what that is worth.
 *
 * A score sees the mistakes e of a key together, as sum q e: under that scale KV_FP8_TURNS elements may go
 * to the code on their other side, one after the other the one that makes sum w e^2 + r (sum q e)^2 smallest.
 */
#ifndef CPU_KVSCALE_H
#define CPU_KVSCALE_H

#include <stddef.h>

#define KVSCALE_STEPS 32 /* scales that are tried: (1 + i / KVSCALE_STEPS) times the smallest */

#define KVSCALE_MAX_DIM 512 /* longer keys stay with their nearest codes */

/* x [n]; WEIGHTS [n] >= 0, or NULL: all 1. 0 when no |x| reaches KV_FP8_TINY, NaN when x is not finite: then
 * codes do not matter; else largest |x| / scale <= 448. A rung's kvscale_fit gives the same bits. */
float kvscale_fit(const float *x, const float *weights, size_t n);

/* What a mistake in each dimension of a key weighs in scores, WEIGHTS [n]: the squares of the token's own
 * QUERIES [n_queries, n], rotated, and a share of their mean. ALONG [n]: where mistakes add up, q times the
 * root of r: the queries' sum, scaled. */
void kvscale_weigh(float *weights, float *along, const float *queries, size_t n_queries, size_t n);

/* The elements of x [n] that go to their other side become what they are stored as under SCALE, which
 * kvscale_fit found; WEIGHTS and ALONG as kvscale_weigh makes them. A rung's gives the same bits. */
void kvscale_steer(float *x, float scale, const float *weights, const float *along, size_t n);

#endif
