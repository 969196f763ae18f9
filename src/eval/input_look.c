/* SPDX-License-Identifier: Apache-2.0
 *
 * A thread takes whole blocks of columns; counts of magnitudes, which are integers, are added up in the end.
 * See input_look.h.
 */
#include "eval/input_look.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/dense.h"

enum { BLOCK = INPUT_STATS_BLOCK, HALF = BLOCK / 2, MOST_ROWS = 1 << 16 };
#define FIRST_BIN ((uint32_t)(127 - 40) << 7) /* 2^-40: the upper half of an FP32 number */

typedef float lanes __attribute__((vector_size(BLOCK * sizeof(float)), aligned(sizeof(float))));

nib_status input_looker_open(input_looker *l, pool *team, nib_error *err) {
    const size_t n = (size_t)pool_threads(team);
    *l = (input_looker){.team = team,
                        .bins = mem_array(n, INPUT_LOOK_BINS * sizeof *l->bins),
                        .peaks = mem_array(n, sizeof *l->peaks)};
    if (l->bins && l->peaks)
        return NIB_OK;
    input_looker_close(l);
    return nib_fail(err, NIB_NO_MEMORY, "no memory to look at inputs");
}

void input_looker_close(input_looker *l) {
    mem_free(l->bins);
    mem_free(l->peaks);
    *l = (input_looker){0};
}

nib_status input_look_open(input_look *k, size_t cols, nib_error *err) {
    const bool whole = cols % BLOCK == 0;
    *k = (input_look){.cols = cols,
                      .blocks = whole ? mem_array(cols, BLOCK * sizeof *k->blocks) : NULL,
                      .bins = mem_array(INPUT_LOOK_BINS, sizeof *k->bins)};
    if (k->bins && (k->blocks || !whole))
        return NIB_OK;
    input_look_close(k);
    return nib_fail(err, NIB_NO_MEMORY, "no memory to look at %zu inputs", cols);
}

void input_look_close(input_look *k) {
    mem_free(k->blocks);
    mem_free(k->bins);
    *k = (input_look){0};
}

/* ---- rows ---- */

typedef struct looking {
    input_look *k;
    const input_looker *by;
    const float *x; /* [rows, cols] */
    size_t rows;
} looking;

/* TO [BLOCK, BLOCK] += the sum over the rows of x x^T, x a row's block at COL. Half of its rows at a time, so
 * that the sums are registers. */
DENSE_CLONES static void add_block(const looking *l, size_t col, double *to) {
    for (size_t first = 0; first < BLOCK; first += HALF) {
        lanes sum[HALF] = {{0}}, line;
        float out[HALF * BLOCK];
        for (size_t r = 0; r < l->rows; r++) {
            const float *x = l->x + r * l->k->cols + col;
            memcpy(&line, x, sizeof line);
#pragma GCC unroll 8
            for (size_t i = 0; i < HALF; i++)
                sum[i] += x[first + i] * line;
        }
        memcpy(out, sum, sizeof out);
        for (size_t i = 0; i < HALF * BLOCK; i++)
            to[first * BLOCK + i] += (double)out[i];
    }
}

static uint32_t bin_of(uint32_t bits) {
    const uint32_t upper = bits >> 16;
    return upper < FIRST_BIN                     ? 0
           : upper - FIRST_BIN < INPUT_LOOK_BINS ? upper - FIRST_BIN
                                                 : INPUT_LOOK_BINS - 1;
}

static void look_at_blocks(void *arg, int thread, size_t begin, size_t end) {
    const looking *l = arg;
    uint32_t *bins = l->by->bins + (size_t)thread * INPUT_LOOK_BINS;
    float peak = l->by->peaks[thread];
    const size_t last = end * BLOCK < l->k->cols ? end * BLOCK : l->k->cols;
    for (size_t b = begin; b < end && l->k->blocks; b++)
        add_block(l, b * BLOCK, l->k->blocks + b * BLOCK * BLOCK);
    for (size_t r = 0; r < l->rows; r++)
        for (size_t c = begin * BLOCK; c < last; c++) {
            const float a = fabsf(l->x[r * l->k->cols + c]);
            uint32_t bits;
            memcpy(&bits, &a, sizeof bits);
            bins[bin_of(bits)]++;
            peak = a > peak ? a : peak;
        }
    l->by->peaks[thread] = peak;
}

void input_look_add(input_look *k, const input_looker *by, const float *x, size_t rows) {
    looking l = {k, by, x, rows};
    const size_t threads = (size_t)pool_threads(by->team);
    assert(rows <= MOST_ROWS); /* of which no count overflows */
    k->n_rows += rows;
    memset(by->bins, 0, threads * INPUT_LOOK_BINS * sizeof *by->bins);
    memset(by->peaks, 0, threads * sizeof *by->peaks);
    pool_for(by->team, (k->cols + BLOCK - 1) / BLOCK, 4, look_at_blocks, &l);
    for (size_t t = 0; t < threads; t++) {
        k->peak = by->peaks[t] > k->peak ? by->peaks[t] : k->peak;
        for (size_t i = 0; i < INPUT_LOOK_BINS; i++)
            k->bins[i] += by->bins[t * INPUT_LOOK_BINS + i];
    }
}

/* ---- the end ---- */

/* The upper edge of the first bin that SHARE of all counted magnitudes do not exceed. */
static float peak_of(const input_look *k, uint64_t n, double share) {
    uint64_t below = 0;
    size_t i = 0;
    for (; i < INPUT_LOOK_BINS - 1; i++) {
        below += k->bins[i];
        if ((double)below >= share * (double)n)
            break;
    }
    const uint32_t bits = (FIRST_BIN + (uint32_t)i + 1) << 16;
    float edge;
    memcpy(&edge, &bits, sizeof edge);
    return i < INPUT_LOOK_BINS - 1 && edge < k->peak ? edge : k->peak;
}

nib_status input_look_finish(const input_look *k, input_stat *out, nib_error *err) {
    uint64_t n = 0;
    for (size_t i = 0; i < INPUT_LOOK_BINS; i++)
        n += k->bins[i];
    out->peaks[0] = k->peak;
    for (size_t i = 1; i < INPUT_STATS_PEAKS; i++)
        out->peaks[i] = peak_of(k, n, input_stats_shares[i]);
    out->has_peaks = true;
    if (!k->blocks)
        return NIB_OK;
    out->blocks = mem_array(k->cols, BLOCK * sizeof *out->blocks);
    if (!out->blocks)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the moments of %zu inputs", k->cols);
    for (size_t i = 0; i < k->cols * BLOCK; i++)
        out->blocks[i] = (float)k->blocks[i];
    out->blocks_count = (float)k->n_rows;
    return NIB_OK;
}
