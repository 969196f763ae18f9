/* SPDX-License-Identifier: Apache-2.0
 *
 * A vocabulary sorted by bytes, written as nodes in that order.
 */
#include "text/trie.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/grammar.h"

typedef struct entry {
    strview text;
    int32_t id;
    unsigned group; /* entries of one part */
} entry;

/* The plain characters that TEXT begins with, at most TRIE_MAX_PLAIN; their bytes in *BYTES. */
static unsigned plain_start(strview text, size_t *bytes) {
    unsigned n = 0;
    *bytes = 0;
    while (*bytes < text.n && n < TRIE_MAX_PLAIN) {
        uint32_t code;
        unsigned bad;
        const unsigned one =
            utf8_decode((const unsigned char *)text.p + *bytes, text.n - *bytes, &code, &bad);
        if (one == 0 || code < 0x20 || code == '"' || code == '\\')
            break;
        *bytes += one;
        n++;
    }
    return n;
}

static int compare_entries(const void *x, const void *y) {
    const entry *a = x, *b = y;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    const int order = memcmp(a->text.p, b->text.p, a->text.n < b->text.n ? a->text.n : b->text.n);
    if (order)
        return order;
    if (a->text.n != b->text.n)
        return a->text.n < b->text.n ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* Adds the nodes of the sorted ENTRIES [n] to PART, which has room. */
static void add_nodes(trie_part *part, const entry *entries, size_t n) {
    uint32_t open[TRIE_MAX_TOKEN]; /* the nodes of LAST */
    strview last = {"", 0};
    for (size_t i = 0; i < n; i++) {
        const strview text = entries[i].text;
        size_t common = 0;
        while (common < last.n && common < text.n && last.p[common] == text.p[common])
            common++;
        for (size_t k = common; k < last.n; k++)
            part->nodes[open[k]].skip = (uint32_t)part->n - open[k];
        for (size_t k = common; k < text.n; k++) {
            open[k] = (uint32_t)part->n;
            part->nodes[part->n++] = (trie_node){0, (uint32_t)i, -1, (uint8_t)k, (uint8_t)text.p[k], {0}};
        }
        last = text;
        trie_node *end = &part->nodes[open[text.n - 1]];
        part->same[entries[i].id] = end->token;
        end->token = entries[i].id;
        part->order[part->n_order++] = entries[i].id;
    }
    for (size_t k = 0; k < last.n; k++)
        part->nodes[open[k]].skip = (uint32_t)part->n - open[k];
}

/* Heights, from the last node to the first, so that those below are known. */
static void find_heights(trie_part *part) {
    for (size_t i = part->n; i-- > 0;)
        for (size_t k = i + 1; k < i + part->nodes[i].skip; k += part->nodes[k].skip)
            for (int kind = 0; kind < TRIE_KINDS; kind++) {
                const trie_node *below = &part->nodes[k];
                uint8_t *height = &part->nodes[i].height[kind];
                if (!trie_is_kind(below->byte, (trie_kind)kind) || below->height[kind] >= TRIE_TOO_HIGH - 1)
                    *height = TRIE_TOO_HIGH;
                else if (*height <= below->height[kind])
                    *height = (uint8_t)(below->height[kind] + 1);
            }
}

/* A part of the ENTRIES at the front that are of one group; their number is taken off *N. */
static nib_status write_part(trie_part *part, int32_t *same, unsigned group, const entry **entries, size_t *n,
                             nib_error *err) {
    size_t bytes = 0, count = 0;
    for (; count < *n && (*entries)[count].group == group; count++)
        bytes += (*entries)[count].text.n;
    part->nodes = mem_alloc((bytes + 1) * sizeof *part->nodes);
    part->order = mem_alloc((count + 1) * sizeof *part->order);
    part->same = same;
    if (!part->nodes || !part->order)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a trie of the vocabulary");
    add_nodes(part, *entries, count);
    find_heights(part);
    trie_node *fitting = mem_resize(part->nodes, part->n + 1, sizeof *fitting);
    if (fitting)
        part->nodes = fitting;
    *entries += count;
    *n -= count;
    return NIB_OK;
}

static void set_bit(uint32_t *mask, int32_t id) {
    mask[id >> 5] |= UINT32_C(1) << (id & 31);
}

enum { PLAIN, OTHER };

trie_word trie_word_of(const tokenizer *t, int32_t id) {
    const trie_word word = {tokenizer_piece(t, id, true), tokenizer_is_control(t, id)};
    const bool fits = word.text.n > 0 && word.text.n + word.control <= TRIE_MAX_TOKEN &&
                      !memchr(word.text.p, GRAMMAR_CONTROL, word.text.n);
    return fits ? word : (trie_word){.text = {"", 0}};
}

/* The bytes of the control token that TEXT begins with, the longest; 0: none. */
static size_t control_at(const tokenizer *t, strview text) {
    for (size_t n = text.n < TRIE_MAX_TOKEN ? text.n : TRIE_MAX_TOKEN; n > 0; n--) {
        const strview part = {text.p, n};
        const int32_t id = tokenizer_find(t, part);
        if (id >= 0 && tokenizer_is_control(t, id) && strview_equal(tokenizer_piece(t, id, true), part))
            return n;
    }
    return 0;
}

nib_status trie_spell(const tokenizer *t, strview mark, text_buffer *out, nib_error *err) {
    static const char control[] = {(char)GRAMMAR_CONTROL};
    for (size_t i = 0, n; i < mark.n; i += n) {
        n = control_at(t, (strview){mark.p + i, mark.n - i});
        if (n > 0)
            NIB_TRY(text_buffer_append(out, control, 1, err));
        n = n > 0 ? n : 1;
        NIB_TRY(text_buffer_append(out, mark.p + i, n, err));
    }
    return NIB_OK;
}

/* Entries of what has a text, in order; the others become ends. CONTROLS has room for the control tokens. */
static size_t sort_tokens(trie *t, const tokenizer *words, entry *entries, char *controls) {
    size_t n = 0;
    for (int32_t id = 0; (size_t)id < tokenizer_vocab(words); id++) {
        const trie_word word = trie_word_of(words, id);
        strview text = word.text;
        size_t bytes;
        if (tokenizer_is_end(words, id)) {
            t->ends[t->n_ends++] = (uint32_t)id;
        } else if (text.n > 0) {
            if (word.control) {
                controls[0] = (char)GRAMMAR_CONTROL;
                memcpy(controls + 1, text.p, text.n);
                text = (strview){controls, text.n + 1};
                controls += text.n;
            }
            const unsigned plain = plain_start(text, &bytes);
            entries[n++] = (entry){text, id, bytes == text.n ? PLAIN : OTHER};
            t->single[(unsigned char)text.p[0]] |= text.n == 1;
            for (unsigned i = plain; bytes == text.n && i <= TRIE_MAX_PLAIN; i++)
                set_bit(t->at_most + (i - 1) * t->n_words, id);
        }
    }
    qsort(entries, n, sizeof *entries, compare_entries);
    return n;
}

/* The parts out of the sorted ENTRIES [n], which are changed. */
static nib_status write_parts(trie *t, entry *entries, size_t n, nib_error *err) {
    const entry *from = entries;
    size_t left = n;
    NIB_TRY(write_part(&t->plain, t->same, PLAIN, &from, &left, err));
    entry *const others = entries + (n - left);
    const size_t n_others = left;
    NIB_TRY(write_part(&t->other, t->same, OTHER, &from, &left, err));
    for (size_t i = 0; i < n_others; i++) {
        size_t bytes;
        others[i].group = plain_start(others[i].text, &bytes);
        others[i].text.p += bytes;
        others[i].text.n -= bytes;
    }
    qsort(others, n_others, sizeof *others, compare_entries);
    from = others;
    left = n_others;
    for (unsigned k = 0; k <= TRIE_MAX_PLAIN; k++)
        NIB_TRY(write_part(&t->tails[k], t->same_tail, k, &from, &left, err));
    return NIB_OK;
}

/* Bytes of all control tokens as the trie has them. */
static size_t control_bytes(const tokenizer *words) {
    size_t n = 0;
    for (int32_t id = 0; (size_t)id < tokenizer_vocab(words); id++)
        n += tokenizer_is_control(words, id) ? trie_word_of(words, id).text.n + 1 : 0;
    return n;
}

static nib_status fill(trie *t, const tokenizer *words, nib_error *err) {
    const size_t n = tokenizer_vocab(words) + 1;
    entry *entries = mem_array(n, sizeof *entries);
    char *controls = mem_alloc(control_bytes(words) + 1);
    t->same = mem_array(n, sizeof *t->same);
    t->same_tail = mem_array(n, sizeof *t->same_tail);
    t->at_most = mem_array(TRIE_MAX_PLAIN * t->n_words, sizeof *t->at_most);
    nib_status status = entries && controls && t->same && t->same_tail && t->at_most
                            ? write_parts(t, entries, sort_tokens(t, words, entries, controls), err)
                            : nib_fail(err, NIB_NO_MEMORY, "no memory for a trie of the vocabulary");
    mem_free(entries);
    mem_free(controls);
    return status;
}

nib_status trie_open(trie **out, const tokenizer *words, size_t n_tokens, nib_error *err) {
    *out = NULL;
    if (n_tokens == 0)
        n_tokens = tokenizer_vocab(words);
    if (n_tokens < tokenizer_vocab(words))
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu logits for a vocabulary of %zu tokens", n_tokens,
                        tokenizer_vocab(words));
    trie *t = mem_array(1, sizeof *t);
    if (!t)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a trie of the vocabulary");
    t->refs = 1;
    t->n_tokens = n_tokens;
    t->n_words = (n_tokens + 31) / 32;
    const nib_status status = fill(t, words, err);
    if (status != NIB_OK) {
        trie_release(t);
        return status;
    }
    *out = t;
    return NIB_OK;
}

trie *trie_share(trie *t) {
    __atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
    return t;
}

static void part_free(trie_part *part) {
    mem_free(part->nodes);
    mem_free(part->order);
}

void trie_release(trie *t) {
    if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    part_free(&t->plain);
    part_free(&t->other);
    for (unsigned k = 0; k <= TRIE_MAX_PLAIN; k++)
        part_free(&t->tails[k]);
    mem_free(t->same);
    mem_free(t->same_tail);
    mem_free(t->at_most);
    mem_free(t);
}
