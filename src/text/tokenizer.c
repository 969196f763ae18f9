/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizer: opening (by kind of source), the small questions, and what both kinds of source share.
 */
#include "text/tokenizer.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/excerpt.h"
#include "text/normalize.h"
#include "text/tokenizer_parts.h"

nib_status tokenizer_open(tokenizer **out, const token_source *source, nib_error *err) {
    *out = NULL;
    const bool json = source->json.n > 0;
    if (!json && source->n_tokens == 0)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: holds no tokenizer (no tokenizer.json, no %s)",
                        source->where, "tokenizer.ggml.tokens");
    tokenizer *t = mem_array(1, sizeof *t);
    if (!t)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a tokenizer");
    t->from_json = json;
    t->bos = t->unk = t->closing = -1;
    added_open(&t->added);
    added_open(&t->normalized_added);
    nib_status status = json ? tokenizer_json_open(t, source, err) : tokenizer_gguf_open(t, source, err);
    t->strip_space |= t->prefix_space;
    if (status == NIB_OK)
        status = tokenizer_collect_ends(t, source, err);
    if (status != NIB_OK) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return NIB_OK;
}

void tokenizer_close(tokenizer *t) {
    if (!t)
        return;
    vocab_close(&t->words);
    merge_rules_close(&t->rules);
    splitter_close(&t->splitter);
    added_close(&t->added);
    added_close(&t->normalized_added);
    mem_free(t->joins);
    mem_free(t);
}

