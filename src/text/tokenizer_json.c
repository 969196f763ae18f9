/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer from Hugging Face's tokenizer.json. The reference is the package tokenizers. What nibble's
 * families use is understood; anything else is refused in words, never skipped.
 */
#include "base/json.h"
#include "base/mem.h"
#include "text/excerpt.h"
#include "text/json_lists.h"
#include "text/normalize.h"
#include "text/tokenizer_parts.h"

typedef struct reader {
    tokenizer *t;
    const char *where;
    nib_error *err;
    bool byte_level;    /* a ByteLevel pre-tokenizer */
    bool splits_spaces; /* Split " ", of no effect once spaces are marks */
    bool digits_first;
    json_lists lists;
    int32_t vocab_limit; /* rows of the embedding, 0: not known */
} reader;

static strview text_of(const json_t *string) {
    if (!json_is_string(string))
        return (strview){"", 0};
    return (strview){json_string_value(string), json_string_length(string)};
}

static strview get_text(const json_t *object, const char *key) {
    return text_of(json_object_get(object, key));
}

static bool get_flag(const json_t *object, const char *key) {
    return json_is_true(json_object_get(object, key));
}

static nib_status unsupported(const reader *r, const char *field, strview what) {
    return nib_fail(r->err, NIB_UNSUPPORTED, "%s: %s \"%s\" is none of those nibble knows", r->where, field,
                    excerpt_of(what).text);
}

/* ---- vocabulary ---- */

static nib_status read_added_id(const reader *r, const json_t *token, size_t index, int32_t *id) {
    const json_t *value = json_object_get(token, "id");
    const json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n >= (json_int_t)VOCAB_MAX_IDS)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: added_tokens[%zu] has no id from 0 to %zu", r->where,
                        index, VOCAB_MAX_IDS - 1);
    *id = (int32_t)n;
    return NIB_OK;
}

static json_lists_walk walk_vocab(const reader *r) {
    return (json_lists_walk){.rest = r->lists.vocab, .where = r->where, .field = "model.vocab"};
}

static nib_status check_piece_id(const reader *r, strview spelling, int32_t id) {
    if (id >= (int32_t)VOCAB_MAX_IDS)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: model.vocab gives \"%s\" the id %d, expected at most %zu",
                        r->where, excerpt_of(spelling).text, (int)id, VOCAB_MAX_IDS - 1);
    if (r->vocab_limit > 0 && id >= r->vocab_limit)
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: model.vocab gives \"%s\" the id %d, expected one below the %d rows of the "
                        "embedding",
                        r->where, excerpt_of(spelling).text, (int)id, (int)r->vocab_limit);
    return NIB_OK;
}

/* Ids of a tokenizer.json are nearly dense; one huge id must not cost a huge table. */
static nib_status count_ids(const reader *r, json_lists_walk *walk, const json_t *added, size_t *n) {
    int32_t highest = -1, id = 0;
    strview spelling = {"", 0};
    for (bool found = true; found;) {
        NIB_TRY(json_lists_next_piece(walk, &spelling, &id, &found, r->err));
        if (found) {
            NIB_TRY(check_piece_id(r, spelling, id));
            highest = id > highest ? id : highest;
        }
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        NIB_TRY(read_added_id(r, json_array_get(added, i), i, &id));
        if ((r->vocab_limit == 0 || id < r->vocab_limit) && id > highest)
            highest = id;
    }
    const size_t count = walk->n + json_array_size(added);
    if (highest < 0 || (size_t)highest >= 4 * count + 65536)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: model.vocab has %zu pieces and the highest id is %d",
                        r->where, count, (int)highest);
    *n = (size_t)highest + 1;
    return NIB_OK;
}

static nib_status fill_vocab(const reader *r, json_lists_walk *walk) {
    int32_t id = 0;
    strview spelling = {"", 0};
    for (bool found = true; found;) {
        NIB_TRY(json_lists_next_piece(walk, &spelling, &id, &found, r->err));
        if (found)
            NIB_TRY(vocab_set(&r->t->words, id, spelling, PIECE_NORMAL, r->where, r->err));
    }
    return NIB_OK;
}

static nib_status read_vocab(const reader *r, const json_t *added) {
    if (r->lists.vocab.n == 0)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: model.vocab is missing, expected an object", r->where);
    size_t n = 0;
    json_lists_walk walk = walk_vocab(r);
    nib_status status = count_ids(r, &walk, added, &n);
    json_lists_walk_free(&walk);
    if (status == NIB_OK)
        status = vocab_open(&r->t->words, n, r->lists.vocab.n, r->err);
    walk = walk_vocab(r);
    if (status == NIB_OK)
        status = fill_vocab(r, &walk);
    json_lists_walk_free(&walk);
    return status;
}

