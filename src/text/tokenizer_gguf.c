/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer from GGUF metadata. The reference is llama.cpp: what it does with a file is done here, so that
 * the same file gives the same ids, except that what it aborts on is refused in words.
 */
#include <math.h>

#include "text/excerpt.h"
#include "text/normalize.h"
#include "text/tokenizer_parts.h"

static nib_status fill_vocab(tokenizer *t, const token_source *s, nib_error *err) {
    if (s->n_tokens > VOCAB_MAX_IDS)
        return nib_fail(err, NIB_BAD_FILE, "%s: tokenizer.ggml.tokens has %zu pieces, expected at most %zu",
                        s->where, s->n_tokens, VOCAB_MAX_IDS);
    if (s->vocab > 0 && s->n_tokens > (size_t)s->vocab)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: tokenizer.ggml.tokens has %zu pieces, expected at most the %d rows of the "
                        "embedding",
                        s->where, s->n_tokens, (int)s->vocab);
    size_t bytes = 0;
    for (size_t i = 0; i < s->n_tokens; i++)
        bytes += s->tokens[i].n < VOCAB_MAX_PIECE_BYTES ? s->tokens[i].n : VOCAB_MAX_PIECE_BYTES;
    NIB_TRY(vocab_open(&t->words, s->n_tokens, 2 * bytes, err));
    for (size_t i = 0; i < s->n_tokens; i++) {
        const int32_t type = s->types ? s->types[i] : 1;
        if (type < 0 || type > 6)
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: tokenizer.ggml.token_type of piece %zu is %d, expected 0 to 6", s->where, i,
                            (int)type);
        const piece_kind kind = type == 0 ? PIECE_UNUSED : (piece_kind)type;
        NIB_TRY(vocab_set(&t->words, (int32_t)i, s->tokens[i], kind, s->where, err));
    }
    return NIB_OK;
}

static nib_status check_id(const token_source *s, const char *field, int32_t id, nib_error *err) {
    if (id < -1 || (id >= 0 && (size_t)id >= s->n_tokens))
        return nib_fail(err, NIB_BAD_FILE, "%s: tokenizer.ggml.%s_token_id is %d, expected an id below %zu",
                        s->where, field, (int)id, s->n_tokens);
    return NIB_OK;
}

static nib_status check_ids(const token_source *s, nib_error *err) {
    NIB_TRY(check_id(s, "bos", s->bos, err));
    NIB_TRY(check_id(s, "eos", s->eos, err));
    NIB_TRY(check_id(s, "eot", s->eot, err));
    NIB_TRY(check_id(s, "unknown", s->unk, err));
    return check_id(s, "padding", s->pad, err);
}

/* llama.cpp takes pieces of these names for control tokens whatever their type says; <|im_start|> goes with
 * <|im_end|>. */
static bool named_control(strview spelling) {
    static const char *const names[] = {"</s>",           "<eos>",          "<|im_start|>", "<|fim_prefix|>",
                                        "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>",  "<|fim_repo|>",
                                        "<|repo_name|>",  "<|file_sep|>",   "<reponame>",   "<PRE>",
                                        "<SUF>",          "<MID>",          "<PAD>",        "[PAD]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strview_is(spelling, names[i]))
            return true;
    return tokenizer_ends_by_name(spelling);
}

static nib_status fill_added(tokenizer *t, const char *where, nib_error *err) {
    for (size_t i = 0; i < t->words.n; i++) {
        const piece_kind kind = t->words.pieces[i].kind;
        if (kind == PIECE_ABSENT)
            continue;
        const strview spelling = vocab_spelling(&t->words, (int32_t)i);
        const bool named = spelling.n <= 32 && named_control(spelling);
        if (kind != PIECE_CONTROL && kind != PIECE_UNKNOWN && kind != PIECE_USER && !named)
            continue;
        if (spelling.n > ADDED_MAX_BYTES)
            return nib_fail(err, NIB_BAD_FILE, "%s: control token %zu has %zu bytes, expected at most %d",
                            where, i, spelling.n, ADDED_MAX_BYTES);
        const added_token token = {.id = (int32_t)i, .special = kind != PIECE_USER || named};
        NIB_TRY(added_add(&t->added, token, spelling, err));
    }
    return NIB_OK;
}

/* ---- byte-pair encoding ("gpt2", "gemma4") ---- */

static nib_status open_splitter(tokenizer *t, const token_source *s, const pretokenizer **out,
                                nib_error *err) {
    const pretokenizer *pre = token_source_pre(s);
    char list[PRETOKENIZER_LIST_MAX];
    if (!pre)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: tokenizer.ggml.pre is \"%s\", expected one that nibble knows: %s", s->where,
                        excerpt_of(s->pre).text, pretokenizer_list(list));
    NIB_TRY(char_classes_open(&t->splitter.classes, CLASSES_LLAMA_CPP, err));
    t->splitter.has_classes = true;
    t->ignore_merges = pre->ignore_merges;
    for (size_t i = 0; i < PRETOKENIZER_MAX_STEPS && pre->steps[i]; i++)
        NIB_TRY(splitter_add_pattern(&t->splitter, (split_step){0}, strview_of(pre->steps[i]),
                                     CLASSES_LLAMA_CPP, s->where, err));
    *out = pre;
    return NIB_OK;
}

