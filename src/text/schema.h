/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON Schema (draft 2020-12, and the older spellings of the same) to a grammar of the JSON texts it allows.
 *
 * What comes out is narrower than the schema in three ways that readers of the answer want: properties come
 * in the schema's order, the declared ones before others; white space is at most one space or one line end
 * with indentation between parts; numbers have at most SCHEMA_DIGITS digits on either side of the point and
 * two in the exponent. Whatever else cannot be held to is refused (NIB_UNSUPPORTED) with the keyword and its
 * JSON pointer; annotations and unknown keywords are passed over. Private to the text room.
 */
#ifndef TEXT_SCHEMA_H
#define TEXT_SCHEMA_H

#include "base/json.h"
#include "text/grammar.h"

#define SCHEMA_MAX_BYTES (1u << 20)
#define SCHEMA_DIGITS    18

/* How a family of models writes the arguments of a call that are no JSON document. */
typedef struct schema_form {
    const struct chat_format *marks; /* as a grammar has them (trie_spell) */
    strview stop;                    /* what ends raw text, as plain text: no text may hold it */
    bool repeats;                    /* any number of tags that are not declared */
} schema_form;

/* The node of the documents that the schema TEXT allows. */
grammar_node schema_read(grammar_builder *b, strview text);
/* The node of the arguments that the schema TEXT, of objects, allows, written as FORM (NULL: as JSON). */
grammar_node schema_read_as(grammar_builder *b, strview text, const schema_form *form);
/* Any JSON object. */
grammar_node schema_any_object(grammar_builder *b);

#endif
