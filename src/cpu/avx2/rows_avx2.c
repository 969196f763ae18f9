/* SPDX-License-Identifier: Apache-2.0
 *
 * Row functions on AVX2.
 */
#include "cpu/avx2/vec256.h"
#include "cpu/vec/rows_vec.h"
