/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble inspect --json` says of a model's file. Callers: cmd_inspect, and report for what it is about.
 */
#ifndef CLI_INSPECT_JSON_H
#define CLI_INSPECT_JSON_H

#include "base/json.h"
#include "cli/findings.h"

/* Tensors by group and format, bits, the network's shape; not its words. *out is freed with json_decref. */
nib_status inspect_json(const char *path, json_t **out, nib_error *err);
/* All of it to standard output: with TENSORS every tensor, with FIT what it takes on GPUs of several kinds.
 * False: no memory. */
bool inspect_json_print(const findings *r, bool tensors, bool fit);

#endif
