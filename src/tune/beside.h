/* SPDX-License-Identifier: Apache-2.0
 *
 * Beside: codes of a matrix beside a low-rank branch (quant/low_rank.h): the branch of what the matrix is, by
 * the second moments of its input; then codes of the rest, by whatever method; then the branch anew, of what
 * the codes lack, where that loses less on held-out inputs. Caller: tune.c.
 */
#ifndef TUNE_BESIDE_H
#define TUNE_BESIDE_H

#include "tune/choose.h"

/* Bytes of a branch: behind a matrix's codes, DOWN first. 0: the matrix has none. */
size_t beside_bytes(const tune_matrix *m);
/* Where they lie, behind CODES. */
tensor_branch beside_at(const tune_matrix *m, const uint8_t *codes);

/* choose_codes for matrices some of which have a rank. */
nib_status beside_choose_codes(const choose_job *job, nib_error *err);

#endif
