/* SPDX-License-Identifier: Apache-2.0
 *
 * Token source: where a model's words come from, as the file gives them. The store fills it, the text room
 * reads it. Owns nothing: the bytes live as long as the model file.
 */
#ifndef NOUNS_TOKEN_SOURCE_H
#define NOUNS_TOKEN_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "nouns/pretokenizer.h"

#define TOKEN_SOURCE_MAX_PIECE 65535               /* bytes of one piece of a vocabulary */
#define TOKEN_SOURCE_MAX_JSON  ((size_t)256 << 20) /* bytes of a tokenizer.json */

/* GGUF's numbers. */
typedef enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER,
    TOKEN_UNUSED,
    TOKEN_BYTE
} token_type;

typedef struct token_source {
    const char *where; /* the file's name, for sentences */

    /* Either a Hugging Face tokenizer.json (json.n > 0) ... */
    strview json;        /* tokenizer.json */
    strview config_json; /* tokenizer_config.json, may be empty */

    /* ... or GGUF metadata (n_tokens > 0). */
    strview model; /* "gpt2", "llama" or "gemma4" */
    strview pre;   /* a name of nouns/pretokenizer.h, or empty */
    size_t n_tokens;
    const strview *tokens;
    const float *scores;  /* [n_tokens] or NULL */
    const int32_t *types; /* [n_tokens] of token_type, or NULL: all normal */
    size_t n_merges;
    const strview *merges;                     /* "left right"; NULL: the file has no list */
    int32_t bos, eos, eot, unk, pad;           /* -1: none given */
    int8_t add_bos, add_eos, add_space_prefix; /* -1: not given */

    int32_t extra_eos[8]; /* further ids that end an answer (generation_config.json, config.json eos lists) */
    int32_t n_extra_eos;
    int32_t vocab; /* rows of the embedding: ids are below it; 0 when not known */

    strview chat_template; /* Jinja text, may be empty */
} token_source;

/* Words of which nothing is given yet. */
static inline token_source token_source_unset(const char *where) {
    return (token_source){.where = where,
                          .bos = -1,
                          .eos = -1,
                          .eot = -1,
                          .unk = -1,
                          .pad = -1,
                          .add_bos = -1,
                          .add_eos = -1,
                          .add_space_prefix = -1};
}

/* The type of the token ID, as the file gives it: a number of no token_type is possible. */
static inline int32_t token_source_type(const token_source *s, size_t id) {
    return s->types ? s->types[id] : TOKEN_NORMAL;
}

/* Of GGUF metadata. How text is cut before pairs are merged; NULL: by none of the ways that nibble knows, or
 * the words are SentencePiece's. A file that does not say is llama.cpp's "default". */
const pretokenizer *token_source_pre(const token_source *s);
/* Does BOS go in front? As the file says, else llama.cpp's default for the kind of words. */
bool token_source_adds_bos(const token_source *s);

#endif