/* The normalizer of the file, on the text of an added token. */
static nib_status normalized_text(const reader *r, strview text, text_buffer *out) {
    const tokenizer *t = r->t;
    if (t->prefix_space)
        NIB_TRY(text_buffer_append(out, SPACE_MARK, 3, r->err));
    if (t->mark_spaces)
        return normalize_spaces(out, text.p, text.n, r->err);
    if (t->nfc)
        return normalize_nfc(out, text.p, text.n, r->err);
    return text_buffer_append(out, text.p, text.n, r->err);
}

static nib_status read_added_token(const reader *r, const json_t *token, size_t index) {
    tokenizer *t = r->t;
    const strview content = get_text(token, "content");
    if (content.n == 0 || content.n > ADDED_MAX_BYTES)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: added_tokens[%zu].content has %zu bytes, expected 1 to %d",
                        r->where, index, content.n, ADDED_MAX_BYTES);
    if (get_flag(token, "single_word"))
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: added_tokens[%zu] is a single_word token", r->where,
                        index);
    added_token a = {.special = get_flag(token, "special") || tokenizer_ends_by_name(content),
                     .lstrip = get_flag(token, "lstrip"),
                     .rstrip = get_flag(token, "rstrip")};
    NIB_TRY(read_added_id(r, token, index, &a.id));
    if ((size_t)a.id >= t->words.n)
        return NIB_OK; /* past the embedding's rows (Gemma's picture token): text without meaning */
    const piece_kind kind = a.special ? PIECE_CONTROL : PIECE_USER;
    const int32_t there = vocab_find(&t->words, content.p, content.n);
    if (there < 0)
        NIB_TRY(vocab_set(&t->words, a.id, content, kind, r->where, r->err));
    else if (there != a.id)
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: added_tokens[%zu] \"%s\" has the id %d, expected %d as in model.vocab", r->where,
                        index, excerpt_of(content).text, (int)a.id, (int)there);
    else
        t->words.pieces[a.id].kind = kind;
    if (!get_flag(token, "normalized"))
        return added_add(&t->added, a, content, r->err);
    text_buffer normal = {0};
    nib_status status = normalized_text(r, content, &normal);
    if (status == NIB_OK && normal.n > ADDED_MAX_BYTES)
        status = nib_fail(r->err, NIB_BAD_FILE, "%s: added_tokens[%zu].content is too long", r->where, index);
    if (status == NIB_OK)
        status = added_add(&t->normalized_added, a, (strview){normal.bytes, normal.n}, r->err);
    text_buffer_free(&normal);
    return status;
}

/* ---- normalizer and pre-tokenizer ---- */

#define MAX_DEPTH 8

static nib_status read_normalizer(reader *r, const json_t *n, int depth) {
    if (!n || json_is_null(n))
        return NIB_OK;
    const strview type = get_text(n, "type");
    if (strview_is(type, "Sequence") && depth < MAX_DEPTH) {
        const json_t *list = json_object_get(n, "normalizers");
        for (size_t i = 0; i < json_array_size(list); i++)
            NIB_TRY(read_normalizer(r, json_array_get(list, i), depth + 1));
        return NIB_OK;
    }
    tokenizer *t = r->t;
    if (strview_is(type, "NFC") && !t->nfc && !t->mark_spaces && !t->prefix_space) {
        t->nfc = true;
        return NIB_OK;
    }
    if (strview_is(type, "Prepend") && strview_is(get_text(n, "prepend"), SPACE_MARK) && !t->prefix_space &&
        !t->mark_spaces && !t->nfc) {
        t->prefix_space = true;
        return NIB_OK;
    }
    const strview pattern = get_text(json_object_get(n, "pattern"), "String");
    if (strview_is(type, "Replace") && strview_is(pattern, " ") &&
        strview_is(get_text(n, "content"), SPACE_MARK) && !t->nfc) {
        t->mark_spaces = true;
        return NIB_OK;
    }
    return unsupported(r, "normalizer", type);
}

