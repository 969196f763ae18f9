/* SPDX-License-Identifier: Apache-2.0
 *
 * Flags of a command that stand elsewhere: in the environment (NIBBLE_PORT=8000 is --port 8000) and in a file
 * (port = 8000, a line each). What is on the command line wins, then the environment, then the file.
 */
#ifndef CLI_SETTINGS_H
#define CLI_SETTINGS_H

#include "cli/cli.h"

typedef struct settings {
    char **argv; /* [argc] and a NULL: argv[0], the file's flags, the environment's, the rest of the given */
    char **origins; /* [argc] of each, as cli_set_origins wants them */
    int argc;
} settings;

/* A NIBBLE_ name that is none is warned of: it changes nothing. --config FILE is looked for in ARGV and left
 * in it. Freed with settings_free, also after a failure. */
nib_status settings_open(settings *s, const struct argp *argp, int argc, char **argv, nib_error *err);
void settings_free(settings *s);

#endif
