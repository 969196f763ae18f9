/* SPDX-License-Identifier: Apache-2.0
 *
 * The ops that work row by row: recorders for the backend's table. See ops.h for what each computes.
 */
#ifndef CPU_ROWOPS_H
#define CPU_ROWOPS_H

#include "cpu/queue.h"

void rowops_embed(backend *be, buf *x, const weight *table, float scale);
void rowops_rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader);
void rowops_rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader);
void rowops_rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps);
void rowops_softcap(backend *be, buf *x, float cap);
void rowops_sum_squares(backend *be, vec *sums, const buf *a);

/* For op files: queues the quantizing of OUT's rows, unless OUT holds no codes. */
void rowops_push_quantize(cpu_backend *cb, act *out);
/* Where activations are emulated: what is to be packed as one is of one format. */
nib_status rowops_note_weight(cpu_backend *cb, const tensor *const *parts, size_t n, nib_error *err);
/* Queues the rounding of A's rows for the product with W, where the backend emulates one. */
void rowops_push_rounding(cpu_backend *cb, const buf *a, const weight *w);
/* Quantizes columns [col, col + n) of a row at once; col and n whole ACT_BLOCKs (n may end the row). */
void rowops_quantize(const cpu_backend *cb, act *out, size_t row, size_t col, size_t n);

#endif
