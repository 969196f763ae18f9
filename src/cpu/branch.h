/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches: the low-rank matrices beside a weight's parts (nouns/tensor.h), computed as two small products in
 * front of the weight's own: mid = a down^T, start = mid up^T, which is added to the product's sums once they
 * are scaled. They read activations as they are, FP32, whatever the weight is multiplied with.
 */
#ifndef CPU_BRANCH_H
#define CPU_BRANCH_H

#include "cpu/queue.h"

/* W, packed from PARTS, gets their branches, which pack_free frees with it. */
nib_status branch_pack(packed *w, const tensor *const *parts, pool *team, nib_error *err);

/* Room for steps of max_rows rows with W's branches (NULL: none more) and earlier ones; never in a step. */
nib_status branch_reserve(cpu_backend *cb, const packed *w, nib_error *err);
void branch_close(cpu_backend *cb);

/* Queues both products of W's branches; JOB, W's own, adds what they give. */
void branch_push(cpu_backend *cb, const buf *a, matmul_job *job);

#endif
