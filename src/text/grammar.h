/* SPDX-License-Identifier: Apache-2.0
 *
 * Grammar: the one internal form of everything that holds an answer to a shape. Readers (schema.h, regex.h,
 * gbnf.h) build it out of nodes over bytes; grammar_compile turns the nodes into a program for a pushdown
 * automaton, which automaton.h runs.
 *
 * Control tokens are GRAMMAR_CONTROL and their text: no character of UTF-8 has that byte, so what stands for
 * text allows none of them, and what allows any byte allows them all.
 *
 * A builder keeps its first failure: constructors then return harmless nodes, and grammar_compile reports it,
 * so readers need no check at every step. Everything is bounded (GRAMMAR_MAX_...). Private to the text room.
 */
#ifndef TEXT_GRAMMAR_H
#define TEXT_GRAMMAR_H

#include "base/status.h"
#include "base/strview.h"

#define GRAMMAR_MAX_NODES   (1u << 18)
#define GRAMMAR_MAX_BYTES   (1u << 22) /* of literals */
#define GRAMMAR_MAX_RULES   (1u << 17)
#define GRAMMAR_MAX_PROGRAM (1u << 19) /* instructions */
#define GRAMMAR_MAX_REPEAT  1000000u
#define GRAMMAR_NO_MAX      UINT32_MAX
#define GRAMMAR_CONTROL     0xFF
#define GRAMMAR_MAX_DEPTH   256 /* rules and counted repeats inside each other while matching */
#define GRAMMAR_MAX_NESTING 200 /* of the text of a regex, GBNF or schema */

typedef struct grammar_builder grammar_builder;
typedef uint32_t grammar_node;
typedef struct grammar_span {
    uint32_t first, last;
} grammar_span; /* of code points */

#define GRAMMAR_NEVER ((grammar_node)0) /* matches nothing */
#define GRAMMAR_EMPTY ((grammar_node)1) /* matches the empty text */

nib_status grammar_builder_open(grammar_builder **out, nib_error *err);
void grammar_builder_close(grammar_builder *b); /* NULL is fine */

/* The first failure's status; its sentence goes to ERR. */
nib_status grammar_builder_status(const grammar_builder *b, nib_error *err);
/* Makes the builder fail, unless it has already; returns GRAMMAR_NEVER. */
grammar_node grammar_fail(grammar_builder *b, nib_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool grammar_failed(const grammar_builder *b);
/* Counts N more states of languages; false (the builder has failed) when they are too many. */
bool grammar_count_states(grammar_builder *b, size_t n, size_t limit);

grammar_node grammar_text(grammar_builder *b, strview bytes);
static inline grammar_node grammar_word(grammar_builder *b, const char *text) {
    return grammar_text(b, strview_of(text));
}
/* One of WORDS [n], which are put in order. */
grammar_node grammar_words(grammar_builder *b, strview *words, size_t n);
/* One byte from FIRST to LAST. */
grammar_node grammar_byte(grammar_builder *b, unsigned char first, unsigned char last);
/* One byte of those whose bits are set. */
grammar_node grammar_bytes(grammar_builder *b, const uint8_t set[32]);
/* One character of the code points in SPANS (ascending, apart), in UTF-8; surrogates are left out. */
grammar_node grammar_char(grammar_builder *b, const grammar_span *spans, size_t n);
grammar_node grammar_seq(grammar_builder *b, const grammar_node *parts, size_t n);
grammar_node grammar_alt(grammar_builder *b, const grammar_node *parts, size_t n);
/* MIN to MAX times X (GRAMMAR_NO_MAX: no limit). */
grammar_node grammar_repeat(grammar_builder *b, grammar_node x, uint32_t min, uint32_t max);
static inline grammar_node grammar_option(grammar_builder *b, grammar_node x) {
    return grammar_repeat(b, x, 0, 1);
}
/* X, with at most MAX grammar_tick in it; none of them inside another grammar_limit. X may not repeat itself
 * without a tick for ever, and has a way with no more than MAX. */
grammar_node grammar_limit(grammar_builder *b, grammar_node x, uint32_t max);
grammar_node grammar_tick(grammar_builder *b);
/* Any bytes up to the first of MARKS [n] and what THEN says of it; MAY_END: or none of them ever comes. */
typedef struct grammar_mark {
    strview text;
    grammar_node then;
    bool at_start; /* it is a mark only where the text begins with it */
} grammar_mark;
grammar_node grammar_until(grammar_builder *b, const grammar_mark *marks, size_t n, bool may_end);
#define GRAMMAR_SEQ(b, ...)                                                                                  \
    grammar_seq((b), (const grammar_node[]){__VA_ARGS__},                                                    \
                sizeof((const grammar_node[]){__VA_ARGS__}) / sizeof(grammar_node))
#define GRAMMAR_ALT(b, ...)                                                                                  \
    grammar_alt((b), (const grammar_node[]){__VA_ARGS__},                                                    \
                sizeof((const grammar_node[]){__VA_ARGS__}) / sizeof(grammar_node))

/* A rule is used before it is defined where it is recursive. NAME (may be NULL) is for sentences; copied. */
uint32_t grammar_rule(grammar_builder *b, strview name);
void grammar_define(grammar_builder *b, uint32_t rule, grammar_node body);
grammar_node grammar_use(grammar_builder *b, uint32_t rule);

/* ---- the program ---- */

typedef enum grammar_op {
    OP_SET,   /* a byte of sets[a], then next */
    OP_SPLIT, /* one of choices[a .. a + n) */
    OP_GOTO,  /* next */
    OP_CALL,  /* from a to its OP_RETURN, then next */
    OP_COUNT, /* counters[a]: min to max times its body, then next */
    OP_LIMIT, /* counters[a]: its body with at most max ticks, then next */
    OP_TICK,  /* next */
    OP_RETURN,
    OP_FAIL
} grammar_op;

typedef struct grammar_instruction {
    uint8_t op;
    uint32_t a, n, next;
} grammar_instruction;

typedef struct grammar_counter {
    uint32_t min, max, body;
} grammar_counter;

typedef struct grammar {
    grammar_instruction *program; /* [n_program] */
    size_t n_program;
    uint32_t *choices;
    grammar_counter *counters;
    uint8_t (*sets)[32];       /* bit b of a set: byte b is in it */
    uint64_t (*class_sets)[4]; /* the same sets by classes */
    uint32_t *least; /* [n_program] ticks that the way to OP_RETURN takes at least; NULL: there is no limit */
    uint16_t *needs; /* [n_program] depth that the way to OP_RETURN takes at least; more than
                      * GRAMMAR_MAX_DEPTH: there is none */
    uint32_t start;
    uint8_t classes[256]; /* bytes that no set tells apart have the same class */
    unsigned n_classes;
    uint8_t class_byte[256]; /* a byte of each class */
    int refs;
} grammar;

/* Program of ROOT. Refuses in words what nothing can match, left recursion, and what is too large. The
 * grammar is shared: grammar_share and grammar_release, which any thread may call. */
nib_status grammar_compile(grammar **out, grammar_builder *b, grammar_node root, nib_error *err);
grammar *grammar_share(grammar *g);
void grammar_release(grammar *g); /* NULL is fine */

static inline bool grammar_set_has(const uint8_t set[32], unsigned byte) {
    return set[byte >> 3] >> (byte & 7) & 1;
}

#endif
