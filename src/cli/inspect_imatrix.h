/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble inspect` says of an importance matrix (eval/imatrix.h): which statistics it has, of how many
 * layers, and what quantizing takes them for. Caller: cmd_inspect.
 */
#ifndef CLI_INSPECT_IMATRIX_H
#define CLI_INSPECT_IMATRIX_H

#include "base/status.h"

/* Is PATH a GGUF file of that type? False for whatever cannot be read: who opens it says why. */
bool inspect_imatrix_is(const char *path);
/* As text or JSON; with TENSORS the largest magnitudes of every input. */
nib_status inspect_imatrix_print(const char *path, bool json, bool tensors, nib_error *err);

#endif
