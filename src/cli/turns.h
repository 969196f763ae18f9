/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of `nibble run` without a prompt: what a person types is answered, or is a command (\help lists
 * them).
 */
#ifndef CLI_TURNS_H
#define CLI_TURNS_H

#include "cli/reply.h"

/* Until \q, the end of the input, or Ctrl-C twice. A failed turn says why and the chat goes on; memory that
 * ran out ends it. */
nib_status turns_run(reply *a, nib_error *err);

#endif
