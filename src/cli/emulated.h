/* SPDX-License-Identifier: Apache-2.0
 *
 * How eval computes MODEL: as a device does, or as the CPU emulates other engines' formats of activations and
 * of keys and values: rounded as those do, then multiplied exactly (cpu.h).
 */
#ifndef CLI_EMULATED_H
#define CLI_EMULATED_H

#include "cpu/cpu.h"
#include "engine/loaded.h"

#include <argp.h>

typedef struct emulated {
    nib_options options; /* of what computes, here too */
    cpu_rounding rounding;
    bool round_kv;
    int rotate_qk; /* order of the matrix; 0: not */
} emulated;

/* --activations --kv-cache-dtype --rotate-qk and all of cli_device_argp; input: an emulated. */
extern const struct argp emulated_argp;

/* What computes where something is emulated, to be closed by its owner; else *out is NULL. */
nib_status emulated_backend(backend **out, const emulated *e, nib_error *err);

/* L, which is open, can be computed so: --rotate-qk fits its heads. */
nib_status emulated_check(const emulated *e, const loaded *l, nib_error *err);

/* Of the matrix that queries and keys are multiplied with; 0: none. */
int emulated_order(const emulated *e, const loaded *l);

/* What L computes with: "f32", "nvfp4", ...; "bf16", "nvfp4-rotated", ... */
const char *emulated_activations_name(const emulated *e, const loaded *l);
const char *emulated_kv_name(const emulated *e, const loaded *l);

#endif
