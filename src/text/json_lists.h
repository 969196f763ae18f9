/* SPDX-License-Identifier: Apache-2.0
 *
 * The two long lists of a tokenizer.json, model.vocab and model.merges, read where they stand: as a tree of
 * values they would take most of a second and 100 MB. The rest of the file goes to base/json.h.
 * As strict as that reader: what is no JSON is refused. Private to the text room.
 */
#ifndef TEXT_JSON_LISTS_H
#define TEXT_JSON_LISTS_H

#include "base/strview.h"
#include "text/text_buffer.h"

typedef struct json_lists {
    strview vocab;    /* "{...}" as in the file; empty: there is none */
    strview merges;   /* "[...]" */
    text_buffer rest; /* the file with {} and [] in their places */
} json_lists;         /* freed with json_lists_free, also after a failure */

nib_status json_lists_cut(json_lists *out, strview json, nib_error *err);
void json_lists_free(json_lists *lists);

/* A walk over one list. Zero-initialize but for REST; freed with json_lists_walk_free. */
typedef struct json_lists_walk {
    strview rest;
    const char *where; /* the file, for sentences */
    const char *field;
    text_buffer left, right; /* strings that had escapes */
    size_t n;                /* entries read */
    bool pairs;              /* merges: the form of the first, which all must have */
} json_lists_walk;

void json_lists_walk_free(json_lists_walk *w);

/* The next "piece": id of a vocabulary; *found is false at the end. The piece lives until the next call. */
nib_status json_lists_next_piece(json_lists_walk *w, strview *piece, int32_t *id, bool *found,
                                 nib_error *err);
/* No list of merges has more entries than this. */
size_t json_lists_merges_bound(strview list);
/* The next merge, ["left", "right"] or "left right". */
nib_status json_lists_next_merge(json_lists_walk *w, strview *left, strview *right, bool *found,
                                 nib_error *err);

#endif
