/* SPDX-License-Identifier: Apache-2.0
 *
 * Trie: the texts of a vocabulary by their bytes, in the order of a walk, so that masks are found by walking
 * it with an automaton and skipping what is dead. Control tokens begin with GRAMMAR_CONTROL.
 *
 * "Plain" characters are those that stand for themselves in a JSON string (no quote, backslash or control).
 * Tokens of few plain characters are most of a vocabulary: they have a trie of their own, and masks by their
 * number of characters, so that states that take any plain text need not look at them. For such states the
 * other tokens stand a second time by what follows their plain characters.
 *
 * Made once per tokenizer, immutable afterwards: any thread may use it. Private to the text room.
 */
#ifndef TEXT_TRIE_H
#define TEXT_TRIE_H

#include "text/text_buffer.h"
#include "text/tokenizer.h"

#define TRIE_MAX_TOKEN 256 /* bytes, with GRAMMAR_CONTROL; longer tokens are never allowed */
#define TRIE_MAX_PLAIN 16  /* characters */

/* Kinds of bytes whose subtrees can be taken at once by a state that takes so many of them. */
typedef enum trie_kind { TRIE_LOWER, TRIE_LETTERS, TRIE_KINDS } trie_kind; /* a to z; and A to Z */

#define TRIE_TOO_HIGH 255

typedef struct trie_node {
    uint32_t skip; /* nodes of this subtree */
    uint32_t rank; /* place of its first token in trie_part.order */
    int32_t token; /* that ends here, -1: none */
    uint8_t depth; /* bytes before this one */
    uint8_t byte;
    uint8_t height[TRIE_KINDS]; /* bytes of the longest way below, when all below are of this kind */
} trie_node;

typedef struct trie_part {
    trie_node *nodes;
    size_t n;
    int32_t *order; /* [n_order]: tokens by their bytes */
    size_t n_order;
    int32_t *same; /* [vocabulary]: the next token with the same bytes, -1: none; shared by all but tails */
} trie_part;

typedef struct trie {
    trie_part plain; /* of 1 to TRIE_MAX_PLAIN plain characters */
    trie_part other;
    /* other, by the number of their first plain characters, without these */
    trie_part tails[TRIE_MAX_PLAIN + 1];
    int32_t *same, *same_tail;
    uint32_t *at_most; /* [TRIE_MAX_PLAIN, n_words]: plain tokens of at most i + 1 characters */
    uint32_t ends[32]; /* tokens that end an answer */
    size_t n_ends;
    size_t n_tokens, n_words; /* words of a mask: n_tokens / 32, rounded up */
    bool single[256];         /* a token is just this byte */
    int refs;
} trie;

static inline bool trie_is_kind(uint8_t byte, trie_kind kind) {
    return (byte >= 'a' && byte <= 'z') || (kind == TRIE_LETTERS && byte >= 'A' && byte <= 'Z');
}

/* The tokens of the subtree of node I are order[nodes[i].rank ... trie_end). */
static inline size_t trie_end(const trie_part *p, size_t i) {
    const size_t next = i + p->nodes[i].skip;
    return next < p->n ? p->nodes[next].rank : p->n_order;
}

/* What a token is to a grammar: its text, behind GRAMMAR_CONTROL for a control token. No text: it is never
 * allowed. */
typedef struct trie_word {
    strview text;
    bool control;
} trie_word;

trie_word trie_word_of(const tokenizer *t, int32_t id);
/* Appends MARK as a grammar has it, with GRAMMAR_CONTROL before each control token in it. */
nib_status trie_spell(const tokenizer *t, strview mark, text_buffer *out, nib_error *err);

/* N_TOKENS is the number of logits; at least the tokenizer's vocabulary, 0: as many. */
nib_status trie_open(trie **out, const tokenizer *t, size_t n_tokens, nib_error *err);
trie *trie_share(trie *t);
void trie_release(trie *t); /* NULL is fine */

#endif
