/* SPDX-License-Identifier: Apache-2.0
 *
 * The AMX entry of the matrix table. Starts from the table of AVX-512 VNNI.
 */
#ifndef CPU_AMX_MATMUL_AMX_H
#define CPU_AMX_MATMUL_AMX_H

#include "cpu/matmul.h"

void matmul_amx_init(matmul_kernels *m);

#endif
