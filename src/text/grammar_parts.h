/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a grammar builder: filled by grammar_build.c, read by grammar_compile.c. Private to the two.
 */
#ifndef TEXT_GRAMMAR_PARTS_H
#define TEXT_GRAMMAR_PARTS_H

#include "text/grammar.h"

typedef enum node_kind {
    NODE_NEVER,
    NODE_EMPTY,
    NODE_SET,    /* sets[a] */
    NODE_TEXT,   /* bytes[a .. a + n) */
    NODE_SEQ,    /* kids[a .. a + n) */
    NODE_ALT,    /* kids[a .. a + n) */
    NODE_REPEAT, /* a, min to max times */
    NODE_RULE,   /* rules[a] */
    NODE_LIMIT,  /* a, max ticks */
    NODE_TICK
} node_kind;

typedef struct node {
    uint8_t kind;
    uint32_t a, n; /* of NODE_REPEAT n is the least number */
    uint32_t max;
} node;

typedef struct rule {
    grammar_node body;
    uint32_t name, name_bytes; /* in bytes */
    bool defined;
} rule;

struct grammar_builder {
    node *nodes;
    size_t n_nodes, nodes_capacity;
    grammar_node *kids;
    size_t n_kids, kids_capacity;
    char *bytes;
    size_t n_bytes, bytes_capacity;
    uint8_t (*sets)[32];
    size_t n_sets, sets_capacity;
    rule *rules;
    size_t n_rules, rules_capacity;
    bool has_limits;
    size_t n_language_states; /* made so far, counted by language.c */
    nib_status status;
    nib_error err;
};

/* Room for EXTRA more of SIZE bytes each in *LIST; false when the builder has failed. */
bool grammar_reserve(grammar_builder *b, void *list, size_t *capacity, size_t n, size_t extra, size_t size,
                     size_t limit);
uint32_t grammar_set(grammar_builder *b, const uint8_t set[32]);

#endif
