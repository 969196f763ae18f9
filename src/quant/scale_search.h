/* SPDX-License-Identifier: Apache-2.0
 *
 * Scale search: NVFP4 and MXFP4 codes and block scales of a row of weights, by method.
 *
 *   rtn       the block's largest magnitude lands on 6 (ModelOpt, compressed-tensors)
 *   sweep     the E4M3 scale with the least squared error among codes -3..+7 about the rtn scale rounded
 * down; the optimum provably lies in [4/5, 12/7] of it 4over6    the better of 6 and 4 as the block's largest
 * code, with the tensor's scale made for 256 instead of 448, as the fouroversix package computes it weighted
 * as sweep over codes -8..+7, each squared error times E[x_j^2] of its input channel
 *
 * Rows are independent of each other: any thread may take any row. Callers: encode, convert.
 */
#ifndef QUANT_SCALE_SEARCH_H
#define QUANT_SCALE_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* QM_LOCAL is encode's (GPTQ inside each block); a row without E[x x^T] is swept. */
typedef enum quant_method { QM_RTN = 0, QM_SWEEP, QM_FOUR_OVER_SIX, QM_WEIGHTED, QM_LOCAL } quant_method;

/* What the inputs of linear layers look like, from calibration, [layer * SLOT_COUNT + slot]: E[x_j^2] of each
 * channel FP32 [cols], and E[x_i x_j] of the channels of a block FP32 [cols, 16]; NULL: not known (by
 * QM_WEIGHTED, or QM_LOCAL, that tensor is swept). */
typedef struct importance {
    float **mean_squares;
    float **blocks; /* NULL: none */
    int n_layers;
} importance;

typedef struct scale_search {
    quant_method method;
    float amax;         /* of all tensors that share the scale */
    float tensor_scale; /* multiplies; NVFP4 */
    float global_scale; /* compressed-tensors' divisor, 1 / tensor_scale as that library writes it; else 0 */
    const float *weights; /* [cols] E[x_j^2], QM_WEIGHTED */
    bool fp8_exact;       /* NVFP4, sweep and weighted: of scale_search_is_fp8_exact's scales only */
} scale_search;

/* The tensor's scale for METHOD. CT: by compressed-tensors' formula for rtn. Apart from rtn and 4over6, whose
 * scales are those of their references, the scale has an exact reciprocal's reciprocal: 1 / (1 / s) == s in
 * FP32, so that both conventions store the same values. */
void scale_search_init(scale_search *s, quant_method method, float amax, bool ct, const float *weights);

/* Is every E2M1 value times SCALE, an E4M3 code, an E4M3 value? So it is for 1, 1.25 and 1.5 times a power of
 * two, up to 64: engines that compute in FP8 fold such a block scale into the codes without loss. */
bool scale_search_is_fp8_exact(uint8_t scale);

/* scale_search_init for these scales: the tensor's largest magnitude is 6 under 64. For sweep and weighted.
 */
void scale_search_init_fp8_exact(scale_search *s, quant_method method, float amax, bool ct,
                                 const float *weights);

/* codes [cols/2], scales [cols/16]; cols is a multiple of 16. */
void scale_search_nvfp4_row(const scale_search *s, const float *x, size_t cols, uint8_t *codes,
                            uint8_t *scales);

/* codes [cols/2], scales E8M0 [cols/32]; cols is a multiple of 32. rtn is the OCP rule; sweep and weighted
 * take the best of that scale, half of it and twice of it. */
void scale_search_mxfp4_row(const scale_search *s, const float *x, size_t cols, uint8_t *codes,
                            uint8_t *scales);

/* The divisor whose FP32 reciprocal is S, or, where there is none, the nearest reciprocal of S. */
float scale_search_reciprocal(float s);

#endif
