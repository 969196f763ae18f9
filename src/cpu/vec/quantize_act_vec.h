/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations to 8-bit integers in the vectors of the rung that includes this, see ref/quantize_act.c.
 * V_LANES blocks at a time: a lane each for their maxima, scales and sums, which are found across vectors, so
 * that one division serves them all.
 */
#include "cpu/matmul.h"

enum { BLOCK_VECTORS = ACT_BLOCK / V_LANES };

INLINE vfloat magnitude(const float *x) {
    return vf_of_bits(vi_and(vf_bits(vf_load(x)), vi_set(0x7fffffff)));
}

/* What stands beside the codes of N blocks: scale, starts, sum. */
INLINE void put_rests(act_block *out, vfloat scale, vint sum, size_t n) {
    vint narrow = vi_sub(vi_set(ACT_MAGIC), VI_LEFT(sum, 4));
    vint wide = vi_sub(vi_set(ACT_MAGIC), VI_LEFT(sum, 7));
    vint total = vf_bits(vf_mul(vf_of_int(sum), scale));
    vint a = vi_low_words(vf_bits(scale), narrow), b = vi_high_words(vf_bits(scale), narrow);
    vint c = vi_low_words(wide, total), d = vi_high_words(wide, total);
    int32_t rests[4][V_LANES]; /* of block i: [i % 4][i / 4 * 4] on */
    vi_store(rests[0], vi_low_pairs(a, c));
    vi_store(rests[1], vi_high_pairs(a, c));
    vi_store(rests[2], vi_low_pairs(b, d));
    vi_store(rests[3], vi_high_pairs(b, d));
    for (size_t i = 0; i < n; i++)
        __builtin_memcpy(&out[i].scale, rests[i % 4] + i / 4 * 4, 4 * sizeof **rests);
}

/* N <= V_LANES blocks. */
INLINE void quantize_some(act_block *blocks, const float *x, size_t n) {
    const vfloat c127 = vf_set(127.0f);
    vfloat v[V_LANES];
    for (size_t i = 0; i < V_LANES; i++) {
        v[i] = i < n ? magnitude(x + i * ACT_BLOCK) : vf_zero();
        for (size_t j = 1; i < n && j < BLOCK_VECTORS; j++)
            v[i] = larger(v[i], magnitude(x + i * ACT_BLOCK + j * V_LANES));
    }
    vfloat max = larger_across(v);
    vmask finite = vi_less(vf_bits(max), vi_set(0x7f800000)), some = vf_not_less(max, vf_set(0x1p-100f));
    vfloat scale = vf_select(finite, vf_where(some, vf_div(max, c127)), vf_set(__builtin_nanf("")));
    float factors[V_LANES];
    int32_t kept[V_LANES]; /* 0 where a block is not finite, else -1 */
    vf_store(factors, vf_where(some, vf_div(c127, max)));
    vi_store(kept, vf_bits(vf_where(finite, vf_of_bits(vi_set(-1)))));
    for (size_t i = 0; i < n; i++) {
        vint codes[BLOCK_VECTORS];
        for (size_t j = 0; j < BLOCK_VECTORS; j++) {
            vfloat scaled = vf_mul(vf_load(x + i * ACT_BLOCK + j * V_LANES), vf_set(factors[i]));
            codes[j] = vi_and(vi_rounded(scaled), vi_set(kept[i]));
        }
        vi_store_evens_first(blocks[i].codes, codes);
        v[i] = vf_of_bits(BLOCK_VECTORS == 1 ? codes[0] : vi_add(codes[0], codes[BLOCK_VECTORS - 1]));
    }
    put_rests(blocks, scale, vf_bits(int_sum_across(v)), n);
}

void V_RUNG(quantize_act)(act_block *blocks, const float *x, size_t n) {
    size_t b = 0, n_blocks = n / ACT_BLOCK;
    for (; b + V_LANES <= n_blocks; b += V_LANES)
        quantize_some(blocks + b, x + b * ACT_BLOCK, V_LANES);
    for (; b + 4 <= n_blocks; b += 4) /* a head of attention, say */
        quantize_some(blocks + b, x + b * ACT_BLOCK, 4);
    if (b < n_blocks)
        quantize_some(blocks + b, x + b * ACT_BLOCK, n_blocks - b);
}