static bool read_behavior(strview name, split_behavior *out) {
    static const char *const names[] = {[SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_REMOVED] = "Removed",
                                        [SPLIT_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strview_is(name, names[i])) {
            *out = (split_behavior)i;
            return true;
        }
    return false;
}

/* TEXT as a pattern that matches nothing else. */
static nib_status quote(text_buffer *out, strview text, nib_error *err) {
    for (size_t i = 0; i < text.n; i++) {
        const unsigned char byte = (unsigned char)text.p[i];
        const bool plain =
            byte >= 0x80 || (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z');
        char code[8];
        const int n = snprintf(code, sizeof code, "\\x%02X", byte);
        NIB_TRY(text_buffer_append(out, plain ? text.p + i : code, plain ? 1 : (size_t)n, err));
    }
    return NIB_OK;
}

static nib_status read_split(reader *r, const json_t *p) {
    const json_t *pattern = json_object_get(p, "pattern");
    const strview behavior = get_text(p, "behavior"), regex = get_text(pattern, "Regex"),
                  literal = get_text(pattern, "String");
    split_step step = {.invert = get_flag(p, "invert")};
    if (strview_is(literal, " ") && strview_is(behavior, "MergedWithPrevious")) {
        r->splits_spaces = true;
        return NIB_OK;
    }
    if (!read_behavior(behavior, &step.behavior))
        return unsupported(r, "pre_tokenizer Split behavior", behavior);
    if (regex.n > 0)
        return splitter_add_pattern(&r->t->splitter, step, regex, CLASSES_TOKENIZERS, r->where, r->err);
    if (literal.n == 0)
        return unsupported(r, "pre_tokenizer Split pattern", literal);
    text_buffer quoted = {0};
    nib_status status = quote(&quoted, literal, r->err);
    if (status == NIB_OK)
        status = splitter_add_pattern(&r->t->splitter, step, (strview){quoted.bytes, quoted.n},
                                      CLASSES_TOKENIZERS, r->where, r->err);
    text_buffer_free(&quoted);
    return status;
}

/* Metaspace: what transformers makes of Llama 2's Prepend and Replace when it saves a tokenizer again. */
static nib_status read_metaspace(reader *r, const json_t *p) {
    tokenizer *t = r->t;
    const json_t *scheme = json_object_get(p, "prepend_scheme"), *split = json_object_get(p, "split");
    if (!strview_is(get_text(p, "replacement"), SPACE_MARK))
        return unsupported(r, "pre_tokenizer Metaspace with the replacement", get_text(p, "replacement"));
    if (t->metaspace != METASPACE_NONE || t->splitter.n_steps > 0 || r->splits_spaces)
        return unsupported(r, "pre_tokenizer beside Metaspace:", strview_of("Split, Digits or Metaspace"));
    t->split_marks = !json_is_false(split);
    if (json_is_false(json_object_get(p, "add_prefix_space")) || strview_is(text_of(scheme), "never"))
        t->metaspace = METASPACE_NEVER;
    else if (strview_is(text_of(scheme), "first"))
        t->metaspace = METASPACE_FIRST;
    else if (!scheme || strview_is(text_of(scheme), "always"))
        t->metaspace = METASPACE_ALWAYS;
    else
        return unsupported(r, "pre_tokenizer Metaspace prepend_scheme", text_of(scheme));
    return NIB_OK;
}

static nib_status read_pre_tokenizer(reader *r, const json_t *p, int depth) {
    if (!p || json_is_null(p))
        return NIB_OK;
    const strview type = get_text(p, "type");
    if (strview_is(type, "Sequence") && depth < MAX_DEPTH) {
        const json_t *list = json_object_get(p, "pretokenizers");
        for (size_t i = 0; i < json_array_size(list); i++)
            NIB_TRY(read_pre_tokenizer(r, json_array_get(list, i), depth + 1));
        return NIB_OK;
    }
    if (r->byte_level) /* later steps would see GPT-2's letters */
        return unsupported(r, "pre_tokenizer after ByteLevel", type);
    if (r->t->metaspace != METASPACE_NONE)
        return unsupported(r, "pre_tokenizer after Metaspace", type);
    if (strview_is(type, "Split"))
        return read_split(r, p);
    if (strview_is(type, "Metaspace"))
        return read_metaspace(r, p);
    splitter *s = &r->t->splitter;
    if (strview_is(type, "Digits")) {
        r->digits_first = r->digits_first || s->n_steps == 0;
        const bool alone = get_flag(p, "individual_digits");
        return splitter_add(s, (split_step){.kind = alone ? SPLIT_EACH_NUMBER : SPLIT_NUMBERS}, r->where,
                            r->err);
    }
    if (strview_is(type, "ByteLevel")) {
        r->byte_level = true;
        if (get_flag(p, "add_prefix_space"))
            return unsupported(r, "pre_tokenizer ByteLevel with", strview_of("add_prefix_space"));
        const json_t *use_regex = json_object_get(p, "use_regex");
        if (!use_regex || json_is_true(use_regex))
            return splitter_add(s, (split_step){.kind = SPLIT_GPT2}, r->where, r->err);
        return NIB_OK;
    }
    return unsupported(r, "pre_tokenizer", type);
}

/* ---- model ---- */

static nib_status fill_merges(const reader *r, json_lists_walk *walk) {
    strview left = {"", 0}, right = {"", 0};
    for (bool found = true; found;) {
        NIB_TRY(json_lists_next_merge(walk, &left, &right, &found, r->err));
        if (found)
            NIB_TRY(tokenizer_add_merge(r->t, left, right, walk->n - 1, true, r->where, r->err));
    }
    return NIB_OK;
}

static nib_status read_merges(const reader *r) {
    const strview list = r->lists.merges;
    if (list.n == 0)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: model.merges is missing, expected a list", r->where);
    const size_t most = json_lists_merges_bound(list);
    if (most > VOCAB_MAX_IDS)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: model.merges has more than %zu entries", r->where,
                        VOCAB_MAX_IDS);
    json_lists_walk walk = {.rest = list, .where = r->where, .field = "model.merges"};
    nib_status status = merge_rules_open_pairs(&r->t->rules, most, r->err);
    if (status == NIB_OK)
        status = fill_merges(r, &walk);
    json_lists_walk_free(&walk);
    return status;
}

static bool empty_or_absent(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value) || json_is_false(value) || text_of(value).n == 0;
}

