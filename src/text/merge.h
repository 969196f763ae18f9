/* SPDX-License-Identifier: Apache-2.0
 *
 * Merging symbols into pieces: again and again the adjacent pair of the best rank (lowest; the leftmost of
 * equals) becomes one symbol. Byte-pair encoding ranks a pair by its place in the list of merges,
 * SentencePiece by the score of the piece that the pair spells. Private to the text room.
 */
#ifndef TEXT_MERGE_H
#define TEXT_MERGE_H

#include "text/vocab.h"

typedef struct merge_slot {
    uint32_t left, right; /* ids */
    uint32_t rank;
    int32_t id; /* what they become; -1: an empty slot */
} merge_slot;

typedef struct merge_rules {
    merge_slot *slots; /* byte-pair encoding: the pairs; NULL: by text */
    size_t slot_mask, n_pairs;
    uint32_t *ranks; /* [n ids] by text: rank of a piece, from its score */
} merge_rules;

nib_status merge_rules_open_pairs(merge_rules *m, size_t n_pairs, nib_error *err);
/* Of two equal pairs the first stays, or the last with REPLACE. */
void merge_rules_add_pair(merge_rules *m, int32_t left, int32_t right, uint32_t rank, int32_t id,
                          bool replace);
nib_status merge_rules_open_scores(merge_rules *m, const float *scores, size_t n, nib_error *err);
void merge_rules_close(merge_rules *m);

typedef struct symbol {
    int32_t id;         /* -1: not a piece by itself */
    uint32_t offset, n; /* bytes of the text it stands for (by text only) */
    int32_t prev, next; /* -1: none; kept by merge_symbols */
} symbol;

/* Reusable memory of one encoding. Zero-initialize; freed with merge_work_free. */
typedef struct merge_work {
    symbol *symbols;
    size_t n, capacity;
    struct merge_candidate *heap;
    size_t n_heap, heap_capacity;
} merge_work;

void merge_work_free(merge_work *w);
nib_status merge_work_push(merge_work *w, int32_t id, uint32_t offset, uint32_t n, nib_error *err);

/* Merges work->symbols [n]; what remains is the chain from symbol 0 along next (symbol 0 never goes away).
 * TEXT is what the offsets count from. */
nib_status merge_symbols(merge_work *w, const merge_rules *rules, const vocab *v, const char *text,
                         nib_error *err);

#endif
