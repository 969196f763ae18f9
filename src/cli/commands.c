/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands that exist. `nibble --help` is printed from here.
 */
#include "cli/cli.h"

const cli_command cli_commands[] = {
    {NULL, NULL, NULL, NULL},
};
