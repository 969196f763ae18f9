/* SPDX-License-Identifier: Apache-2.0
 *
 * Misspelled flags, and what somebody may have meant.
 */
#ifndef CLI_SUGGEST_H
#define CLI_SUGGEST_H

#include <argp.h>

/* The first word of ARGV that looks like a long flag and is none of ARGP's (nor its short form), without its
 * value: *n characters; NULL: there is none. llama.cpp's -ngl is one too. *NEAR: the flag that does the same,
 * or is nearest, NULL: none is. */
const char *suggest_flag(const struct argp *argp, int argc, char *const *argv, int *n, const char **near);

#endif
