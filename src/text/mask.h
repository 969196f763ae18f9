/* SPDX-License-Identifier: Apache-2.0
 *
 * Masks: which tokens of a vocabulary may come next in a state of an automaton, bit set = allowed. Masks that
 * took a walk are kept, a bounded number of them. One thread at a time. Private to the text room.
 */
#ifndef TEXT_MASK_H
#define TEXT_MASK_H

#include "text/automaton.h"
#include "text/trie.h"

#define MASK_KEPT 256 /* masks of one automaton */

typedef struct mask_cache {
    automaton *a; /* owned */
    trie *words;  /* shared */
    struct mask_slot {
        uint32_t state;
        bool used;      /* since the hand came by */
        uint32_t *bits; /* [n_words] */
    } slots[MASK_KEPT];
    size_t n_slots, hand;
} mask_cache;

nib_status mask_open(mask_cache **out, grammar *g, trie *words, nib_error *err); /* shares both */
void mask_close(mask_cache *m);                                                  /* NULL is fine */

/* Writes the mask of STATE to BITS [n_words]. Tokens that end an answer are allowed exactly where the text is
 * complete. A token is left out when it would end inside a
 * character that no token could finish. */
nib_status mask_find(mask_cache *m, uint32_t state, uint32_t *bits, nib_error *err);

/* The state after WORD; AUTOMATON_DEAD when it does not go on so. */
uint32_t mask_step(mask_cache *m, uint32_t state, trie_word word);

#endif
