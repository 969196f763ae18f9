/* SPDX-License-Identifier: Apache-2.0
 *
 * Row functions on AVX-512.
 */
#include "cpu/avx512/vec512.h"
#include "cpu/vec/rows_vec.h"
