/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to ids: added tokens are found, what lies between is normalized, cut into words, and each word is
 * merged into pieces. A small table of the words met in this call spares most of the merging.
 */
#include <assert.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/normalize.h"
#include "text/split_pattern.h"
#include "text/tokenizer_parts.h"

#define CACHED_WORD_BYTES 24
#define CACHE_FROM_BYTES  512 /* of text: less is not worth a table */

typedef struct cached_word {
    char text[CACHED_WORD_BYTES];
    uint32_t n_text; /* 0: empty */
    uint32_t n_ids;
    size_t first; /* its ids are out->ids[first .. first + n_ids) */
} cached_word;

typedef struct encoder {
    const tokenizer *t;
    added_rule rule;
    const unsigned char *marks; /* tokenizer_encode_marked's */
    token_list *out;
    merge_work work;
    text_buffer normal;   /* the current fragment, normalized */
    text_buffer spelling; /* a word in GPT-2's letters (ignore_merges) */
    text_buffer marked;   /* what is cut now, its spaces marked (metaspace) */
    added_matches found, found_later;
    cached_word *cache;
    size_t cache_mask;
    uint64_t split_work; /* left for all fragments together */
} encoder;

static nib_status emit(encoder *e, int32_t id, nib_error *err) {
    return token_list_push(e->out, id, err);
}

/* ---- one word to ids ---- */

static nib_status merge_and_emit(encoder *e, const char *text, nib_error *err) {
    const tokenizer *t = e->t;
    if (e->work.n == 0)
        return NIB_OK;
    NIB_TRY(merge_symbols(&e->work, &t->rules, &t->words, text, err));
    for (int32_t i = 0; i >= 0; i = e->work.symbols[i].next) {
        const symbol *s = &e->work.symbols[i];
        if (s->id >= 0) {
            NIB_TRY(emit(e, s->id, err));
            continue;
        }
        if (t->algorithm != ALGORITHM_SCORES)
            continue; /* a byte without a piece: llama.cpp drops it */
        for (uint32_t k = 0; k < s->n; k++)
            NIB_TRY(emit(e, t->byte_id[(unsigned char)text[s->offset + k]], err));
    }
    return NIB_OK;
}

/* tokenizers' unknown token: a run of unknown characters is one of them (fuse_unk), given out before the next
 * known character. */
typedef struct unknown_run {
    bool pending;
    uint32_t offset, n;
} unknown_run;

static nib_status flush_unknown(encoder *e, unknown_run *run, nib_error *err) {
    if (run->pending)
        NIB_TRY(merge_work_push(&e->work, e->t->unk, run->offset, run->n, err));
    run->pending = false;
    return NIB_OK;
}

static nib_status add_unknown(encoder *e, unknown_run *run, uint32_t offset, uint32_t n, nib_error *err) {
    if (e->t->unk < 0)
        return NIB_OK; /* tokenizers drops it */
    if (run->pending && e->t->fuse_unk) {
        run->n += n;
        return NIB_OK;
    }
    NIB_TRY(flush_unknown(e, run, err));
    *run = (unknown_run){true, offset, n};
    return NIB_OK;
}

static nib_status spell(encoder *e, const char *word, size_t n, nib_error *err) {
    e->spelling.n = 0;
    for (size_t i = 0; i < n; i++) {
        char letter[4];
        const unsigned bytes = utf8_encode(tokenizer_byte_letter((unsigned char)word[i]), letter);
        NIB_TRY(text_buffer_append(&e->spelling, letter, bytes, err));
    }
    return NIB_OK;
}

static nib_status byte_pairs(encoder *e, const char *word, size_t n, nib_error *err) {
    const tokenizer *t = e->t;
    if (t->ignore_merges && n <= VOCAB_MAX_PIECE_BYTES) {
        NIB_TRY(spell(e, word, n, err));
        const int32_t id = vocab_find(&t->words, e->spelling.bytes, e->spelling.n);
        if (id >= 0)
            return emit(e, id, err);
    }
    unknown_run run = {0};
    for (size_t i = 0; i < n; i++) {
        const int32_t id = t->byte_id[(unsigned char)word[i]];
        if (id < 0 && t->from_json) {
            NIB_TRY(add_unknown(e, &run, (uint32_t)i, 1, err));
            continue;
        }
        NIB_TRY(flush_unknown(e, &run, err));
        NIB_TRY(merge_work_push(&e->work, id, (uint32_t)i, 1, err));
    }
    NIB_TRY(flush_unknown(e, &run, err));
    return merge_and_emit(e, word, err);
}

