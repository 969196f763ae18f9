/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend: portable C, AVX2, AVX-512, chosen at run time.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "ops/ops.h"

/* What exact activations are rounded to, row by row (num/rounded.h), before an exact product: other engines'
 * arithmetic, emulated for eval. It is for weights in FP4; those in FP8 are multiplied with FP8, and others
 * with what is not rounded, unless no weight is FP4 or FP8: then every layer's are rounded, a head's not. */
typedef enum cpu_rounding {
    CPU_ROUND_NONE = 0,
    CPU_ROUND_FP8,
    CPU_ROUND_NVFP4,
    CPU_ROUND_4OVER6,
    CPU_ROUND_CLAMP, /* NVFP4 of what is clamped, what lies beyond as it is */
    CPU_ROUND_MXFP4
} cpu_rounding;

typedef struct cpu_options {
    int threads;       /* 0: physical cores */
    uint32_t features; /* NIB_CPU_* mask that lowers the rung; 0: all the machine has */
    nib_activations activations;
    /* With NIB_ACTIVATIONS_F32. Scales are found row by row; under an NVFP4 or FP8 weight with an input_scale
     * of its format, that is the tensor's scale. */
    cpu_rounding rounding;
    bool round_kv;   /* keys and values to NVFP4 under a model's k_scale and v_scale, or 1, before they are
                        stored */
    int qk_rotation; /* queries and keys, balanced, by rounded_hadamard of this order before that; 0: not */
} cpu_options;

nib_status cpu_open(backend **out, const cpu_options *options, nib_error *err);

uint32_t cpu_features(void); /* NIB_CPU_* bits of this machine: CPUID and XCR0 */
int cpu_threads(const backend *be);

/* Bytes per second that THREADS threads together read from memory (0: physical cores); takes about a second
 * and 512 MiB. 0 when there is no memory for it, or no threads. */
double cpu_read_bandwidth(int threads);

#endif
