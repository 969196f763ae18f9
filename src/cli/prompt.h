/* SPDX-License-Identifier: Apache-2.0
 *
 * The text of one prompt: an argument, a file, standard input, or an argument and the document that it is
 * about.
 */
#ifndef CLI_PROMPT_H
#define CLI_PROMPT_H

#include <stdbool.h>

#include "nibble.h"

typedef struct prompt_source {
    const char *words; /* the argument, "-": standard input; NULL: none */
    const char *file;  /* "-": standard input; NULL: none */
    bool keep_stdin;   /* beside words or a file standard input is for something else */
} prompt_source;

/* *text: words first, then, behind an empty line, what the file or a pipe at standard input holds; freed with
 * mem_free. NULL: nothing is given and a person sits at standard input. A text of blanks is NIB_BAD_ARGUMENT,
 * one that is no UTF-8 NIB_BAD_FILE. */
nib_status prompt_read(const prompt_source *from, char **text, nib_error *err);

#endif