nib_status token_list_push(token_list *list, int32_t id, nib_error *err) {
    if (list->n == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 64;
        int32_t *grown = mem_resize(list->ids, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu tokens", list->n + 1);
        list->ids = grown;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return NIB_OK;
}

void token_list_free(token_list *list) {
    mem_free(list->ids);
    memset(list, 0, sizeof *list);
}

/* ---- questions ---- */

size_t tokenizer_vocab(const tokenizer *t) {
    return t->words.n;
}

bool tokenizer_adds_bos(const tokenizer *t) {
    return t->adds_bos;
}

int32_t tokenizer_bos(const tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_closing(const tokenizer *t) {
    return t->closing;
}

bool tokenizer_is_end(const tokenizer *t, int32_t id) {
    for (size_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id)
            return true;
    return false;
}

bool tokenizer_is_control(const tokenizer *t, int32_t id) {
    if (id < 0 || (size_t)id >= t->words.n)
        return false;
    const piece_kind kind = t->words.pieces[id].kind;
    return kind == PIECE_CONTROL || kind == PIECE_UNKNOWN;
}

int32_t tokenizer_find(const tokenizer *t, strview spelling) {
    return vocab_find(&t->words, spelling.p, spelling.n);
}

strview tokenizer_piece(const tokenizer *t, int32_t id, bool with_control) {
    if (id < 0 || (size_t)id >= t->words.n || t->words.pieces[id].kind == PIECE_ABSENT ||
        (!with_control && tokenizer_is_control(t, id)))
        return (strview){"", 0};
    return vocab_text(&t->words, id);
}

/* ---- ends ---- */

nib_status tokenizer_add_end(tokenizer *t, int32_t id, const char *field, const char *where, nib_error *err) {
    if (id < 0 || (size_t)id >= t->words.n)
        return nib_fail(err, NIB_BAD_FILE, "%s: %s is %d, expected an id below %zu", where, field, (int)id,
                        t->words.n);
    if (tokenizer_is_end(t, id))
        return NIB_OK;
    if (t->n_ends == TOKENIZER_MAX_ENDS)
        return nib_fail(err, NIB_BAD_FILE, "%s: more than %d tokens end an answer", where,
                        TOKENIZER_MAX_ENDS);
    t->ends[t->n_ends++] = id;
    return NIB_OK;
}

bool tokenizer_ends_by_name(strview spelling) {
    static const char *const names[] = {"<|im_end|>",
                                        "<|eot_id|>",
                                        "<|eom_id|>",
                                        "<end_of_turn>",
                                        "<|end|>",
                                        "<|endoftext|>",
                                        "<|end_of_text|>",
                                        "<|return|>",
                                        "<|call|>",
                                        "<turn|>",
                                        "<EOT>",
                                        "_<EOT>",
                                        "[EOT]",
                                        "[EOS]",
                                        "[e~[",
                                        "<end_of_utterance>",
                                        "<\uFF5Cend\u2581of\u2581sentence\uFF5C>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strview_is(spelling, names[i]))
            return true;
    return false;
}

/* Files name one end at most; chat models end a turn with another, which base models' files keep silent about
 * and some converters give the type of a word. Known by name: those are what ends a turn, and are not shown.
 * "</s>" and "<eos>" count only as control tokens: Gemma's </s> is a tag of HTML. Harmony's <|end|> ends a
 * message, not an answer. */
nib_status tokenizer_collect_ends(tokenizer *t, const token_source *source, nib_error *err) {
    const char *where = source->where;
    const bool harmony = tokenizer_find(t, strview_of("<|return|>")) >= 0;
    if (source->eos >= 0)
        NIB_TRY(tokenizer_add_end(t, source->eos, "the eos token", where, err));
    if (source->eot >= 0)
        NIB_TRY(tokenizer_add_end(t, source->eot, "the eot token", where, err));
    for (int32_t i = 0; i < source->n_extra_eos && i < 8; i++)
        NIB_TRY(tokenizer_add_end(t, source->extra_eos[i], "eos_token_id", where, err));
    for (size_t i = 0; i < t->words.n; i++) {
        piece *p = &t->words.pieces[i];
        const strview spelling = vocab_spelling(&t->words, (int32_t)i);
        const bool named = tokenizer_ends_by_name(spelling) && !(harmony && strview_is(spelling, "<|end|>"));
        const bool plain = strview_is(spelling, "</s>") || strview_is(spelling, "<eos>");
        if (p->kind == PIECE_ABSENT || !(named || (plain && p->kind == PIECE_CONTROL)))
            continue;
        p->kind = PIECE_CONTROL;
        NIB_TRY(tokenizer_add_end(t, (int32_t)i, "the end token", where, err));
    }
    return NIB_OK;
}

/* ---- decoded texts and bytes ---- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static int byte_of_piece(strview s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>')
        return -1;
    const int high = hex_digit(s.p[3]), low = hex_digit(s.p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

nib_status tokenizer_bind_byte_pieces(tokenizer *t, const char *where, nib_error *err) {
    for (int byte = 0; byte < 256; byte++) {
        static const char digits[] = "0123456789ABCDEF";
        const char spelling[6] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
        t->byte_id[byte] = vocab_find(&t->words, spelling, 6);
    }
    for (size_t id = 0; id < t->words.n; id++) {
        if (t->words.pieces[id].kind != PIECE_BYTE)
            continue;
        const strview spelling = vocab_spelling(&t->words, (int32_t)id);
        const int byte = byte_of_piece(spelling);
        if (byte < 0)
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: piece %zu is a byte spelled \"%s\", expected <0x00> to <0xFF>", where, id,
                            excerpt_of(spelling).text);
        const char text = (char)byte;
        NIB_TRY(vocab_set_text(&t->words, (int32_t)id, (strview){&text, 1}, err));
    }
    return NIB_OK;
}

uint32_t tokenizer_byte_letter(unsigned char byte) {
    if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD))
        return byte;
    if (byte <= 0x20)
        return 256u + byte;
    return byte == 0xAD ? 256u + 67 : 256u + 33 + (byte - 0x7Fu);
}

nib_status tokenizer_bind_byte_letters(tokenizer *t, nib_error *err) {
    int16_t byte_of[0x144];
    for (size_t i = 0; i < 0x144; i++)
        byte_of[i] = -1;
    for (int byte = 0; byte < 256; byte++) {
        char spelling[4];
        const uint32_t letter = tokenizer_byte_letter((unsigned char)byte);
        byte_of[letter] = (int16_t)byte;
        t->byte_id[byte] = vocab_find(&t->words, spelling, utf8_encode(letter, spelling));
    }
    text_buffer text = {0};
    nib_status status = NIB_OK;
    for (size_t id = 0; id < t->words.n && status == NIB_OK; id++) {
        const piece_kind kind = t->words.pieces[id].kind;
        if (kind != PIECE_NORMAL && kind != PIECE_UNUSED)
            continue;
        const strview spelling = vocab_spelling(&t->words, (int32_t)id);
        text.n = 0;
        bool ascii = true, whole = utf8_valid_prefix(spelling.p, spelling.n) == spelling.n;
        for (size_t i = 0; i < spelling.n && whole && status == NIB_OK;) {
            unsigned bytes;
            const uint32_t letter = utf8_read((const unsigned char *)spelling.p + i, &bytes);
            i += bytes;
            ascii = ascii && letter < 0x80;
            whole = letter < 0x144 && byte_of[letter] >= 0;
            if (whole) {
                const char byte = (char)byte_of[letter];
                status = text_buffer_append(&text, &byte, 1, err);
            }
        }
        /* a piece outside the alphabet can never be made of bytes: it stays as spelled */
        if (whole && !ascii && status == NIB_OK)
            status = vocab_set_text(&t->words, (int32_t)id, (strview){text.bytes, text.n}, err);
    }
    text_buffer_free(&text);
    return status;
}

nib_status tokenizer_bind_space_marks(tokenizer *t, nib_error *err) {
    text_buffer text = {0};
    nib_status status = NIB_OK;
    for (size_t id = 0; id < t->words.n && status == NIB_OK; id++) {
        const strview spelling = vocab_spelling(&t->words, (int32_t)id);
        if (t->words.pieces[id].kind != PIECE_NORMAL || !memmem(spelling.p, spelling.n, SPACE_MARK, 3))
            continue;
        text.n = 0;
        for (size_t i = 0; i < spelling.n && status == NIB_OK;) {
            const bool mark = spelling.n - i >= 3 && memcmp(spelling.p + i, SPACE_MARK, 3) == 0;
            status = text_buffer_append(&text, mark ? " " : spelling.p + i, 1, err);
            i += mark ? 3 : 1;
        }
        if (status == NIB_OK)
            status = vocab_set_text(&t->words, (int32_t)id, (strview){text.bytes, text.n}, err);
    }
    text_buffer_free(&text);
    return status;
}

nib_status tokenizer_learn_joins(tokenizer *t, nib_error *err) {
    t->joins = mem_array((size_t)1 << (JOIN_BITS - 6), sizeof *t->joins);
    if (!t->joins)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a tokenizer");
    for (size_t id = 0; id < t->words.n; id++) {
        if (t->words.pieces[id].kind == PIECE_ABSENT)
            continue;
        const strview s = vocab_spelling(&t->words, (int32_t)id);
        uint32_t left = 0, right;
        for (size_t i = 0; i < s.n; left = right) {
            const unsigned bytes = symbol_at(s.p + i, s.n - i, &right);
            if (i > 0) {
                const uint32_t slot = join_slot(left, right);
                t->joins[slot >> 6] |= UINT64_C(1) << (slot & 63);
            }
            i += bytes;
        }
    }
    return NIB_OK;
}

nib_status tokenizer_add_merge(tokenizer *t, strview left, strview right, size_t rank, bool replace,
                               const char *where, nib_error *err) {
    const int32_t a = vocab_find(&t->words, left.p, left.n), b = vocab_find(&t->words, right.p, right.n);
    char joined[512];
    int32_t c = -1;
    if (a >= 0 && b >= 0 && left.n + right.n <= VOCAB_MAX_PIECE_BYTES) {
        char *text = left.n + right.n <= sizeof joined ? joined : mem_alloc(left.n + right.n);
        if (!text)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for a merge");
        memcpy(text, left.p, left.n);
        memcpy(text + left.n, right.p, right.n);
        c = vocab_find(&t->words, text, left.n + right.n);
        if (text != joined)
            mem_free(text);
    }
    if (c < 0)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: merge %zu joins \"%s\" and \"%s\", expected two pieces of the vocabulary that "
                        "make a third",
                        where, rank, excerpt_of(left).text, excerpt_of(right).text);
    merge_rules_add_pair(&t->rules, a, b, (uint32_t)rank, c, replace);
    return NIB_OK;
}
