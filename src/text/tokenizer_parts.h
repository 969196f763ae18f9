/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a tokenizer: filled by tokenizer_gguf.c or tokenizer_json.c, read by tokenizer_encode.c and
 * tokenizer.c. Private to the text room.
 */
#ifndef TEXT_TOKENIZER_PARTS_H
#define TEXT_TOKENIZER_PARTS_H

#include "text/added.h"
#include "text/merge.h"
#include "text/splitter.h"
#include "text/tokenizer.h"

typedef enum algorithm {
    ALGORITHM_BYTE_PAIRS = 1, /* GPT-2: the symbols are bytes */
    ALGORITHM_CHAR_PAIRS,     /* tokenizer.json of SentencePiece models: characters, a list of merges */
    ALGORITHM_SCORES          /* GGUF "llama": characters, pieces with scores */
} algorithm;

/* tokenizers' Metaspace: U+2581 for every space, and one in front of text that has none there. */
typedef enum metaspace {
    METASPACE_NONE = 0,
    METASPACE_NEVER,
    METASPACE_FIRST, /* of what stands where the text begins */
    METASPACE_ALWAYS /* of all that stands between added tokens */
} metaspace;

#define TOKENIZER_MAX_ENDS 32

struct tokenizer {
    vocab words;
    algorithm algorithm;
    bool from_json;
    merge_rules rules;
    splitter splitter; /* ALGORITHM_BYTE_PAIRS */
    uint64_t *joins;   /* the other two: which neighbours occur inside a piece; NULL: nothing is known */
    int32_t byte_id[256];
    int32_t unk; /* -1: none */
    bool fuse_unk, ignore_merges;
    bool nfc, mark_spaces;
    bool prefix_space;    /* text begins with a space of its own ... */
    bool strip_space;     /* ... or did when it was cut: decoding takes it away */
    metaspace metaspace;  /* spaces are marked as text is cut, not before */
    bool split_marks;     /* words begin at them */
    bool whole_line_ends; /* a word of line ends that is a piece is not merged up to it */

    added_set added;            /* found in the text as given */
    added_set normalized_added; /* found after normalization (tokenizer.json) */

    int32_t bos;
    bool adds_bos;
    int32_t closing; /* see tokenizer_closing */
    int32_t ends[TOKENIZER_MAX_ENDS];
    size_t n_ends;
};

nib_status tokenizer_gguf_open(tokenizer *t, const token_source *source, nib_error *err);
nib_status tokenizer_json_open(tokenizer *t, const token_source *source, nib_error *err);

/* ---- shared by the two openers ---- */

/* Fills byte_id from the pieces <0x00> to <0xFF>; gives byte pieces their text. */
nib_status tokenizer_bind_byte_pieces(tokenizer *t, const char *where, nib_error *err);
/* Fills byte_id from the 256 characters of GPT-2's alphabet; gives all NORMAL pieces their text. */
nib_status tokenizer_bind_byte_letters(tokenizer *t, nib_error *err);
/* Text of NORMAL pieces: U+2581 becomes a space. */
nib_status tokenizer_bind_space_marks(tokenizer *t, nib_error *err);
/* Learns which characters may meet inside a piece, so that text can be cut where none do. */
nib_status tokenizer_learn_joins(tokenizer *t, nib_error *err);
/* The merge LEFT RIGHT (spellings) of rank RANK. */
nib_status tokenizer_add_merge(tokenizer *t, strview left, strview right, size_t rank, bool replace,
                               const char *where, nib_error *err);
/* Is SPELLING what ends a turn of some model, whatever type its file gives it? */
bool tokenizer_ends_by_name(strview spelling);
/* Adds the pieces that always end an answer by their names, and the ids of SOURCE. */
nib_status tokenizer_collect_ends(tokenizer *t, const token_source *source, nib_error *err);
nib_status tokenizer_add_end(tokenizer *t, int32_t id, const char *field, const char *where, nib_error *err);

/* GPT-2's spelling of a byte: the code of its character, below 0x144. */
uint32_t tokenizer_byte_letter(unsigned char byte);

#define JOIN_BITS 21
/* Where the pair of neighbours stands in the joins; a character is its UTF-8 bytes in one number. */
static inline uint32_t join_slot(uint32_t left, uint32_t right) {
    const uint64_t h = ((uint64_t)left << 32 | right) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(h >> (64 - JOIN_BITS));
}

/* The symbol at P as joins and merging see it: its bytes (by the lead byte, at most N) and their number. */
static inline unsigned symbol_at(const char *p, size_t n, uint32_t *key) {
    const unsigned char lead = (unsigned char)*p;
    unsigned bytes = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (bytes > n)
        bytes = (unsigned)n;
    *key = lead;
    for (unsigned i = 1; i < bytes; i++)
        *key = *key << 8 | (unsigned char)p[i];
    return bytes;
}

#endif
