/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products: a packed weight times the rows of an activation. cpu.c queues a matmul_job; the threads of
 * the team take ranges of its units. A unit is a fixed part of the weight's rows times a fixed part of the
 * activation's rows: how units are shared out never changes a bit of the result.
 */
#ifndef CPU_MATMUL_H
#define CPU_MATMUL_H

#include "cpu/act.h"

struct cpu_kernels;

typedef struct matmul_job {
    const struct cpu_kernels *k;
    const weight *w;
    const buf *a; /* BUF_ACT */
    float *out;   /* FP32 [n_rows, out_stride] */
    size_t out_stride;
    size_t n_rows;
    bool add; /* out += a W^T */
} matmul_job;

size_t matmul_units(const matmul_job *job);
/* Computes units [begin, end). SCRATCH belongs to the calling thread: pack_scratch_bytes, 64-byte aligned. */
void matmul_run(const matmul_job *job, size_t begin, size_t end, void *scratch);

#define MATMUL_LANES 16 /* rows of one group: lanes of a kernel */

/* What the rungs override for matrix products; see matmul.c for what each computes, pack.h for the layouts.
 */
typedef struct matmul_kernels {
    /* x [n], n a whole number of ACT_BLOCK: codes [n], scales [n / ACT_BLOCK], starts [n / ACT_BLOCK, 2] */
    void (*quantize_act)(int8_t *codes, float *scales, int32_t *starts, const float *x, size_t n);
} matmul_kernels;

void matmul_ref_init(matmul_kernels *m);
void matmul_avx2_init(matmul_kernels *m, uint32_t features);
void matmul_avx512_init(matmul_kernels *m, uint32_t features);

#endif
