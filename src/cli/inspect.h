/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble inspect --json` says of a model's file, for other commands.
 */
#ifndef CLI_INSPECT_H
#define CLI_INSPECT_H

#include "base/json.h"

/* Tensors by group and format, bits, the network's shape; not its words. *out is freed with json_decref. */
nib_status inspect_json(const char *path, json_t **out, nib_error *err);

#endif
