/* SPDX-License-Identifier: Apache-2.0
 *
 * Seconds of CPU time, on one thread, for what GPTQ does with a layer of 1,536 inputs: the factor of H^-1,
 * and codes and held-out error of 288 rows; best of 5.
 *
 *   ninja -C build/release bench_gptq && build/release/bench_gptq
 */
#include <math.h>
#include <stdio.h>
#include <time.h>

#include "base/mem.h"
#include "quant/gptq.h"

enum { COLS = 1536, ROWS = 288, REPEATS = 5 };

static double cpu_seconds(void) { /* other work on the machine is not counted */
    return (double)clock() / CLOCKS_PER_SEC;
}

static uint32_t state = 1;

static double draw(void) { /* in [-1, 1) */
    state = state * 1664525u + 1013904223u;
    return (double)(int32_t)state * 0x1p-31;
}

static void fill(double *h, float *w) {
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j <= i; j++)
            h[i * COLS + j] = h[j * COLS + i] = i == j ? 4 : 1e-3 * draw();
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++)
        w[i] = (float)draw();
}

static nib_status run(const double *h, const tensor *t, uint8_t *codes, uint8_t *scales, nib_error *err) {
    double least[3] = {INFINITY, INFINITY, INFINITY}, loss;
    gptq_rows rows = {.t = t, .stride = 1, .n = ROWS};
    gptq_codes out = {{.tensor_scale = 1.0f / 2688}, codes, scales};
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        gptq_factor f;
        double at[4] = {cpu_seconds()};
        NIB_TRY(gptq_factor_make(&f, h, COLS, GPTQ_FULL, 0.2, NULL, err));
        at[1] = cpu_seconds();
        nib_status status = gptq_quantize(&rows, &f, out, NULL, err);
        at[2] = cpu_seconds();
        gptq_factor_free(&f);
        NIB_TRY(status);
        NIB_TRY(gptq_error(&rows, h, NULL, out, NULL, &loss, err));
        at[3] = cpu_seconds();
        for (int k = 0; k < 3; k++)
            least[k] = fmin(least[k], at[k + 1] - at[k]);
    }
    printf("factor %.3f s, codes %.3f s, error %.3f s (sum of errors %.6g)\n", least[0], least[1], least[2],
           loss);
    return NIB_OK;
}

int main(void) {
    double *h = mem_array(COLS, COLS * sizeof *h);
    float *w = mem_array(ROWS, COLS * sizeof *w);
    uint8_t *codes = mem_array(ROWS, COLS / 2), *scales = mem_array(ROWS, COLS / 16);
    nib_error err = {.text = "no memory"};
    nib_status status = NIB_NO_MEMORY;
    if (h && w && codes && scales) {
        fill(h, w);
        tensor t = {.name = "w",
                    .dtype = DT_F32,
                    .rows = ROWS,
                    .cols = COLS,
                    .data = w,
                    .bytes = (size_t)ROWS * COLS * sizeof *w,
                    .tensor_scale = 1};
        status = run(h, &t, codes, scales, &err);
    }
    if (status != NIB_OK)
        fprintf(stderr, "%s\n", err.text);
    mem_free(h);
    mem_free(w);
    mem_free(codes);
    mem_free(scales);
    return status != NIB_OK;
}
