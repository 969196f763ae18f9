/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention on AVX-512: vec/attn_vec.h with tiles for 32 registers: scores of 6 rows times 64
 * keys, values of 6 rows times 64 dimensions.
 */
#include "cpu/avx512/attn_page512.h"

enum { SCORE_ROWS = 6, VALUE_ROWS = 6, MOST_VECTORS = 4, VALUE_PAIRS = 2 };

#include "cpu/vec/attn_vec.h"

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first,
                       size_t last) {
    size_t v0 = first / 16, v1 = (last + 15) / 16;
    if (v1 - v0 == 1)
        scores_tile(type, job, row, R, v0, 1, false);
    else if (v1 - v0 == 2)
        scores_tile(type, job, row, R, v0, 2, false);
    else if (row == 0 && attn_prefetch_wanted(job))
        scores_tile(type, job, row, R, 0, 4, true);
    else
        scores_tile(type, job, row, R, 0, 4, false);
}