static nib_status read_model_options(const reader *r, const json_t *model) {
    tokenizer *t = r->t;
    const strview type = get_text(model, "type");
    /* files older than the field are byte-pair models if they have merges */
    if (!strview_is(type, "BPE") && !(type.n == 0 && json_object_get(model, "merges")))
        return unsupported(r, "model.type", type);
    static const char *const absent[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++)
        if (json_is_string(json_object_get(model, absent[i])) && !empty_or_absent(model, absent[i]))
            return unsupported(r, "model option", strview_of(absent[i]));
    if (json_number_value(json_object_get(model, "dropout")) != 0)
        return unsupported(r, "model option", strview_of("dropout"));
    t->fuse_unk = get_flag(model, "fuse_unk");
    t->ignore_merges = get_flag(model, "ignore_merges");
    const json_t *unk = json_object_get(model, "unk_token");
    if (json_is_string(unk)) {
        t->unk = vocab_find(&t->words, text_of(unk).p, text_of(unk).n);
        if (t->unk < 0)
            return nib_fail(r->err, NIB_BAD_FILE, "%s: model.unk_token is not in the vocabulary", r->where);
    }
    return NIB_OK;
}

/* Characters are cut where no piece joins them, unless an unknown character can reach across the cut. */
static nib_status read_char_model(const reader *r, const json_t *model) {
    tokenizer *t = r->t;
    t->algorithm = ALGORITHM_CHAR_PAIRS;
    if (t->ignore_merges)
        return unsupported(r, "model option", strview_of("ignore_merges"));
    if (t->splitter.n_steps > 0)
        return unsupported(r, "pre_tokenizer of a model without ByteLevel:", strview_of("Split or Digits"));
    if ((r->splits_spaces || t->prefix_space) && !t->mark_spaces)
        return unsupported(r, "pre_tokenizer without Replace:", strview_of("Split"));
    if (t->metaspace != METASPACE_NONE && (t->mark_spaces || t->prefix_space))
        return unsupported(r, "pre_tokenizer with Replace or Prepend:", strview_of("Metaspace"));
    t->strip_space = t->metaspace == METASPACE_FIRST || t->metaspace == METASPACE_ALWAYS;
    const bool fallback = get_flag(model, "byte_fallback");
    bool all_bytes = fallback;
    for (int byte = 0; byte < 256; byte++) {
        char spelling[8];
        snprintf(spelling, sizeof spelling, "<0x%02X>", byte);
        const int32_t id = vocab_find(&t->words, spelling, 6);
        if (fallback && id >= 0 && t->words.pieces[id].kind == PIECE_NORMAL)
            t->words.pieces[id].kind = PIECE_BYTE;
        all_bytes = all_bytes && id >= 0;
    }
    NIB_TRY(tokenizer_bind_byte_pieces(t, r->where, r->err));
    for (int byte = 0; byte < 256 && !fallback; byte++)
        t->byte_id[byte] = -1;
    NIB_TRY(tokenizer_bind_space_marks(t, r->err));
    return all_bytes || t->unk < 0 ? tokenizer_learn_joins(t, r->err) : NIB_OK;
}

