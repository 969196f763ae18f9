/* SPDX-License-Identifier: Apache-2.0
 *
 * A Jinja template to tokens, with the white-space rules that transformers sets: trim_blocks, lstrip_blocks,
 * the last line end dropped. Private to the text room; caller: jinja_parser.c.
 */
#ifndef TEXT_JINJA_LEXER_H
#define TEXT_JINJA_LEXER_H

#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/strview.h"

typedef enum jinja_token_kind {
    JINJA_T_EOF = 0,
    JINJA_T_DATA, /* text outside tags */
    JINJA_T_VARIABLE_BEGIN,
    JINJA_T_VARIABLE_END,
    JINJA_T_BLOCK_BEGIN,
    JINJA_T_BLOCK_END,
    JINJA_T_NAME,
    JINJA_T_STRING, /* text: escapes undone */
    JINJA_T_INTEGER,
    JINJA_T_FLOAT,
    JINJA_T_OPERATOR /* text: the operator */
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    int line;
    strview text;
} jinja_token;

typedef struct jinja_tokens {
    jinja_token *list; /* the last is JINJA_T_EOF */
    size_t n, capacity;
} jinja_tokens;

/* SOURCE is valid UTF-8. Tokens are the caller's (mem_free of list), their texts live in MEMORY. */
nib_status jinja_lex(strview source, arena *memory, jinja_tokens *out, nib_error *err);

#endif
