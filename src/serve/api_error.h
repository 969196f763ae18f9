/* SPDX-License-Identifier: Apache-2.0
 *
 * What a client is told when something is wrong: the kind (HTTP status and type), one sentence, the field.
 */
#ifndef SERVE_API_ERROR_H
#define SERVE_API_ERROR_H

#include <stdbool.h>

#include "base/json.h"

typedef enum api_kind {
    API_NO_ERROR = 0,
    API_INVALID,      /* 400 */
    API_TOO_LONG,     /* 400: a prompt that does not fit the context */
    API_UNAUTHORIZED, /* 401 */
    API_FORBIDDEN,    /* 403 */
    API_NOT_FOUND,    /* 404 */
    API_WRONG_METHOD, /* 405 */
    API_TOO_LARGE,    /* 413: a body */
    API_BUSY,         /* 429: the queue is full */
    API_FAILED,       /* 500: our fault; trying again does not help */
    API_UNAVAILABLE,  /* 503: loading, or going down */
    API_TOO_SLOW,     /* 504: the time limit of a request */
    API_N_KINDS
} api_kind;

typedef struct api_error {
    api_kind kind;
    char message[700];
    char param[96];      /* the field, or "" */
    const char *code;    /* a word for programs, or NULL */
    int n_prompt, n_ctx; /* of API_TOO_LONG */
} api_error;             /* zero-initialize */

/* Sets the first error; later ones are dropped. PARAM may be NULL. Returns false. */
bool api_error_set(api_error *e, api_kind kind, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same of what the library said. */
bool api_error_from(api_error *e, nib_status status, const nib_error *words);

int api_error_status(const api_error *e); /* of HTTP */

/* How the error is written. */
typedef enum api_style { API_STYLE_OPENAI = 0, API_STYLE_ANTHROPIC } api_style;

json_t *api_error_json(const api_error *e, api_style style); /* NULL: no memory */

#endif
