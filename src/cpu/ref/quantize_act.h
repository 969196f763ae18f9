/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations to 8-bit integers, by rung. All give the same bits. Callers: the matmul tables.
 */
#ifndef CPU_REF_QUANTIZE_ACT_H
#define CPU_REF_QUANTIZE_ACT_H

#include "cpu/act.h"

void quantize_act_ref(act_block *blocks, const float *x, size_t n);

#endif
