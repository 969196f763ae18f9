/* SPDX-License-Identifier: Apache-2.0
 *
 * Every split of a piece into two pieces is a merge, ordered by the piece's score, then by the length of the
 * left and the right part, the way transformers converts such models.
 *
 * A stranger's pieces may be long, and made of each other in many ways. Both parts of a split are looked up
 * by hashes that one pass over the piece gives for all of them, so the work grows with the file's size and
 * not with a piece's length squared; what no reader of tokenizer.json would take is refused before it is
 * made.
 */
#include "export/spm_merges.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define HASH_FACTOR      UINT64_C(0x9E3779B97F4A7C15)
#define BYTES_AROUND     48 /* of a written merge: brackets, quotes, commas, lines, indentation */
#define FIRST_LIST_ITEMS 65536

typedef struct piece { /* sorted by hash, length, bytes */
    uint64_t hash;
    strview text;
    uint32_t id;
} piece;

typedef struct merge {
    uint32_t left, right, whole;
    uint32_t left_length, right_length; /* in characters */
    float score;
} merge;

typedef struct merger {
    const token_source *w;
    piece *pieces;
    size_t n_pieces;
    uint64_t *suffixes; /* hash of a piece from byte i on, for the piece at hand */
    merge *merges;
    size_t n, capacity;
    size_t bytes; /* as written */
    nib_error *err;
} merger;

/* hash(text) = sum of (byte + 1) * HASH_FACTOR^(bytes behind it), so that a longer text's follows either way.
 */
static uint64_t hash_append(uint64_t hash, char c) {
    return hash * HASH_FACTOR + (unsigned char)c + 1;
}

static int piece_compare(const void *a, const void *b) {
    const piece *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash > y->hash ? 1 : -1;
    if (x->text.n != y->text.n)
        return x->text.n > y->text.n ? 1 : -1;
    return memcmp(x->text.p, y->text.p, x->text.n);
}

static const piece *find_piece(const merger *m, const char *p, size_t n, uint64_t hash) {
    piece wanted = {.hash = hash, .text = {p, n}};
    return bsearch(&wanted, m->pieces, m->n_pieces, sizeof wanted, piece_compare);
}

/* Best score first; the longer left part, then the longer right part; then the order of the vocabulary. */
static int merge_compare(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_length != y->left_length)
        return x->left_length > y->left_length ? -1 : 1;
    if (x->right_length != y->right_length)
        return x->right_length > y->right_length ? -1 : 1;
    return (x->whole > y->whole) - (x->whole < y->whole);
}

static nib_status no_memory(const merger *m) {
    return nib_fail(m->err, NIB_NO_MEMORY, "%s: no memory for its merges", m->w->where);
}

static nib_status push(merger *m, merge one) {
    m->bytes += BYTES_AROUND + m->w->tokens[one.whole].n;
    if (m->bytes > TOKEN_SOURCE_MAX_JSON)
        return nib_fail(m->err, NIB_UNSUPPORTED,
                        "%s: tokenizer.ggml.tokens: its pieces make more merges than a tokenizer.json of %zu "
                        "MiB holds; write a GGUF file instead",
                        m->w->where, TOKEN_SOURCE_MAX_JSON >> 20);
    if (m->n == m->capacity) {
        size_t wanted = m->capacity ? m->capacity * 2 : FIRST_LIST_ITEMS;
        merge *grown = mem_resize(m->merges, wanted, sizeof *grown);
        if (!grown)
            return no_memory(m);
        m->merges = grown;
        m->capacity = wanted;
    }
    m->merges[m->n++] = one;
    return NIB_OK;
}

static bool is_border(char c) {
    return ((unsigned char)c & 0xc0) != 0x80;
}

/* Every split of piece ID into two pieces, at character borders. */
static nib_status split_piece(merger *m, uint32_t id) {
    strview text = m->w->tokens[id];
    uint32_t length = 0, left = 0;
    uint64_t hash = 0, power = 1;
    for (size_t i = text.n; i > 0; i--) {
        hash += power * ((unsigned char)text.p[i - 1] + UINT64_C(1));
        power *= HASH_FACTOR;
        m->suffixes[i - 1] = hash;
        length += is_border(text.p[i - 1]);
    }
    hash = 0;
    for (size_t cut = 1; cut < text.n; cut++) {
        hash = hash_append(hash, text.p[cut - 1]);
        if (!is_border(text.p[cut]))
            continue;
        left++;
        const piece *l = find_piece(m, text.p, cut, hash);
        const piece *r = l ? find_piece(m, text.p + cut, text.n - cut, m->suffixes[cut]) : NULL;
        if (r)
            NIB_TRY(
                push(m, (merge){l->id, r->id, id, left, length - left, m->w->scores ? m->w->scores[id] : 0}));
    }
    return NIB_OK;
}

/* Runs of spaces and lines are user-defined pieces, and merges reach them too. */
static bool is_mergeable(const token_source *w, size_t id) {
    int32_t type = token_source_type(w, id);
    return (type == TOKEN_NORMAL || type == TOKEN_USER) && w->tokens[id].n;
}

static nib_status list_pieces(merger *m) {
    size_t longest = 1;
    m->pieces = mem_array(m->w->n_tokens, sizeof *m->pieces);
    if (!m->pieces)
        return no_memory(m);
    for (size_t i = 0; i < m->w->n_tokens; i++) {
        strview text = m->w->tokens[i];
        uint64_t hash = 0;
        if (!is_mergeable(m->w, i))
            continue;
        for (size_t k = 0; k < text.n; k++)
            hash = hash_append(hash, text.p[k]);
        m->pieces[m->n_pieces++] = (piece){hash, text, (uint32_t)i};
        longest = text.n > longest ? text.n : longest;
    }
    if (m->n_pieces)
        qsort(m->pieces, m->n_pieces, sizeof *m->pieces, piece_compare);
    m->suffixes = mem_array(longest, sizeof *m->suffixes);
    return m->suffixes ? NIB_OK : no_memory(m);
}

static nib_status list_merges(merger *m) {
    NIB_TRY(list_pieces(m));
    for (size_t i = 0; i < m->w->n_tokens; i++)
        if (is_mergeable(m->w, i))
            NIB_TRY(split_piece(m, (uint32_t)i));
    if (m->n)
        qsort(m->merges, m->n, sizeof *m->merges, merge_compare);
    return NIB_OK;
}

static json_t *text_of(strview v) {
    return json_stringn(v.p, v.n);
}

static nib_status write_pairs(json_t *list, const merger *m) {
    for (size_t i = 0; i < m->n; i++) {
        strview left = m->w->tokens[m->merges[i].left], right = m->w->tokens[m->merges[i].right];
        if (json_array_append_new(list, json_pack("[o, o]", text_of(left), text_of(right))) != 0)
            return no_memory(m);
    }
    return NIB_OK;
}

nib_status spm_merges(json_t **out, const token_source *w, nib_error *err) {
    merger m = {.w = w, .err = err};
    *out = NULL;
    nib_status status = list_merges(&m);
    if (status == NIB_OK) {
        *out = json_array();
        status = *out ? write_pairs(*out, &m) : no_memory(&m);
    }
    if (status != NIB_OK) {
        json_decref(*out);
        *out = NULL;
    }
    mem_free(m.pieces);
    mem_free(m.suffixes);
    mem_free(m.merges);
    return status;
}
