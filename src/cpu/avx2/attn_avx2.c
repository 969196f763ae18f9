/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention on AVX2: vec/attn_vec.h with tiles for 16 registers: scores of 4 rows times 16 keys
 * (or 2 times 32), values of 6 rows times 16 dimensions.
 */
#include "cpu/avx2/attn_page256.h"

enum { SCORE_ROWS = 4, VALUE_ROWS = 6, MOST_VECTORS = 4, VALUE_PAIRS = 1 };

#include "cpu/vec/attn_vec.h"

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first,
                       size_t last) {
    size_t step = R <= 2 ? 4 : 2, start = first / (8 * step) * step;
    for (size_t v = start; v < (last + 7) / 8; v += step)
        if (row == 0 && v == start && attn_prefetch_wanted(job))
            scores_tile(type, job, row, R, v, R <= 2 ? 4 : 2, true);
        else
            scores_tile(type, job, row, R, v, R <= 2 ? 4 : 2, false);
}
