/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend in a shared object of its own (libnibble_cuda.so), which the engine loads at run time, so that a
 * program without it carries nothing of it. It exports one symbol, NIBBLE_PLUGIN_SYMBOL, a backend_plugin;
 * its first word is compared before anything else is read.
 */
#ifndef OPS_PLUGIN_H
#define OPS_PLUGIN_H

#include "ops/ops.h"

#define BACKEND_PLUGIN_ABI                                                                                   \
    (0x6e620000u + 6) /* grows with every change of ops.h, batch.h, sampling.h or tensor.h */
#define NIBBLE_PLUGIN_SYMBOL "nibble_plugin"
#define NIBBLE_CUDA_LIBRARY  "libnibble_cuda.so"
#define BACKEND_MAX_DEVICES  16

typedef struct device_options {
    int device;        /* ordinal */
    compute_mode mode; /* asked for; NIB_UNSUPPORTED, with what there is, where the device has it not */
    bool mode_auto;    /* the fastest of the device that keeps to the quality bounds; MODE is ignored */
    bool eager;        /* no CUDA graphs */
} device_options;

typedef struct device_info {
    char name[96];
    int major, minor;      /* compute capability */
    size_t memory, free;   /* bytes */
    double read_bandwidth; /* bytes per second, measured; 0: not asked for */
    double tensor_flops;   /* BF16, per second at the highest clock; FP8 is twice that; 0: not known */
    bool run_here;         /* these kernels have run on this generation; else only their emulation has */
    char paths[512];       /* which kernels each format takes, a line each */
} device_info;

typedef struct backend_plugin {
    uint32_t abi; /* BACKEND_PLUGIN_ABI */
    nib_status (*open)(backend **out, const device_options *options, nib_error *err);
    /* The devices there are; *N 0 without a driver, and ERR says why. MEASURE: also their read bandwidth. */
    nib_status (*devices)(device_info list[BACKEND_MAX_DEVICES], size_t *n, bool measure, nib_error *err);
} backend_plugin;

#endif
