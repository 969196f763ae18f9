/* SPDX-License-Identifier: Apache-2.0
 *
 * Characters as a grammar writes them: as they are, or inside a JSON string. In a JSON string every character
 * has one spelling here (itself, its short escape, or \u00XX), so that languages of strings can be compared;
 * only spell_free_char takes all of JSON's escapes. Private to the text room.
 */
#ifndef TEXT_SPELL_H
#define TEXT_SPELL_H

#include "text/grammar.h"

typedef enum spelling {
    SPELL_PLAIN,
    SPELL_JSON,
    SPELL_JSON_COUNTED /* and each character is a tick of grammar_limit */
} spelling;

#define SPELL_LAST_CODE 0x10FFFFu

/* One character out of SPANS (ascending, apart). */
grammar_node spell_char(grammar_builder *b, const grammar_span *spans, size_t n, spelling how);
/* TEXT is valid UTF-8. */
grammar_node spell_text(grammar_builder *b, strview text, spelling how);
/* A character of a JSON string in any of its spellings. */
grammar_node spell_free_char(grammar_builder *b);

#endif
