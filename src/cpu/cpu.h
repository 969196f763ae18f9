/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend: portable C, AVX2, AVX-512, chosen at run time.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "ops/ops.h"

typedef struct cpu_options {
    int threads;       /* 0: physical cores */
    uint32_t features; /* NIB_CPU_* mask that lowers the rung; 0: all the machine has */
    nib_activations activations;
} cpu_options;

nib_status cpu_open(backend **out, const cpu_options *options, nib_error *err);

uint32_t cpu_features(void);  /* NIB_CPU_* bits of this machine: CPUID and XCR0 */
int cpu_physical_cores(void); /* of those this process may run on */
int cpu_threads(const backend *be);

/* Bytes per second that THREADS threads together read from memory (0: physical cores); takes about a second
 * and 512 MiB. 0 when there is no memory for it, or no threads. */
double cpu_read_bandwidth(int threads);

/* ---- where the time goes: off until asked for ---- */

typedef enum cpu_op_kind {
    CPU_OP_EMBED = 0,
    CPU_OP_RMSNORM,
    CPU_OP_RMSNORM_OUT,
    CPU_OP_RMSNORM_ADD,
    CPU_OP_MATMUL,
    CPU_OP_MATMUL_ADD,
    CPU_OP_MATMUL_GLU,
    CPU_OP_ROPE_TABLE,
    CPU_OP_QK_NORM_ROPE_STORE,
    CPU_OP_ATTENTION,
    CPU_OP_ATTENTION_JOIN, /* pages computed apart, put together */
    CPU_OP_QUANTIZE,       /* activations whose producer could not quantize them itself */
    CPU_OP_SUM_SQUARES,
    CPU_OP_KINDS
} cpu_op_kind;

typedef struct cpu_profile_row {
    const char *name; /* "matmul", ... */
    uint64_t calls;
    double seconds;
    uint64_t bytes; /* weights, KV and activations moved */
} cpu_profile_row;

void cpu_profile_start(backend *be); /* zeroes the counters; every op is timed until the stop */
void cpu_profile_stop(backend *be);
/* Rows by cpu_op_kind, CPU_OP_KINDS of them; names are set once the profile was started. */
const cpu_profile_row *cpu_profile(const backend *be);

#endif
