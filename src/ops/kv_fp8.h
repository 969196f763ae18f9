/* SPDX-License-Identifier: Apache-2.0
 *
 * How a backend chooses the codes of an FP8 cache's keys (docs/notes/kv-fp8.md): numbers that all have in
 * common. A macro each, for C and CUDA alike.
 */
#ifndef OPS_KV_FP8_H
#define OPS_KV_FP8_H

/* A mistake e of an element weighs w = the token's squared queries there and a share of their mean. */
#define KV_FP8_MEAN_SHARE 0.1f
/* Under the scale that makes sum w e^2 smallest, so many elements at most go to their other side, where that
 * makes sum w e^2 + share / queries (sum q e)^2 smaller, q the sum of the queries. */
#define KV_FP8_SUM_SHARE 0.3f
#define KV_FP8_TURNS     2

#endif
