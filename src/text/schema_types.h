/* SPDX-License-Identifier: Apache-2.0
 *
 * Which of JSON's types a schema lets in, as far as it says so: for formats of calls whose values have no
 * types, by those who write such calls as grammars and those who read them. Private to the text room.
 */
#ifndef TEXT_SCHEMA_TYPES_H
#define TEXT_SCHEMA_TYPES_H

#include "base/json.h"

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

unsigned schema_type_of_name(const char *name); /* 0: none of them */
unsigned schema_type_of_value(const json_t *value);
static inline unsigned schema_with_integers(unsigned types) { /* those of the numbers */
    return types | (types & TYPE_NUMBER ? TYPE_INTEGER : 0);
}
/* What the JSON pointer REF ("#/$defs/x") says of ROOT; NULL: nothing. */
json_t *schema_pointed(const json_t *root, const char *ref);
/* The types of what SCHEMA, a part of ROOT, lets in; 0: it says nothing of them. */
unsigned schema_types_of(const json_t *root, const json_t *schema);
/* The same of the property KEY of the objects that the schema ROOT lets in. */
unsigned schema_types_of_property(const json_t *root, const char *key);

#endif
