/* SPDX-License-Identifier: Apache-2.0
 *
 * Low rank: the two thin matrices beside a quantized one (SVDQuant, Li et al. 2024) that take from it what is
 * large: of all matrices L of a rank, the one with the least error of the outputs, (W - L) H (W - L)^T for
 * inputs of second moments H. L = B B^T W, where the columns of B are the first eigenvectors of W H W^T: the
 * singular vectors of W H^(1/2). They are found by iteration on a few vectors, which is right to what flat
 * spectra tell apart, and rounded to BF16.
 *
 * Sums are FP64, each in one order: the result does not depend on the number of threads. Caller: tune.
 */
#ifndef QUANT_LOW_RANK_H
#define QUANT_LOW_RANK_H

#include "base/pool.h"
#include "base/stop.h"
#include "nouns/tensor.h"

#define LOW_RANK_MOST 256

/* DOWN BF16 [rank, cols] and UP BF16 [rows, rank] of T [rows, cols], by H [cols, cols]; rank below rows and
 * cols, at most LOW_RANK_MOST. A row with a NaN or an infinity: NIB_BAD_FILE; *STOP set (base/stop.h):
 * NIB_CANCELLED. */
nib_status low_rank_find(const tensor *t, const double *h, size_t rank, uint16_t *down, uint16_t *up,
                         pool *team, const volatile sig_atomic_t *stop, nib_error *err);

#endif
