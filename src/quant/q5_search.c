/* SPDX-License-Identifier: Apache-2.0
 *
 * For codes q that are given, the best step is d = sum w x q / sum w q^2, and leaves sum w x^2 less
 * (sum w x q)^2 / sum w q^2: what is subtracted decides between steps. See q5_search.h.
 */
#include "quant/q5_search.h"

#include <math.h>

#include "num/bf16.h"
#include "num/gguf_blocks.h"

#define F16_MAX 65504.0f
#define TINY    0x1p-30f /* the step of such a block is 0 in F16 */

static float code_of(float x, float inverse) {
    return fmaxf(-16.0f, fminf(15.0f, rintf(x * inverse)));
}

uint16_t q5_search_step(float step) {
    return step == 0 ? 0 : f16_from_f32(fmaxf(-F16_MAX, fminf(F16_MAX, step)));
}

/* Sums for the codes of X under INVERSE. */
static void look(const float *w, const float *x, float inverse, float *wxq, float *wqq) {
    float a[8] = {0}, b[8] = {0};
    for (int j = 0; j < Q5_BLOCK; j += 8)
        for (int i = 0; i < 8; i++) {
            const float q = code_of(x[j + i], inverse);
            a[i] += w[j + i] * x[j + i] * q;
            b[i] += w[j + i] * q * q;
        }
    *wxq = ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
    *wqq = ((b[0] + b[1]) + (b[2] + b[3])) + ((b[4] + b[5]) + (b[6] + b[7]));
}

/* The step as it is best under weights W; 0: none was found. */
static float search(const float *w, const float *x) {
    float largest = 0, step = 0, most = 0;
    for (int j = 0; j < Q5_BLOCK; j++)
        largest = fabsf(x[j]) > fabsf(largest) ? x[j] : largest;
    for (int i = 0; i < Q5_STEPS && fabsf(largest) > TINY; i++) {
        const float inverse = (float)-(Q5_LEAST + Q5_APART * i) / largest;
        float wxq, wqq;
        look(w, x, inverse, &wxq, &wqq);
        if (wqq > 0 && wxq / wqq * wxq > most) {
            most = wxq / wqq * wxq;
            step = wxq / wqq;
        }
    }
    return step;
}

static void search_block(const float *w, const float *x, unsigned char *out) {
    static const float ones[Q5_BLOCK] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    int8_t codes[Q5_BLOCK];
    float step = w ? search(w, x) : 0;
    if (step == 0) /* inputs never seen weigh nothing */
        step = search(ones, x);
    const uint16_t half = q5_search_step(step);
    const float d = f16_to_f32(half), inverse = d != 0 ? 1.0f / d : 0.0f;
    for (int j = 0; j < Q5_BLOCK; j++)
        codes[j] = (int8_t)code_of(x[j], inverse);
    gguf_blocks_pack_q5_0(half, codes, out);
}

void q5_search_row(const float *weights, const float *x, size_t n_blocks, unsigned char *out) {
    for (size_t b = 0; b < n_blocks; b++)
        search_block(weights ? weights + b * Q5_BLOCK : NULL, x + b * Q5_BLOCK, out + b * Q5_BYTES);
}
