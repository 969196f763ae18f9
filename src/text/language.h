/* SPDX-License-Identifier: Apache-2.0
 *
 * Languages: sets of texts as deterministic automata over characters, for what a grammar cannot say directly:
 * both of two patterns, a pattern and a length, all names but some. All live in one arena; NULL stands for a
 * language that could not be made (the builder has failed), and every function passes it on.
 */
#ifndef TEXT_LANGUAGE_H
#define TEXT_LANGUAGE_H

#include "text/regex.h"

#define LANGUAGE_MAX_STATES 4096
#define LANGUAGE_MAX_TOTAL  (32 * LANGUAGE_MAX_STATES) /* of all languages of one builder */

typedef struct language_step {
    uint32_t first, last; /* code points */
    uint32_t to;
} language_step;

typedef struct language_state {
    language_step *steps; /* [n_steps], ascending, apart; elsewhere the text is not in the language */
    uint32_t n_steps;
    bool accepts;
} language_state;

typedef struct language {
    language_state *states; /* [n_states]; 0 is the start */
    uint32_t n_states;
} language;

const language *language_of_regex(grammar_builder *b, arena *a, const regex *r);
/* Texts of MIN to MAX characters (GRAMMAR_NO_MAX: no limit). */
const language *language_of_length(grammar_builder *b, arena *a, uint32_t min, uint32_t max);
const language *language_of_words(grammar_builder *b, arena *a, const strview *words, size_t n);
const language *language_and(grammar_builder *b, arena *a, const language *x, const language *y);
const language *language_not(grammar_builder *b, arena *a, const language *x);
bool language_is_empty(arena *a, const language *x);
bool language_has(const language *x, strview text); /* TEXT is valid UTF-8 */
/* One rule per state. */
grammar_node language_node(grammar_builder *b, const language *x, spelling how);

#endif
