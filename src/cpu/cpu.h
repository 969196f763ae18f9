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

uint32_t cpu_features(void); /* NIB_CPU_* bits of this machine: CPUID and XCR0 */
int cpu_threads(const backend *be);

/* Bytes per second that THREADS threads together read from memory (0: physical cores); takes about a second
 * and 512 MiB. 0 when there is no memory for it, or no threads. */
double cpu_read_bandwidth(int threads);

#endif
