/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed of the NVFP4 quantizers on one thread: millions of weights per second, best of 5, by method.
 *
 *   ninja -C build/release bench_scale_search && build/release/bench_scale_search
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "quant/scale_search.h"

int main(void) {
    static const char *const names[] = {"rtn", "sweep", "4over6", "weighted"};
    const size_t rows = 512, cols = 2048;
    float *x = mem_alloc(rows * cols * sizeof *x), *heed = mem_alloc(cols * sizeof *heed);
    uint8_t *codes = mem_alloc(rows * cols / 2), *scales = mem_alloc(rows * cols / 16);
    if (!x || !heed || !codes || !scales)
        return 1;
    uint32_t state = 1;
    for (size_t i = 0; i < rows * cols; i++) {
        int sum = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            sum += (int)(state >> 16);
        }
        x[i] = (float)(sum - 131070) * 0x1p-20f;
    }
    for (size_t c = 0; c < cols; c++)
        heed[c] = 0.5f + (float)(c % 7);
    for (int m = QM_RTN; m <= QM_WEIGHTED; m++) {
        double best = 1e9;
        for (int repeat = 0; repeat < 5; repeat++) {
            scale_search s;
            scale_search_init(&s, (quant_method)m, 0.125f, false, m == QM_WEIGHTED ? heed : NULL);
            double from = clock_seconds();
            for (size_t r = 0; r < rows; r++)
                scale_search_nvfp4_row(&s, x + r * cols, cols, codes + r * cols / 2, scales + r * cols / 16);
            double took = clock_seconds() - from;
            best = took < best ? took : best;
        }
        printf("%-9s %7.1f M weights/s\n", names[m], (double)(rows * cols) / best / 1e6);
    }
    mem_free(x);
    mem_free(heed);
    mem_free(codes);
    mem_free(scales);
    return 0;
}
