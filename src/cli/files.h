/* SPDX-License-Identifier: Apache-2.0
 *
 * Small files that flags name: JSON, chat templates.
 */
#ifndef CLI_FILES_H
#define CLI_FILES_H

#include <stdbool.h>
#include <stdio.h>

#include "base/json.h"

/* Reads all of STREAM; *out is freed with mem_free. NAME stands in the sentence. */
nib_status files_read_stream(FILE *stream, const char *name, char **out, size_t *n, nib_error *err);
/* The same of a file, or of standard input for "-". */
nib_status files_read(const char *path, char **out, size_t *n, nib_error *err);
/* The same, of what must be a text: NIB_BAD_FILE where it holds a NUL or is no UTF-8. */
nib_status files_read_text(const char *path, char **out, size_t *n, nib_error *err);
nib_status files_check_text(const char *path, const char *text, size_t n, nib_error *err);
/* The JSON of a file, or of standard input for "-"; freed with json_decref. */
nib_status files_read_json(const char *path, json_t **out, nib_error *err);
/* NIB_BAD_ARGUMENT where writing OUT would replace SOURCE, a file that is read, or a directory (NULL: none).
 */
nib_status files_check_output(const char *out, const char *source, nib_error *err);
/* Whether the file OUT can be written, before what it is to hold is computed. Leaves nothing behind. */
nib_status files_try_output(const char *out, nib_error *err);
/* Whether PATH is the name of a template's file, not a model's. */
bool files_is_template(const char *path);

#endif
