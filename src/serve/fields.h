/* SPDX-License-Identifier: Apache-2.0
 *
 * Fields of a JSON object, read by tables: name, kind, bounds, and where in a struct the value goes. What is
 * in no table is refused: a field that changes the answer must never be passed over in silence. Fields that
 * change nothing here stand in the tables as FIELD_PASS. null is the same as not given.
 */
#ifndef SERVE_FIELDS_H
#define SERVE_FIELDS_H

#include <stddef.h>

#include "serve/api_error.h"

typedef enum field_kind {
    FIELD_BOOL,   /* bool */
    FIELD_INT,    /* int */
    FIELD_INT64,  /* int64_t */
    FIELD_REAL,   /* float; whole numbers too */
    FIELD_TEXT,   /* const char *, of the JSON */
    FIELD_OBJECT, /* const json_t *, borrowed; as the next two */
    FIELD_LIST,
    FIELD_JSON, /* whatever it is */
    FIELD_READ, /* by a function */
    FIELD_PASS, /* changes nothing here */
    FIELD_ONLY, /* one value, `min`, changes nothing here, and no other is to be had; `max` 1: it is a bool */
    FIELD_REFUSED, /* known, and not to be had; WHY says what instead */
} field_kind;

typedef struct field {
    const char *name;
    field_kind kind;
    size_t at;       /* offset in the target */
    double min, max; /* of numbers */
    bool (*read)(void *target, const json_t *value, const char *name, api_error *e);
    const char *why;
} field;

#define FIELD_END                                                                                            \
    { NULL, FIELD_PASS, 0, 0, 0, NULL, NULL }

/* Reads every member of OBJECT by TABLES (ends with NULL; a table ends with FIELD_END). WHERE goes before the
 * names in sentences: "" or "stream_options.". */
bool fields_read(const field *const *tables, void *target, const json_t *object, const char *where,
                 api_error *e);

bool fields_among(const char *name, const char *const *names); /* ends with NULL */

/* Every member of OBJECT that is not null is one of NAMES (ends with NULL): of parts that are read by hand.
 * WHERE names the object, for sentences. */
bool fields_known(const json_t *object, const char *const *names, const char *where, api_error *e);

#endif