static bool all_bytes_known(const tokenizer *t, const char *p, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        if (t->byte_id[(unsigned char)p[i]] < 0)
            return false;
    return true;
}

static nib_status char_pairs(encoder *e, const char *word, size_t n, nib_error *err) {
    const tokenizer *t = e->t;
    unknown_run run = {0};
    if (t->whole_line_ends && *word == '\n') {
        const int32_t id = vocab_find(&t->words, word, n);
        if (id >= 0)
            return emit(e, id, err);
    }
    for (size_t i = 0; i < n;) {
        uint32_t key;
        const unsigned bytes = symbol_at(word + i, n - i, &key);
        const int32_t id = vocab_find(&t->words, word + i, bytes);
        if (id >= 0) {
            NIB_TRY(flush_unknown(e, &run, err));
            NIB_TRY(merge_work_push(&e->work, id, (uint32_t)i, bytes, err));
        } else if (all_bytes_known(t, word + i, bytes)) {
            for (unsigned k = 0; k < bytes; k++)
                NIB_TRY(merge_work_push(&e->work, t->byte_id[(unsigned char)word[i + k]], (uint32_t)(i + k),
                                        1, err));
        } else {
            NIB_TRY(add_unknown(e, &run, (uint32_t)i, bytes, err));
        }
        i += bytes;
    }
    NIB_TRY(flush_unknown(e, &run, err));
    return merge_and_emit(e, word, err);
}

static nib_status scores(encoder *e, const char *word, size_t n, nib_error *err) {
    for (size_t i = 0; i < n;) {
        uint32_t key;
        const unsigned bytes = symbol_at(word + i, n - i, &key);
        const int32_t id = vocab_find(&e->t->words, word + i, bytes);
        NIB_TRY(merge_work_push(&e->work, id, (uint32_t)i, bytes, err));
        i += bytes;
    }
    return merge_and_emit(e, word, err);
}

static nib_status encode_word(void *context, const char *word, size_t n, nib_error *err) {
    encoder *e = context;
    cached_word *slot = NULL;
    if (e->cache && n <= CACHED_WORD_BYTES) {
        slot = &e->cache[(size_t)vocab_hash(word, n) & e->cache_mask];
        if (slot->n_text == n && memcmp(slot->text, word, n) == 0) {
            for (size_t i = 0; i < slot->n_ids; i++)
                NIB_TRY(emit(e, e->out->ids[slot->first + i], err));
            return NIB_OK;
        }
    }
    const size_t first = e->out->n;
    e->work.n = 0;
    switch (e->t->algorithm) {
    case ALGORITHM_BYTE_PAIRS:
        NIB_TRY(byte_pairs(e, word, n, err));
        break;
    case ALGORITHM_CHAR_PAIRS:
        NIB_TRY(char_pairs(e, word, n, err));
        break;
    case ALGORITHM_SCORES:
        NIB_TRY(scores(e, word, n, err));
        break;
    }
    if (slot) {
        memcpy(slot->text, word, n);
        slot->n_text = (uint32_t)n;
        slot->n_ids = (uint32_t)(e->out->n - first);
        slot->first = first;
    }
    return NIB_OK;
}

/* ---- text to words ---- */

