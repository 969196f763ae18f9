/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: activations to 8-bit integers; vec/quantize_act_vec.h is the text.
 */
#include "cpu/avx2/matmul_avx2.h"

#include "cpu/vec/quantize_act_vec.h"
