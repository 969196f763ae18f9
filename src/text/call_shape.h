/* SPDX-License-Identifier: Apache-2.0
 *
 * The texts of calls of tools whose arguments keep to their schemas, as a grammar. Private to the text room.
 */
#ifndef TEXT_CALL_SHAPE_H
#define TEXT_CALL_SHAPE_H

#include "text/grammar.h"
#include "text/tokenizer.h"

/* TEXT is a JSON object: "tools", a list as in OpenAI's API; "name" of the one to call, else any; "format", a
 * name of chat_formats, without which a call is {"name": ..., "arguments": {...}}; "single": one call and no
 * more; "free": calls need not come: any text up to what begins one. T: whose control tokens the marks are.
 */
grammar_node call_shape_read(grammar_builder *b, strview text, const tokenizer *t);

#endif
