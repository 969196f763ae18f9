/* SPDX-License-Identifier: Apache-2.0
 *
 * Added tokens: pieces found in the text itself before anything else is done to it (control tokens,
 * user-defined pieces). Two ways to choose among overlapping ones, because the references differ:
 * tokenizer.json takes the leftmost, of these the longest; llama.cpp takes the longest anywhere first.
 * Private to the text room.
 */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include "base/status.h"
#include "base/strview.h"

#define ADDED_MAX_BYTES 256 /* of one added token: bounds the time of a search */

typedef struct added_token {
    int32_t id;
    uint32_t bytes; /* of its text */
    bool special;   /* a control token: not looked for in user text */
    bool lstrip;    /* swallows white space before it */
    bool rstrip;    /* and after it */
} added_token;

typedef struct added_set {
    added_token *tokens;
    size_t n, capacity;
    struct added_node *nodes; /* a trie */
    size_t n_nodes, node_capacity;
    int32_t first[256];       /* nodes of the first bytes, -1: none */
    struct added_edge *edges; /* open addressing: (node, byte) -> node */
    size_t n_edges, edge_mask;
} added_set;

void added_open(added_set *s);
void added_close(added_set *s);
/* A token with the text of an earlier one takes its place. TOKEN.bytes is set here; TEXT is at most
 * ADDED_MAX_BYTES long. */
nib_status added_add(added_set *s, added_token token, strview text, nib_error *err);

/* One found token: bytes [start, end) of the text, strip flags applied. */
typedef struct added_match {
    size_t start, end;
    int32_t id;
} added_match;

typedef struct added_matches {
    added_match *list;
    size_t n, capacity;
} added_matches; /* zero-initialize; freed with added_matches_free */

void added_matches_free(added_matches *m);

/* Which tokens are looked for. All zero: every one. */
typedef struct added_rule {
    bool skip_special;          /* special tokens are plain text */
    bool only_special;          /* the others are */
    const unsigned char *marks; /* [n] or NULL: a special token with a marked byte is plain text */
} added_rule;

/* Both append to M, in text order. */
nib_status added_find_leftmost(const added_set *s, const char *text, size_t n, added_rule rule,
                               added_matches *m, nib_error *err);
nib_status added_find_longest(const added_set *s, const char *text, size_t n, added_rule rule,
                              added_matches *m, nib_error *err);

#endif
