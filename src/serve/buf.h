/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes that grow: a body that comes in, an answer that goes out. The first failure sticks, so that who
 * writes a whole answer looks once, at its end.
 */
#ifndef SERVE_BUF_H
#define SERVE_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"

typedef struct buf {
    char *bytes; /* [n] and a NUL; NULL while nothing was added */
    size_t n, capacity;
    bool failed; /* memory ran out, or what was to be added is none: what came since is lost */
} buf;           /* zero-initialize */

void buf_add(buf *b, const void *bytes, size_t n);
void buf_text(buf *b, const char *text);
void buf_print(buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* JSON, compact; takes the reference, NULL is a failure. */
void buf_json(buf *b, json_t *json);
/* TEXT, valid UTF-8, as a JSON string. */
void buf_json_text(buf *b, const char *text, size_t n);
void buf_base64(buf *b, const void *bytes, size_t n);
void buf_clear(buf *b); /* empty, its memory kept; a failure stays */
void buf_free(buf *b);

#endif
