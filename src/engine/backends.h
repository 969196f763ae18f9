/* SPDX-License-Identifier: Apache-2.0
 *
 * Backends: from a device's name to what computes there. backends.c is the only file that names one.
 */
#ifndef ENGINE_BACKENDS_H
#define ENGINE_BACKENDS_H

#include "ops/ops.h"

/* OPTIONS: device, threads, cpu_features, activations. *threads is how many compute on the host. */
nib_status backends_open(backend **out, const nib_options *options, int *threads, nib_error *err);

#endif
