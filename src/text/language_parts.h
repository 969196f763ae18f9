/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of languages share. Private to them.
 */
#ifndef TEXT_LANGUAGE_PARTS_H
#define TEXT_LANGUAGE_PARTS_H

#include "text/language.h"

/* Both make B fail and return NULL. */
void *language_no_memory(grammar_builder *b);
void *language_too_large(grammar_builder *b);

/* States found by their keys, numbered in the order of finding. */
typedef struct language_table {
    uint32_t *keys; /* words of each key, one after the other */
    size_t *from;   /* [n + 1] */
    uint32_t *slots;
    size_t n, words, capacity, words_capacity, mask;
} language_table;

bool language_table_open(language_table *t);
void language_table_free(language_table *t);
/* The number of KEY [n]; UINT32_MAX after a failure. */
uint32_t language_table_find(grammar_builder *b, language_table *t, const uint32_t *key, size_t n);

/* A language of as yet unknown size, at most N states: they move into the arena with language_settle. */
language *language_make_open(grammar_builder *b, arena *a, size_t n);
/* X with its states in the arena, NULL unless OK. */
const language *language_settle(grammar_builder *b, arena *a, language *x, bool ok);
/* Adds a step, joined to the last one where it goes on. S->steps has room. */
void language_add_step(language_state *s, uint32_t first, uint32_t last, uint32_t to);

#endif
