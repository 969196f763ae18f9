/* SPDX-License-Identifier: Apache-2.0
 *
 * GBNF, the grammar notation of llama.cpp: rules `name ::= ...` of literals, classes, groups, alternatives
 * and repetitions; the answer is the rule "root". Private to the text room.
 */
#ifndef TEXT_GBNF_H
#define TEXT_GBNF_H

#include "text/grammar.h"

#define GBNF_MAX_BYTES (1u << 18)
#define GBNF_MAX_RULES 2048

/* The node of "root"; sentences name the line. */
grammar_node gbnf_read(grammar_builder *b, strview text);

#endif
