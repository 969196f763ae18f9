/* SPDX-License-Identifier: Apache-2.0
 *
 * Backends: from a device's name to what computes there. backends.c is the only file that names one.
 */
#ifndef ENGINE_BACKENDS_H
#define ENGINE_BACKENDS_H

#include "ops/plugin.h"

/* OPTIONS: device, threads, cpu_features, activations. *threads is how many compute on the host. "auto" is
 * the first GPU where libnibble_cuda.so and a device are there, else the CPU. */
nib_status backends_open(backend **out, const nib_options *options, int *threads, nib_error *err);

/* What AUTO became. */
nib_activations backends_activations(const backend *be);

/* The GPUs there are; MEASURE: with their read bandwidth. NIB_UNSUPPORTED, and why, where there is none. */
nib_status backends_gpus(device_info list[BACKEND_MAX_DEVICES], size_t *n, bool measure, nib_error *err);

#endif
