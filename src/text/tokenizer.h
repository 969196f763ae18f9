/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizer: bytes to ids and back, exactly as the model's own tokenizer does it.
 *
 * Any bytes are text: invalid UTF-8 becomes U+FFFD where the reference replaces it (tokenizer.json) and
 * follows llama.cpp otherwise. A tokenizer is immutable once open: any thread may use it.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/status.h"
#include "nouns/token_source.h"

typedef struct tokenizer tokenizer;

/* Copies what it needs from SOURCE. */
nib_status tokenizer_open(tokenizer **out, const token_source *source, nib_error *err);
void tokenizer_close(tokenizer *t);

typedef struct token_list {
    int32_t *ids;
    size_t n, capacity;
} token_list; /* zero-initialize; freed with token_list_free */

nib_status token_list_push(token_list *list, int32_t id, nib_error *err);
void token_list_free(token_list *list);

#define TOKENIZE_NO_SPECIAL 1u /* control tokens in TEXT are plain text */

/* Appends the ids of TEXT; never adds BOS (tokenizer_adds_bos says whether the model wants one). */
nib_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, token_list *out,
                            nib_error *err);

/* The same of a text whose bytes with marks[i] == 1 are a user's: a control token that has one of them is
 * plain text, all others are found. TEXT is valid UTF-8. */
nib_status tokenizer_encode_marked(const tokenizer *t, const char *text, size_t n, const unsigned char *marks,
                                   token_list *out, nib_error *err);

size_t tokenizer_vocab(const tokenizer *t);
bool tokenizer_adds_bos(const tokenizer *t);
int32_t tokenizer_bos(const tokenizer *t); /* -1: none */
/* What the files put behind a text that is complete, as models of embeddings want it; -1: nothing. */
int32_t tokenizer_closing(const tokenizer *t);
bool tokenizer_is_end(const tokenizer *t, int32_t id); /* ends an answer: eos, eot and their like */
bool tokenizer_is_control(const tokenizer *t, int32_t id);
int32_t tokenizer_find(const tokenizer *t,
                       strview piece); /* id of an exact (added or vocabulary) piece, -1: none */

/* The bytes of one id as decoded text (control tokens give none unless with_control); lives as long as T. */
strview tokenizer_piece(const tokenizer *t, int32_t id, bool with_control);

/* Streaming decoder: gives only whole UTF-8 characters, holds the rest back. Zero-initialize. */
typedef struct detokenizer {
    unsigned char held[8];
    size_t n_held;
    bool started;
} detokenizer;

/* Bytes that OUT must have room for when a piece of N bytes is pushed: every byte may become a U+FFFD. */
#define DETOKENIZER_ROOM(n) (3 * ((n) + 8))

/* Writes to OUT (room for DETOKENIZER_ROOM(tokenizer_piece(...).n) bytes) and returns how many bytes it
 * wrote. Invalid sequences become U+FFFD. FLUSH gives out what is held (room for DETOKENIZER_ROOM(0)). */
size_t detokenizer_push(const tokenizer *t, detokenizer *d, int32_t id, bool with_control, char *out);
size_t detokenizer_flush(detokenizer *d, char *out);

#endif
