/* SPDX-License-Identifier: Apache-2.0
 *
 * What the attention kernels of every rung share and no instruction set decides: rows taken a constant number
 * at a time, the keys that rows see, and an entry of the table per type that a page may hold.
 */
#ifndef CPU_ATTN_PAGE_H
#define CPU_ATTN_PAGE_H

#include "cpu/attn_prefetch.h"
#include "cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum { KEYS = KV_PAGE_TOKENS };

INLINE size_t code_bytes(nib_kv_dtype type) {
    return type == NIB_KV_FP8 ? 1 : type == NIB_KV_BF16 ? 2 : 4;
}

/* CALL(R) for R rows from `row` on: MOST at a time, then what is left. R is a constant in each. MOST <= 6. */
#define BY_ROWS(call, most, n_rows)                                                                          \
    do {                                                                                                     \
        int row = 0;                                                                                         \
        for (; row + (most) <= (n_rows); row += (most)) {                                                    \
            call(most);                                                                                      \
        }                                                                                                    \
        switch ((n_rows)-row) {                                                                              \
        case 5:                                                                                              \
            call((most) < 5 ? (most) : 5);                                                                   \
            break;                                                                                           \
        case 4:                                                                                              \
            call((most) < 4 ? (most) : 4);                                                                   \
            break;                                                                                           \
        case 3:                                                                                              \
            call(3);                                                                                         \
            break;                                                                                           \
        case 2:                                                                                              \
            call(2);                                                                                         \
            break;                                                                                           \
        case 1:                                                                                              \
            call(1);                                                                                         \
            break;                                                                                           \
        }                                                                                                    \
    } while (0)

/* Keys that any of the rows sees. */
INLINE void seen_by_any(const attn_page_job *job, size_t *first, size_t *last) {
    *first = KEYS;
    *last = 0;
    for (int r = 0; r < job->n_rows; r++) {
        *first = job->first[r] < *first ? job->first[r] : *first;
        *last = job->last[r] > *last ? job->last[r] : *last;
    }
}

/* Whether every row sees keys [first, last). */
INLINE bool all_see(const attn_page_job *job, size_t first, size_t last) {
    bool all = true;
    for (int r = 0; r < job->n_rows; r++)
        all = all && job->first[r] == first && job->last[r] == last;
    return all;
}

/* From attn_page(type, job), which is in the file: a function per type, and attn_page_set(table) that puts
 * them into attn_page or attn_page_int of a cpu_kernels. */
#define ATTN_PAGE_TYPES                                                                                      \
    static void attn_page_bf16(const attn_page_job *job) {                                                   \
        attn_page(NIB_KV_BF16, job);                                                                         \
    }                                                                                                        \
    static void attn_page_fp8(const attn_page_job *job) {                                                    \
        attn_page(NIB_KV_FP8, job);                                                                          \
    }                                                                                                        \
    static void attn_page_fp32(const attn_page_job *job) {                                                   \
        attn_page(NIB_KV_FP32, job);                                                                         \
    }                                                                                                        \
    static void attn_page_set(void (*table[4])(const attn_page_job *)) {                                     \
        table[NIB_KV_BF16] = attn_page_bf16;                                                                 \
        table[NIB_KV_FP8] = attn_page_fp8;                                                                   \
        table[NIB_KV_FP32] = attn_page_fp32;                                                                 \
    }

#endif
