/* SPDX-License-Identifier: Apache-2.0
 *
 * A Jinja interpreter, as large as chat templates need: what transformers renders, it renders the same, with
 * steps, depth and memory bounded. Private to the text room; callers: chat*.c, tests, fuzz targets.
 *
 * Left out, and refused in words: include, import, extends, block, recursive loops, autoescape.
 */
#ifndef TEXT_JINJA_H
#define TEXT_JINJA_H

#include "base/json.h"
#include "base/status.h"
#include "base/strview.h"

typedef struct jinja_template jinja_template;

#define JINJA_MAX_SOURCE ((size_t)1 << 20)

/* NIB_BAD_FILE: it is no Jinja or no UTF-8; the sentence names the line. SOURCE is copied. A template is
 * immutable once open: any thread may render it. */
nib_status jinja_open(jinja_template **out, strview source, nib_error *err);
void jinja_close(jinja_template *t); /* NULL is fine */

/* Whether the template reads or sets a variable of that name. */
bool jinja_names(const jinja_template *t, const char *name);

/* A variable given to the template. */
typedef struct jinja_variable {
    const char *name;
    const json_t *json; /* its strings are a user's */
    strview text;       /* when json is NULL: a text of the template's side (bos_token) */
} jinja_variable;

typedef struct jinja_options {
    const jinja_variable *variables; /* a later one takes the place of an earlier of the same name */
    size_t n_variables;
    /* Strings under this key of the elements of the variable "messages" are the template's, where they are
     * one of these names: roles become part of control tokens. */
    const char *const *roles; /* ends with NULL */
    int64_t now;              /* seconds since 1970, for strftime_now; 0: the clock's */
    uint64_t max_steps;       /* 0: 20 million */
    size_t max_bytes;         /* of memory; 0: 512 MiB */
} jinja_options;

/* What was rendered. marks[i] is 1 where byte i came from a user. */
typedef struct jinja_output {
    char *text; /* valid UTF-8, ends with a NUL that n does not count */
    unsigned char *marks;
    size_t n;
} jinja_output;

/* NIB_BAD_ARGUMENT: what the template raised, in its own words, or what it did wrong. */
nib_status jinja_render(const jinja_template *t, const jinja_options *o, jinja_output *out, nib_error *err);
void jinja_output_free(jinja_output *o);

#endif
