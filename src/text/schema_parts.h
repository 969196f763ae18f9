/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the schema reader: schema.c walks, one file per kind of value writes. Private to them.
 */
#ifndef TEXT_SCHEMA_PARTS_H
#define TEXT_SCHEMA_PARTS_H

#include "text/language.h"
#include "text/schema.h"
#include "text/schema_types.h"

#define SCHEMA_MAX_PATH   256
#define SCHEMA_MAX_WORK   100000
#define SCHEMA_MAX_MERGES 4096

typedef enum schema_mode {
    SCHEMA_JSON,       /* strings between quotes */
    SCHEMA_PARAMETERS, /* an object's members as tags */
    SCHEMA_RAW         /* a string's text as it is, all else as JSON: the value of a tag */
} schema_mode;

/* How values are written where the walk is. */
typedef struct schema_manner {
    uint8_t mode;
    uint8_t only;    /* of these types */
    uint8_t mistake; /* SCHEMA_RAW: what text would be read as when it looks like it */
} schema_manner;

typedef struct schema_compiler {
    grammar_builder *b;
    arena a;
    json_t *root;
    const schema_form *form; /* NULL: JSON */
    schema_manner manner;
    bool bare;                 /* FORM: names stand as they are, and strings between its own quotes */
    grammar_node quote;        /* around strings */
    const language *raw_texts; /* FORM: all texts without its stop */
    uint32_t raw;              /* the same as a rule */
    json_t *made;              /* an array that owns the schemas made by merging */
    struct schema_rule {
        const json_t *schema;
        schema_manner manner;
        uint32_t rule;
    } * rules; /* open addressing by the schema's address */
    size_t n_rules, rules_mask;
    struct schema_string_rule { /* strings that were asked for before, for formats are large */
        const json_t *asked[4]; /* pattern, format, minLength, maxLength */
        schema_manner manner;
        uint32_t rule;
    } strings[32];
    size_t n_strings;
    unsigned depth;
    unsigned merges;            /* made so far */
    unsigned *work;             /* schemas walked, shared with compilers that only judge an enum */
    char path[SCHEMA_MAX_PATH]; /* a JSON pointer, for sentences */
    /* rules that all share */
    uint32_t blank, string, value, key, object, array, integer, number;
} schema_compiler;

static inline bool schema_manner_is(schema_manner x, schema_manner y) {
    return x.mode == y.mode && x.only == y.only && x.mistake == y.mistake;
}
/* Do strings stand as they are here? */
static inline bool schema_is_raw(const schema_compiler *c) {
    return c->bare || c->manner.mode == SCHEMA_RAW;
}

/* ---- schema.c ---- */

/* "KEYWORD at POINTER: WHAT"; GRAMMAR_NEVER. */
grammar_node schema_refuse(schema_compiler *c, const char *keyword, const char *what);
/* The documents of SCHEMA, which stands at STEP (and NEXT) below where the walk is; both may be NULL. */
grammar_node schema_node(schema_compiler *c, json_t *schema, const char *step, const char *next);
/* What $ref points at, NULL when refused. */
json_t *schema_resolve(schema_compiler *c, const char *ref);
/* A number of things: fills *OUT (unchanged when there is no KEYWORD); false when refused. */
bool schema_count(schema_compiler *c, const json_t *schema, const char *keyword, uint32_t *out);
grammar_node schema_literal(schema_compiler *c, const json_t *value);
/* Nothing, a space, or a line end and indentation. */
static inline grammar_node schema_blank(schema_compiler *c) {
    return grammar_use(c->b, c->blank);
}
grammar_node schema_comma(schema_compiler *c);
/* INSIDE as a string here: between quotes, but for raw texts. */
grammar_node schema_quoted(schema_compiler *c, grammar_node inside);
/* Any value, of the types that may stand here. */
grammar_node schema_any(schema_compiler *c);
/* Member NAME of an object, up to its value. */
grammar_node schema_name(schema_compiler *c, const char *name);
/* A member whose name is one of NAMES. */
grammar_node schema_names(schema_compiler *c, const language *names);
/* {"allOf": [X, Y]}, or the one that is not NULL; owned by C. */
json_t *schema_both(schema_compiler *c, json_t *x, json_t *y);
/* Takes over MADE (NULL: no memory); NULL after a failure. */
json_t *schema_own(schema_compiler *c, json_t *made);

/* ---- schema_merge.c ---- */

/* One schema that allows what both allow; owned by C. NULL when refused. */
json_t *schema_merge(schema_compiler *c, json_t *x, json_t *y);
/* SCHEMA without a keyword; owned by C. */
json_t *schema_without(schema_compiler *c, json_t *schema, const char *keyword);
/* Does SCHEMA say anything but annotations? */
bool schema_constrains(const json_t *schema);
/* No document is allowed by both, as far as can be seen. */
bool schema_apart(schema_compiler *c, json_t *x, json_t *y, unsigned depth);
unsigned schema_types(schema_compiler *c, const json_t *schema);

/* ---- schema_form.c ---- */

void schema_form_start(schema_compiler *c); /* fills what the form decides */
/* May TEXT stand raw here? */
bool schema_is_raw_text(const schema_compiler *c, strview text);
/* The texts of X that may stand raw here; NULL after a failure. */
const language *schema_raw_language(schema_compiler *c, const language *x);
/* Any text that may stand raw here, of MIN to MAX characters. */
grammar_node schema_raw_text(schema_compiler *c, uint32_t min, uint32_t max);
/* The parameter NAME (NULL: one that is not declared) with a value of SCHEMA (NULL: any), as a tag. */
grammar_node schema_parameter(schema_compiler *c, const char *name, json_t *schema);
/* Names that can stand bare. */
const language *schema_bare_names(schema_compiler *c);

/* ---- one file each ---- */

grammar_node schema_string(schema_compiler *c, const json_t *schema);
/* The language of a string schema's own limits, *FREE when there are none. NULL when refused (or free). */
const language *schema_string_language(schema_compiler *c, const json_t *schema, bool *is_free);
grammar_node schema_number(schema_compiler *c, const json_t *schema, bool integer);
grammar_node schema_free_number(schema_compiler *c, bool integer);
grammar_node schema_object(schema_compiler *c, json_t *schema);
grammar_node schema_array(schema_compiler *c, json_t *schema);

#endif
