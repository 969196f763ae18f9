/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight formats that are evaluated and never written: the values of a matrix rounded to those that a 4- or
 * 8-bit element under scales of groups of columns holds. By name:
 *
 *   ELEMENT[:GROUP[:SCALE]][:best]
 *
 *   ELEMENT  e2m1, e1m2, e3m0, int4 (-8..7; the usual scale puts the largest on 7), nf4, e4m3, e5m2
 *
 *   GROUP    columns that share a scale: 8 to 4096, a power of two; row; tensor
 *
 *   SCALE    f32, f16; e4m3, under a tensor scale as NVFP4's; e8m0, by OCP's rule (the power of two of the
 *            largest magnitude); e8m0-ceil, the least power of two that clips nothing
 *
 *   best     the scale of least squared error, instead of the one that puts the largest magnitude on the
 *            largest element; not for tensor, and 8-bit scales not for row or tensor
 *
 * and nvfp4 (e2m1:16:e4m3), nvfp4:best, mxfp4 (e2m1:32:e8m0), mxfp4:ceil, mxfp4:best, nf4 (nf4:64:f32), and
 * nf4:double, whose scales are quantized as well: less their mean over the matrix, in 8 bits under an FP32
 * scale per 256 of them (QLoRA's double quantization, as bitsandbytes does it). Callers: cli eval.
 */
#ifndef EVAL_WEIGHT_FORMAT_H
#define EVAL_WEIGHT_FORMAT_H

#include "model/model.h"

typedef enum format_element {
    ELEMENT_E2M1 = 0,
    ELEMENT_E1M2,
    ELEMENT_E3M0,
    ELEMENT_INT4,
    ELEMENT_NF4,
    ELEMENT_E4M3,
    ELEMENT_E5M2,
    ELEMENT_COUNT
} format_element;

typedef enum format_scale {
    FSCALE_F32 = 0,
    FSCALE_F16,
    FSCALE_E4M3,
    FSCALE_E8M0,
    FSCALE_E8M0_CEIL,
    FSCALE_DOUBLE
} format_scale;

#define FORMAT_ROW    ((size_t)0) /* groups */
#define FORMAT_TENSOR ((size_t)1)

typedef struct weight_format {
    format_element element;
    size_t group;
    format_scale scale;
    bool best;
} weight_format;

bool weight_format_parse(weight_format *out, const char *name);

/* Of an element and its share of the scales, for a matrix of so many columns; what a whole tensor has once is
 * left out. */
double weight_format_bits(const weight_format *f, size_t cols);

/* Columns under one scale in a row of COLS, the group of a whole tensor being that row's share of it. */
size_t weight_format_group(const weight_format *f, size_t cols);

/* x [n], one row of a matrix whose largest magnitude is TENSOR_AMAX; not for FSCALE_DOUBLE. */
void weight_format_row(const weight_format *f, float *x, size_t n, float tensor_amax);

/* FSCALE_DOUBLE: amaxes [n], the largest magnitudes of a matrix's groups, row after row, become what their
 * codes stand for; then x [n] of one row is rounded under those of its groups. */
void weight_format_double(float *amaxes, size_t n);
void weight_format_row_double(const weight_format *f, float *x, size_t n, const float *stored);

/* The elements' values, ascending, [16]; of 8-bit elements NULL. */
const float *weight_format_values(format_element e);

/* What a network computes with after weight_format_apply. */
typedef struct weight_format_made weight_format_made;

/* Rounds the linear layers of M, which is FILE's, and binds them anew: FP32 in memory until
 * weight_format_free, which comes after M is closed. *BITS: the mean over their weights. */
nib_status weight_format_apply(weight_format_made **out, const weight_format *f, model *m,
                               const model_file *file, int threads, double *bits, nib_error *err);
void weight_format_free(weight_format_made *f); /* NULL is fine */

#endif
