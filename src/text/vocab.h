/* SPDX-License-Identifier: Apache-2.0
 *
 * Vocabulary: id -> spelling (as the file has it), id -> decoded text, spelling -> id.
 * Filled once when a tokenizer opens, immutable afterwards. Private to the text room.
 */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include "base/status.h"
#include "base/strview.h"
#include "nouns/token_source.h"

typedef enum piece_kind {
    PIECE_ABSENT = 0, /* a hole in the ids, or an empty spelling: never found */
    PIECE_NORMAL,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER, /* user-defined: matched before everything else, not a control token */
    PIECE_UNUSED,
    PIECE_BYTE
} piece_kind;

typedef struct piece {
    uint32_t spelling, spelling_bytes; /* offsets into vocab.bytes */
    uint32_t text, text_bytes;
    piece_kind kind;
} piece;

typedef struct vocab {
    piece *pieces; /* [n] */
    size_t n;
    char *bytes;
    size_t n_bytes, bytes_capacity;
    uint64_t *slots; /* open addressing: hash bits above, id + 1 below; 0 is empty */
    size_t slot_mask;
} vocab;

#define VOCAB_MAX_IDS         ((size_t)1 << 24)
#define VOCAB_MAX_PIECE_BYTES TOKEN_SOURCE_MAX_PIECE

/* Room for N ids, all absent. BYTES is a guess of all spellings' size. */
nib_status vocab_open(vocab *v, size_t n, size_t bytes, nib_error *err);
void vocab_close(vocab *v);

/* Gives the absent ID its spelling (copied); the decoded text is the spelling until vocab_set_text. WHERE
 * names the file. A spelling that another id has already is refused. */
nib_status vocab_set(vocab *v, int32_t id, strview spelling, piece_kind kind, const char *where,
                     nib_error *err);
nib_status vocab_set_text(vocab *v, int32_t id, strview text, nib_error *err);

int32_t vocab_find(const vocab *v, const char *spelling, size_t n); /* -1: none */

static inline strview vocab_spelling(const vocab *v, int32_t id) {
    const piece *p = &v->pieces[id];
    return (strview){v->bytes + p->spelling, p->spelling_bytes};
}

static inline strview vocab_text(const vocab *v, int32_t id) {
    const piece *p = &v->pieces[id];
    return (strview){v->bytes + p->text, p->text_bytes};
}

/* Of N bytes; good enough for the tables here, not keyed. */
uint64_t vocab_hash(const char *p, size_t n);

#endif
