/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 entries of the matrix table.
 */
#include "cpu/matmul.h"

void matmul_avx512_init(matmul_kernels *m, uint32_t features) {
    (void)m;
    (void)features;
}
