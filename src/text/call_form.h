/* SPDX-License-Identifier: Apache-2.0
 *
 * One call as a family of models writes it, as a grammar: what chat_calls.c reads, with arguments that keep
 * to their schema. Callers: call_shape.c. Private to the text room.
 */
#ifndef TEXT_CALL_FORM_H
#define TEXT_CALL_FORM_H

#include "base/arena.h"
#include "text/chat_format.h"
#include "text/grammar.h"

#define CALL_FORM_MAX 16 /* calls or objects in a row */

typedef struct call_form {
    grammar_builder *b;
    const tokenizer *t;
    const chat_format
        *plain;        /* never NULL: a format without marks for {"name": ..., "arguments": ...} alone */
    chat_format marks; /* the same with its control tokens (trie_spell) */
    arena a;
} call_form;

/* F == NULL: the JSON object alone. Failures are the builder's. */
void call_form_open(call_form *m, grammar_builder *b, const tokenizer *t, const chat_format *f);
void call_form_close(call_form *m);

/* TEXT with the vocabulary's control tokens; "" for NULL. Lives as long as M. */
const char *call_form_spell(call_form *m, const char *text);
/* At most two line ends. */
grammar_node call_form_lines(call_form *m);

/* CHAT_BARE: what an object has before its name. */
const char *call_form_start(call_form *m);
/* From here on items begin behind that. */
void call_form_skip_start(call_form *m);

/* From the name of the function NAME to the end of its arguments and what belongs to them. SCHEMA: of the
 * arguments; LOOSE: as far as it can be held to, else any arguments. */
grammar_node call_form_item(call_form *m, strview name, const json_t *schema, bool loose);
/* What follows a format's call_open, when ITEM is one of its items. */
grammar_node call_form_opened(call_form *m, grammar_node item, bool single);

#endif