static nib_status open_merges(tokenizer *t, const token_source *s, nib_error *err) {
    if (!s->merges) /* an empty list is one: every piece is a byte */
        return nib_fail(err, NIB_BAD_FILE, "%s: has no tokenizer.ggml.merges", s->where);
    if (s->n_merges > VOCAB_MAX_IDS)
        return nib_fail(err, NIB_BAD_FILE, "%s: tokenizer.ggml.merges has %zu entries, expected at most %zu",
                        s->where, s->n_merges, VOCAB_MAX_IDS);
    NIB_TRY(merge_rules_open_pairs(&t->rules, s->n_merges, err));
    for (size_t i = 0; i < s->n_merges; i++) {
        const strview merge = s->merges[i];
        const char *space = merge.n > 1 ? memchr(merge.p + 1, ' ', merge.n - 1) : NULL;
        if (!space)
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: tokenizer.ggml.merges entry %zu is \"%s\", expected two pieces with a space "
                            "between",
                            s->where, i, excerpt_of(merge).text);
        const strview left = {merge.p, (size_t)(space - merge.p)};
        const strview right = {space + 1, merge.n - left.n - 1};
        NIB_TRY(tokenizer_add_merge(t, left, right, i, false, s->where, err));
    }
    return NIB_OK;
}

static nib_status open_pairs(tokenizer *t, const token_source *s, nib_error *err) {
    const pretokenizer *pre = NULL;
    NIB_TRY(open_splitter(t, s, &pre, err));
    NIB_TRY(open_merges(t, s, err));
    t->algorithm = pre->characters ? ALGORITHM_CHAR_PAIRS : ALGORITHM_BYTE_PAIRS;
    if (!pre->characters)
        return tokenizer_bind_byte_letters(t, err);
    t->mark_spaces = t->whole_line_ends = true;
    NIB_TRY(tokenizer_bind_byte_pieces(t, s->where, err));
    return tokenizer_bind_space_marks(t, err);
}

/* ---- SentencePiece ("llama") ---- */

/* llama.cpp's default ids where the file gives none, if they are what they should be. */
static int32_t default_id(const tokenizer *t, int32_t given, int32_t usual, piece_kind kind) {
    if (given >= 0)
        return given;
    return (size_t)usual < t->words.n && t->words.pieces[usual].kind == kind ? usual : -1;
}

static nib_status open_scores(tokenizer *t, const token_source *s, nib_error *err) {
    t->algorithm = ALGORITHM_SCORES;
    if (!s->scores)
        return nib_fail(err, NIB_BAD_FILE, "%s: has no tokenizer.ggml.scores, expected one per piece",
                        s->where);
    for (size_t i = 0; i < s->n_tokens; i++)
        if (isnan(s->scores[i]))
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: tokenizer.ggml.scores of piece %zu is not a number, expected a score",
                            s->where, i);
    NIB_TRY(merge_rules_open_scores(&t->rules, s->scores, s->n_tokens, err));
    NIB_TRY(tokenizer_bind_byte_pieces(t, s->where, err));
    NIB_TRY(tokenizer_bind_space_marks(t, err));
    NIB_TRY(tokenizer_learn_joins(t, err));
    t->bos = default_id(t, s->bos, 1, PIECE_CONTROL);
    t->unk = default_id(t, s->unk, 0, PIECE_UNKNOWN);
    for (int byte = 0; byte < 256; byte++) {
        const char alone = (char)byte;
        if (t->byte_id[byte] < 0)
            t->byte_id[byte] = vocab_find(&t->words, &alone, 1);
        if (t->byte_id[byte] < 0)
            t->byte_id[byte] = t->unk;
        if (t->byte_id[byte] < 0)
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: the vocabulary has neither a piece <0x%02X> nor an unknown token", s->where,
                            byte);
    }
    t->mark_spaces = true;
    t->prefix_space = s->add_space_prefix != 0;
    return NIB_OK;
}

nib_status tokenizer_gguf_open(tokenizer *t, const token_source *source, nib_error *err) {
    const bool scores = strview_is(source->model, "llama");
    if (!scores && !strview_is(source->model, "gpt2") && !strview_is(source->model, "gemma4"))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: tokenizer.ggml.model is \"%s\", expected gpt2, gemma4 or llama", source->where,
                        excerpt_of(source->model).text);
    NIB_TRY(check_ids(source, err));
    NIB_TRY(fill_vocab(t, source, err));
    NIB_TRY(fill_added(t, source->where, err));
    t->bos = source->bos;
    NIB_TRY(scores ? open_scores(t, source, err) : open_pairs(t, source, err));
    t->adds_bos = token_source_adds_bos(source) && t->bos >= 0;
    t->closing = source->add_eos == 1 ? source->eos : -1;
    return NIB_OK;
}