/* Cuts where two neighbours occur in no piece: no merge can cross, so the ids are those of the whole. */
static nib_status encode_joined(encoder *e, const char *text, size_t n, nib_error *err) {
    const uint64_t *joins = e->t->joins;
    if (!joins)
        return encode_word(e, text, n, err);
    size_t start = 0;
    uint32_t left = 0, right;
    for (size_t i = 0; i < n; left = right) {
        const unsigned bytes = symbol_at(text + i, n - i, &right);
        if (i > start) {
            const uint32_t slot = join_slot(left, right);
            if (!(joins[slot >> 6] >> (slot & 63) & 1)) {
                NIB_TRY(encode_word(e, text + start, i - start, err));
                start = i;
            }
        }
        i += bytes;
    }
    return encode_word(e, text + start, n - start, err);
}

/* Metaspace: marks the spaces of TEXT, puts one in front where it is due, and cuts at the marks. */
static nib_status encode_metaspace(encoder *e, const char *text, size_t n, bool first, nib_error *err) {
    const tokenizer *t = e->t;
    const bool has_one = *text == ' ' || (n >= 3 && memcmp(text, SPACE_MARK, 3) == 0);
    e->marked.n = 0;
    if (!has_one && (t->metaspace == METASPACE_ALWAYS || (t->metaspace == METASPACE_FIRST && first)))
        NIB_TRY(text_buffer_append(&e->marked, SPACE_MARK, 3, err));
    NIB_TRY(normalize_spaces(&e->marked, text, n, err));
    const char *p = e->marked.bytes, *end = p + e->marked.n;
    while (t->split_marks && end - p > 1) {
        const char *next = memmem(p + 1, (size_t)(end - p) - 1, SPACE_MARK, 3);
        if (!next)
            break;
        NIB_TRY(encode_joined(e, p, (size_t)(next - p), err));
        p = next;
    }
    return encode_joined(e, p, (size_t)(end - p), err);
}

static nib_status encode_cut(void *context, const char *text, size_t n, nib_error *err) {
    return encode_joined(context, text, n, err);
}

/* FIRST: the whole text begins here. */
static nib_status encode_plain(encoder *e, const char *text, size_t n, bool first, nib_error *err) {
    const tokenizer *t = e->t;
    if (n == 0)
        return NIB_OK;
    if (t->metaspace != METASPACE_NONE)
        return encode_metaspace(e, text, n, first, err);
    if (t->splitter.n_steps == 0)
        return encode_joined(e, text, n, err);
    return splitter_run(&t->splitter, text, n, t->joins ? encode_cut : encode_word, e, &e->split_work, err);
}

/* The text between added tokens: *text and *n become the normalized form, in e->normal or as they were. */
static nib_status normalize_fragment(encoder *e, const char **text, size_t *n, nib_error *err) {
    const tokenizer *t = e->t;
    e->normal.n = 0;
    if (t->mark_spaces || t->prefix_space) {
        if (t->prefix_space)
            NIB_TRY(text_buffer_append(&e->normal, SPACE_MARK, 3, err));
        NIB_TRY(normalize_spaces(&e->normal, *text, *n, err));
    } else if (t->nfc) {
        NIB_TRY(normalize_nfc(&e->normal, *text, *n, err));
    } else if (!t->from_json && utf8_valid_prefix(*text, *n) < *n) {
        NIB_TRY(normalize_repair_lenient(&e->normal, *text, *n, err));
    } else {
        return NIB_OK;
    }
    *text = e->normal.bytes;
    *n = e->normal.n;
    return NIB_OK;
}

static nib_status encode_fragment(encoder *e, const char *text, size_t n, bool first, nib_error *err) {
    if (n == 0)
        return NIB_OK;
    NIB_TRY(normalize_fragment(e, &text, &n, err));
    e->found_later.n = 0;
    if (e->t->normalized_added.n > 0)
        NIB_TRY(added_find_leftmost(&e->t->normalized_added, text, n,
                                    (added_rule){.skip_special = e->rule.skip_special || e->marks},
                                    &e->found_later, err));
    size_t done = 0;
    for (size_t i = 0; i < e->found_later.n; i++) {
        const added_match m = e->found_later.list[i];
        if (m.start > done)
            NIB_TRY(encode_plain(e, text + done, m.start - done, first && done == 0, err));
        NIB_TRY(emit(e, m.id, err));
        done = m.end;
    }
    return done < n ? encode_plain(e, text + done, n - done, first && done == 0, err) : NIB_OK;
}

