/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the schema reader: schema.c walks, one file per kind of value writes. Private to them.
 */
#ifndef TEXT_SCHEMA_PARTS_H
#define TEXT_SCHEMA_PARTS_H

#include "text/language.h"
#include "text/schema.h"

typedef enum schema_type {
    TYPE_NULL = 1,
    TYPE_BOOLEAN = 2,
    TYPE_INTEGER = 4,
    TYPE_NUMBER = 8,
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_ALL = 127
} schema_type;

#define SCHEMA_MAX_PATH   256
#define SCHEMA_MAX_WORK   100000
#define SCHEMA_MAX_MERGES 4096

typedef struct schema_compiler {
    grammar_builder *b;
    arena a;
    json_t *root;
    json_t *made; /* an array that owns the schemas made by merging */
    struct schema_rule {
        const json_t *schema;
        uint32_t rule;
    } * rules; /* open addressing by the schema's address */
    size_t n_rules, rules_mask;
    struct schema_string_rule { /* strings that were asked for before, for formats are large */
        const json_t *asked[4]; /* pattern, format, minLength, maxLength */
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

/* ---- one file each ---- */

grammar_node schema_string(schema_compiler *c, const json_t *schema);
/* The language of a string schema's own limits, *FREE when there are none. NULL when refused (or free). */
const language *schema_string_language(schema_compiler *c, const json_t *schema, bool *is_free);
grammar_node schema_number(schema_compiler *c, const json_t *schema, bool integer);
grammar_node schema_free_number(schema_compiler *c, bool integer);
grammar_node schema_object(schema_compiler *c, json_t *schema);
grammar_node schema_array(schema_compiler *c, json_t *schema);

#endif
