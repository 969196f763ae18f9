/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble inspect` prints for people. False: no memory. Caller: cmd_inspect.
 */
#ifndef CLI_INSPECT_TEXT_H
#define CLI_INSPECT_TEXT_H

#include "cli/findings.h"

/* With TENSORS, a line for each. */
bool inspect_text_print(const findings *r, bool tensors);
/* What the network takes on GPUs of several kinds. */
bool inspect_text_fit(const findings *r);

#endif
