/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON from strangers, through jansson: duplicate keys, trailing bytes, invalid UTF-8 and depth bombs are
 * refused.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* WHERE names the file in the sentence. *out is freed with json_decref. Where memory runs out inside jansson
 * this is NIB_NO_MEMORY, or NIB_BAD_FILE when jansson does not tell. */
nib_status json_read(json_t **out, const void *bytes, size_t n, const char *where, nib_error *err);
/* The same of line LINE of WHERE, which is JSON by itself. */
nib_status json_read_line(json_t **out, const void *bytes, size_t n, const char *where, size_t line,
                          nib_error *err);
/* The same for what a model wrote: of a name that stands twice in an object the last value counts, as it does
 * for most readers. */
nib_status json_read_written(json_t **out, const void *bytes, size_t n, const char *where, nib_error *err);
/* A text of json_dumps, which jansson allocated; NULL is none. */
void json_text_free(char *text);

#endif
