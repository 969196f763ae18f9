/* SPDX-License-Identifier: Apache-2.0
 *
 * The texts of calls of tools whose arguments keep to their schemas, as a grammar. Private to the text room.
 */
#ifndef TEXT_CALL_SHAPE_H
#define TEXT_CALL_SHAPE_H

#include "text/grammar.h"

#define CALL_SHAPE_MAX_CALLS 16 /* of one answer */

/* TEXT is a JSON object: "tools", a list as in OpenAI's API; "name" of the one to call, else any; "format", a
 * name of chat_formats; "single": one call and no more. Calls are written as the format writes them where
 * their arguments are JSON there, else (and without a format) as {"name": ..., "arguments": {...}}. */
grammar_node call_shape_read(grammar_builder *b, strview text);

#endif