static nib_status read_byte_model(const reader *r, const json_t *model) {
    tokenizer *t = r->t;
    t->algorithm = ALGORITHM_BYTE_PAIRS;
    if (get_flag(model, "byte_fallback"))
        return unsupported(r, "model option with ByteLevel:", strview_of("byte_fallback"));
    if (t->mark_spaces || t->prefix_space || r->splits_spaces)
        return unsupported(r, "normalizer with ByteLevel:", strview_of("Replace"));
    NIB_TRY(tokenizer_bind_byte_letters(t, r->err));
    NIB_TRY(char_classes_open(&t->splitter.classes, r->digits_first ? CLASSES_DIGITS : CLASSES_TOKENIZERS,
                              r->err));
    t->splitter.has_classes = true;
    return NIB_OK;
}

/* ---- special ids ---- */

/* "bos_token": a string, or an object with "content". */
static int32_t named_id(const reader *r, const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);
    const strview text = text_of(json_is_object(value) ? json_object_get(value, "content") : value);
    return vocab_find(&r->t->words, text.p, text.n);
}

/* The special token in front of a TemplateProcessing's text is what the tokenizer puts before a prompt; one
 * behind it ends a text that is complete, while a prompt goes on. */
static nib_status read_post_processor(const reader *r, const json_t *p, int depth) {
    if (!p || json_is_null(p))
        return NIB_OK;
    const strview type = get_text(p, "type");
    if (strview_is(type, "Sequence") && depth < MAX_DEPTH) {
        const json_t *list = json_object_get(p, "processors");
        for (size_t i = 0; i < json_array_size(list); i++)
            NIB_TRY(read_post_processor(r, json_array_get(list, i), depth + 1));
        return NIB_OK;
    }
    if (strview_is(type, "ByteLevel"))
        return NIB_OK;
    if (!strview_is(type, "TemplateProcessing"))
        return unsupported(r, "post_processor", type);
    const json_t *single = json_object_get(p, "single");
    bool behind = false; /* the text */
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *special = json_object_get(json_array_get(single, i), "SpecialToken");
        behind |= !special;
        if (!special)
            continue;
        const strview name = get_text(special, "id");
        const int32_t id = vocab_find(&r->t->words, name.p, name.n);
        if (behind) {
            r->t->closing = r->t->closing < 0 ? id : r->t->closing;
            continue;
        }
        if (i > 0 || id < 0)
            return unsupported(r, "post_processor special token", name);
        r->t->bos = id;
        r->t->adds_bos = true;
    }
    return NIB_OK;
}

static nib_status read_config(const reader *r, const token_source *source) {
    tokenizer *t = r->t;
    if (t->bos < 0 && source->bos >= 0) {
        if ((size_t)source->bos >= t->words.n)
            return nib_fail(r->err, NIB_BAD_FILE, "%s: bos_token_id is %d, expected an id below %zu",
                            r->where, (int)source->bos, t->words.n);
        t->bos = source->bos;
    }
    if (source->config_json.n == 0)
        return NIB_OK;
    json_t *config;
    NIB_TRY(
        json_read(&config, source->config_json.p, source->config_json.n, "tokenizer_config.json", r->err));
    if (t->bos < 0)
        t->bos = named_id(r, config, "bos_token");
    const int32_t eos = named_id(r, config, "eos_token");
    nib_status status = NIB_OK;
    if (eos >= 0)
        status = tokenizer_add_end(t, eos, "eos_token", r->where, r->err);
    json_decref(config);
    return status;
}

static nib_status read_root(reader *r, const json_t *root, const token_source *source) {
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_object(model))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: tokenizer.json has no model, expected an object",
                        r->where);
    NIB_TRY(read_normalizer(r, json_object_get(root, "normalizer"), 0));
    NIB_TRY(read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer"), 0));
    NIB_TRY(read_vocab(r, added));
    NIB_TRY(read_model_options(r, model));
    NIB_TRY(read_merges(r));
    for (size_t i = 0; i < json_array_size(added); i++)
        NIB_TRY(read_added_token(r, json_array_get(added, i), i));
    NIB_TRY(r->byte_level ? read_byte_model(r, model) : read_char_model(r, model));
    NIB_TRY(read_post_processor(r, json_object_get(root, "post_processor"), 0));
    return read_config(r, source);
}

nib_status tokenizer_json_open(tokenizer *t, const token_source *source, nib_error *err) {
    reader r = {.t = t, .where = source->where, .err = err, .vocab_limit = source->vocab};
    json_t *root = NULL;
    nib_status status = json_lists_cut(&r.lists, source->json, err);
    if (status == NIB_OK)
        status = json_read(&root, r.lists.rest.bytes, r.lists.rest.n, source->where, err);
    if (status == NIB_OK)
        status = read_root(&r, root, source);
    json_decref(root);
    json_lists_free(&r.lists);
    return status;
}
