/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ: codes and block scales (NVFP4, or Q5_0's) of a matrix W [rows, cols] that keep W x for the inputs x
 * it was shown to, where H = E[x x^T] says what these look like. Column after column is rounded, and its
 * error is made good by the columns that are still open (Frantar et al. 2022):
 *
 *   H^-1 = U^T U, U upper; q_j = Q(w_j); e_j = (w_j - q_j) / U_jj; w_k -= e_j U_jk for all k > j
 *
 * What remains of the output's squared error is the sum of e_j^2. A block's scale is the one of sixteen E4M3
 * codes about the largest magnitude's (of Q5_0's 33 steps) with the least such sum over its columns, each
 * rounded and made good inside the block: the error that is left when all later columns have done their best
 * (the Schur complement's).
 *
 * After it, blocks are chosen anew one by one with all others as they are, until that gains nothing
 * (refine.c).
 *
 * One algorithm is several methods by what is left of H: all of it; its blocks of 16 columns, 32 for Q5_0
 * (`local`); its diagonal (the error weighted by E[x_j^2]). H taken from few or foreign inputs is
 * shrunk toward its diagonal.
 *
 * Sums are FP64. Rows are independent of each other, so the result does not depend on the number of threads.
 * Caller: tune.
 */
#ifndef QUANT_GPTQ_H
#define QUANT_GPTQ_H

#include "base/pool.h"
#include "base/status.h"
#include "nouns/tensor.h"
#include "quant/scale_search.h"

/* Columns that see each other: all, or those of a block. */
typedef enum gptq_reach { GPTQ_FULL = 0, GPTQ_BLOCKS = 16, GPTQ_WIDE_BLOCKS = 32 } gptq_reach;

/* U of an H, for all matrices that read the same inputs. */
typedef struct gptq_factor {
    double *u; /* upper: [cols, cols], or where U is zero outside its blocks these alone, [cols, reach] */
    size_t cols;
    gptq_reach reach;
} gptq_factor;

/* Of (1 - SHRINK) H + SHRINK diag(H), and a thousandth of the mean of the diagonal on it, so that inputs
 * never seen count a little. H FP64 [cols, cols], symmetric; SHRINK in [0, 1]; cols a multiple of 16,
 * and of REACH. */
nib_status gptq_factor_make(gptq_factor *out, const double *h, size_t cols, gptq_reach reach, double shrink,
                            pool *team, nib_error *err);
#define GPTQ_LOCAL_SHRINK 0.05 /* of blocks, when they alone choose */

/* The same from blocks alone: BLOCKS FP32 [cols, GPTQ_BLOCKS], H's row i within i's block; what they leave of
 * a wider block is 0. */
nib_status gptq_factor_of_blocks(gptq_factor *out, const float *blocks, size_t cols, gptq_reach reach,
                                 double shrink, nib_error *err);
void gptq_factor_free(gptq_factor *f);
double gptq_damp(const double *h, size_t cols); /* what is added to the diagonal */

/* Rows first, first + stride, ... of a tensor: n of them. */
typedef struct gptq_rows {
    const tensor *t;
    size_t first, stride, n;
    const float *aims; /* [n, cols] what their codes are to come near to (gptq_aim); NULL: themselves */
} gptq_rows;

typedef enum gptq_grid { GPTQ_NVFP4 = 0, GPTQ_Q5_0 } gptq_grid;

typedef struct gptq_scales {
    float tensor_scale; /* NVFP4's */
    bool fp8_exact;     /* block scales of scale_search_is_fp8_exact only */
    gptq_grid grid;
} gptq_scales;

/* What is chosen: NVFP4's codes [n, cols / 2] and scales [n, cols / 16], or Q5_0's blocks [n, cols / 32 * 22]
 * and no scales. */
typedef struct gptq_codes {
    gptq_scales by;
    uint8_t *codes, *scales;
} gptq_codes;

/* A block of GRID. */
static inline gptq_reach gptq_blocks_of(gptq_grid grid) {
    return grid == GPTQ_Q5_0 ? GPTQ_WIDE_BLOCKS : GPTQ_BLOCKS;
}

size_t gptq_code_bytes(gptq_grid grid, size_t cols);  /* of a row */
size_t gptq_scale_bytes(gptq_grid grid, size_t cols); /* likewise */

/* A row with a NaN or an infinity: NIB_BAD_FILE. */
nib_status gptq_quantize(const gptq_rows *rows, const gptq_factor *f, gptq_codes out, pool *team,
                         nib_error *err);

/* H as gptq_factor_make takes it: shrunk by SHRINK, damped. */
typedef struct gptq_moments {
    const double *h; /* [cols, cols] */
    size_t cols;
    double shrink;
} gptq_moments;

/* Descent from codes and scales that are there: each block gets the scale and codes that are best with
 * all others as they are, where these lose less; PASSES times over all blocks, or until nothing changes. The
 * sum of (w - w^) H (w - w^)^T over the rows never rises. A row with a NaN or an infinity: NIB_BAD_FILE. */
nib_status gptq_refine(const gptq_rows *rows, gptq_moments m, int passes, gptq_codes out, pool *team,
                       nib_error *err);

/* What has been lost before: the outputs wanted are W (x + d) + r for inputs x that should have been x + d.
 */
typedef struct gptq_pull {
    const double *c; /* E[d x^T] [cols, cols] */
    const double *r; /* E[r x^T] [rows of the tensor, cols]; NULL: r is 0 */
} gptq_pull;

/* AIMS [n, cols] = W + SHARE (W C + R) H^-1: with SHARE 1 the weights that come nearest to these outputs. */
nib_status gptq_aim(const gptq_rows *rows, const gptq_factor *f, const gptq_pull *pull, double share,
                    float *aims, pool *team, nib_error *err);

/* *out = sum over the rows of d H d^T, d = w - w^: what the output loses on inputs of second moments H. With
 * PULL (else NULL) + 2 d (W C + R)^T, which is E((w^ x - w (x + d) - r)^2) but for what no choice of w^
 * changes. */
nib_status gptq_error(const gptq_rows *rows, const double *h, const gptq_pull *pull, gptq_codes chosen,
                      pool *team, double *out, nib_error *err);
/* That part: *out = sum over all rows of E((w d + r)^2), of E[d d^T] [cols, cols], E[r d^T] [rows, cols] and
 * E[r^2] [rows]; both NULL: r is 0. */
nib_status gptq_lost(const gptq_rows *rows, const double *d, const double *across, const double *squares,
                     pool *team, double *out, nib_error *err);

#endif