/* Of a marked text, where the marks still fit its bytes: control tokens that are otherwise looked for after
 * normalization. */
static nib_status encode_controls(encoder *e, const char *text, size_t from, size_t to, nib_error *err) {
    const added_rule rule = {.only_special = true, .marks = e->marks + from};
    added_matches found = {0};
    nib_status status =
        added_find_leftmost(&e->t->normalized_added, text + from, to - from, rule, &found, err);
    size_t done = from;
    for (size_t i = 0; status == NIB_OK && i < found.n; i++) {
        status = encode_fragment(e, text + done, from + found.list[i].start - done, done == 0, err);
        if (status == NIB_OK)
            status = emit(e, found.list[i].id, err);
        done = from + found.list[i].end;
    }
    if (status == NIB_OK)
        status = encode_fragment(e, text + done, to - done, done == 0, err);
    added_matches_free(&found);
    return status;
}

static nib_status encode_between(encoder *e, const char *text, size_t from, size_t to, nib_error *err) {
    return e->marks && e->t->normalized_added.n > 0
               ? encode_controls(e, text, from, to, err)
               : encode_fragment(e, text + from, to - from, from == 0, err);
}

static nib_status encode_text(encoder *e, const char *text, size_t n, nib_error *err) {
    const added_set *added = &e->t->added;
    if (added->n > 0)
        NIB_TRY(e->t->from_json ? added_find_leftmost(added, text, n, e->rule, &e->found, err)
                                : added_find_longest(added, text, n, e->rule, &e->found, err));
    size_t done = 0;
    for (size_t i = 0; i < e->found.n; i++) {
        const added_match m = e->found.list[i];
        if (m.start > done)
            NIB_TRY(encode_between(e, text, done, m.start, err));
        NIB_TRY(emit(e, m.id, err));
        done = m.end;
    }
    return done < n ? encode_between(e, text, done, n, err) : NIB_OK;
}

static nib_status open_cache(encoder *e, size_t n, nib_error *err) {
    if (n < CACHE_FROM_BYTES)
        return NIB_OK;
    size_t entries = 256;
    while (entries < n / 16 && entries < 16384)
        entries *= 2;
    e->cache = mem_array(entries, sizeof *e->cache);
    e->cache_mask = entries - 1;
    return e->cache ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory to tokenize %zu bytes", n);
}

static nib_status encode(encoder *e, const char *text, size_t n, nib_error *err) {
    if (n > INT32_MAX / 4)
        return nib_fail(err, NIB_BAD_ARGUMENT, "a text of %zu bytes is too long to tokenize at once", n);
    const size_t before = e->out->n;
    text_buffer repaired = {0};
    nib_status status = open_cache(e, n, err);
    if (status == NIB_OK && e->t->from_json && utf8_valid_prefix(text, n) < n) {
        assert(!e->marks);
        status = normalize_repair(&repaired, text, n, err);
        text = repaired.bytes;
        n = repaired.n;
    }
    e->split_work = SPLIT_PATTERN_WORK(n);
    if (status == NIB_OK)
        status = encode_text(e, text, n, err);
    if (status != NIB_OK)
        e->out->n = before;
    text_buffer_free(&repaired);
    text_buffer_free(&e->normal);
    text_buffer_free(&e->spelling);
    text_buffer_free(&e->marked);
    added_matches_free(&e->found);
    added_matches_free(&e->found_later);
    merge_work_free(&e->work);
    mem_free(e->cache);
    return status;
}

nib_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, token_list *out,
                            nib_error *err) {
    encoder e = {.t = t, .rule = {.skip_special = (flags & TOKENIZE_NO_SPECIAL) != 0}, .out = out};
    return encode(&e, text, n, err);
}

nib_status tokenizer_encode_marked(const tokenizer *t, const char *text, size_t n, const unsigned char *marks,
                                   token_list *out, nib_error *err) {
    encoder e = {.t = t, .rule = {.marks = marks}, .marks = marks, .out = out};
    return encode(&e, text, n, err);
}
