/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations to 8-bit integers, by rung. All give the same bits. Callers: the matmul tables.
 */
#ifndef CPU_REF_QUANTIZE_ACT_H
#define CPU_REF_QUANTIZE_ACT_H

#include <stddef.h>
#include <stdint.h>

void quantize_act_ref(int8_t *codes, float *scales, int32_t *starts, const float *x, size_t n);

#endif
