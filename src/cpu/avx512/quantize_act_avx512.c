/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512: activations to 8-bit integers; vec/quantize_act_vec.h is the text.
 */
#include "cpu/avx512/matmul_avx512.h"

#include "cpu/vec/quantize_act_vec.h"
