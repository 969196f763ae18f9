/* SPDX-License-Identifier: Apache-2.0
 *
 * The words of a GGUF file: tokenizer.ggml.* to token_source. Every array's element type and length is
 * compared with what it is read as; ids must lie inside the vocabulary.
 */
#include "base/quote.h"
#include "store/config.h"
#include "store/model_parts.h"

/* The array KEY of element type ITEM; *out NULL when it is not there. */
static nib_status get_array(const gguf *g, const char *name, gguf_type item, uint64_t max,
                            const gguf_key **out, nib_error *err) {
    *out = gguf_find(g, name);
    if (!*out)
        return NIB_OK;
    if ((*out)->type != GGUF_ARRAY || (*out)->item_type != item)
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s is no array of %s", g->where, name,
                        gguf_type_name(item));
    if ((*out)->n_items > max)
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s has more than %llu items", g->where, name,
                        (unsigned long long)max);
    return NIB_OK;
}

static nib_status copy_texts(model_file *f, const gguf_key *key, const strview **out, size_t *n,
                             nib_error *err) {
    strview *list = arena_alloc(&f->owned->arena, (size_t)key->n_items, sizeof *list);
    if (!list)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the vocabulary", f->path);
    gguf_item_texts(key, list);
    *out = list;
    *n = (size_t)key->n_items;
    return NIB_OK;
}

/* Numbers of 4 bytes, one per token: the file's are unaligned, so they are copied. */
static nib_status copy_numbers(model_file *f, const char *name, gguf_type item, const void **out,
                               nib_error *err) {
    const gguf_key *key;
    NIB_TRY(get_array(f->gguf, name, item, CONFIG_MAX_VOCAB, &key, err));
    if (!key)
        return NIB_OK;
    if (key->n_items != f->words.n_tokens)
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s has %llu items for %zu tokens", f->path, name,
                        (unsigned long long)key->n_items, f->words.n_tokens);
    void *copy = arena_alloc(&f->owned->arena, f->words.n_tokens, 4);
    if (!copy)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the vocabulary", f->path);
    memcpy(copy, key->bytes, key->n_bytes);
    *out = copy;
    return NIB_OK;
}

/* An id outside the vocabulary is as good as none: files are full of them, and llama.cpp warns. */
static nib_status get_id(model_file *f, const char *name, int32_t *out, nib_error *err) {
    int64_t id;
    bool found;
    NIB_TRY(gguf_get_int(f->gguf, name, INT64_MIN, INT64_MAX, &id, &found, err));
    if (found && (id < 0 || id >= (int64_t)f->words.n_tokens))
        return model_add_note(f, err, "%s: key %s is %lld, outside a vocabulary of %zu tokens: ignored",
                              f->path, name, (long long)id, f->words.n_tokens);
    if (found)
        *out = (int32_t)id;
    return NIB_OK;
}

static nib_status get_flag(model_file *f, const char *name, int8_t *out, nib_error *err) {
    bool value, found;
    NIB_TRY(gguf_get_bool(f->gguf, name, &value, &found, err));
    if (found)
        *out = value;
    return NIB_OK;
}

static nib_status read_ids(model_file *f, nib_error *err) {
    token_source *w = &f->words;
    int32_t eom = -1; /* ends a message: another end of an answer */
    NIB_TRY(get_id(f, "tokenizer.ggml.bos_token_id", &w->bos, err));
    NIB_TRY(get_id(f, "tokenizer.ggml.eos_token_id", &w->eos, err));
    NIB_TRY(get_id(f, "tokenizer.ggml.eot_token_id", &w->eot, err));
    NIB_TRY(get_id(f, "tokenizer.ggml.unknown_token_id", &w->unk, err));
    NIB_TRY(get_id(f, "tokenizer.ggml.padding_token_id", &w->pad, err));
    NIB_TRY(get_id(f, "tokenizer.ggml.eom_token_id", &eom, err));
    if (eom >= 0)
        w->extra_eos[w->n_extra_eos++] = eom;
    NIB_TRY(get_flag(f, "tokenizer.ggml.add_bos_token", &w->add_bos, err));
    NIB_TRY(get_flag(f, "tokenizer.ggml.add_eos_token", &w->add_eos, err));
    return get_flag(f, "tokenizer.ggml.add_space_prefix", &w->add_space_prefix, err);
}

static nib_status check_lengths(const model_file *f, nib_error *err) {
    for (size_t i = 0; i < f->words.n_tokens; i++)
        if (f->words.tokens[i].n > TOKEN_SOURCE_MAX_PIECE)
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: item %zu of tokenizer.ggml.tokens has %zu bytes, expected at most %d",
                            f->path, i, f->words.tokens[i].n, TOKEN_SOURCE_MAX_PIECE);
    return NIB_OK;
}

static nib_status read_vocabulary(model_file *f, const gguf_key *tokens, nib_error *err) {
    token_source *w = &f->words;
    const gguf_key *merges;
    const void *scores = NULL, *kinds = NULL;
    NIB_TRY(copy_texts(f, tokens, &w->tokens, &w->n_tokens, err));
    if (strview_is(w->model, "llama")) /* byte pairs are ranked by merges: theirs are of any type */
        NIB_TRY(copy_numbers(f, "tokenizer.ggml.scores", GGUF_F32, &scores, err));
    NIB_TRY(copy_numbers(f, "tokenizer.ggml.token_type", GGUF_I32, &kinds, err));
    NIB_TRY(check_lengths(f, err));
    w->scores = scores;
    w->types = kinds;
    NIB_TRY(get_array(f->gguf, "tokenizer.ggml.merges", GGUF_STRING, 4 * CONFIG_MAX_VOCAB, &merges, err));
    if (merges)
        NIB_TRY(copy_texts(f, merges, &w->merges, &w->n_merges, err));
    return read_ids(f, err);
}

nib_status model_gguf_words(model_file *f, nib_error *err) {
    token_source *w = &f->words;
    const gguf *g = f->gguf;
    const gguf_key *tokens;
    bool found;
    NIB_TRY(gguf_get_text(g, "tokenizer.ggml.model", &w->model, &found, err));
    NIB_TRY(gguf_get_text(g, "tokenizer.ggml.pre", &w->pre, &found, err));
    NIB_TRY(gguf_get_text(g, "tokenizer.chat_template", &w->chat_template, &found, err));
    NIB_TRY(get_array(g, "tokenizer.ggml.tokens", GGUF_STRING, CONFIG_MAX_VOCAB, &tokens, err));
    w->vocab = f->has_network ? f->hp.vocab : 0;
    if (tokens)
        NIB_TRY(read_vocabulary(f, tokens, err));
    if (w->vocab && w->n_tokens > (size_t)w->vocab)
        return nib_fail(err, NIB_BAD_FILE, "%s: %zu tokens for an embedding of %d rows", f->path, w->n_tokens,
                        w->vocab);
    return NIB_OK;
}
