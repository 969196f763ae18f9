/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json as GGUF metadata. Two kinds are known: byte-level BPE (model "gpt2"; the pre-tokenizer is
 * told by what tokenizer.json says) and BPE with byte fallback over U+2581 words (model "llama",
 * SentencePiece style), where a piece's score is minus the rank of the first merge that makes it.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "export/export_parts.h"
#include "store/json_file.h"

#define PAD_BYTES        ((size_t)32)
#define MAX_CONFIG_BYTES ((size_t)32 << 20)

typedef struct lexicon {
    const export_plan *plan;
    json_t *root, *config; /* tokenizer.json, tokenizer_config.json or NULL */
    json_t *model_config;  /* config.json or NULL */
    const json_t *model;
    bool spm;
    size_t n;
    strview *tokens; /* [n] */
    int32_t *types;  /* [n] */
    float *scores;   /* [n], spm */
    char *padding;   /* the texts of ids without a token */
    nib_error *err;
} lexicon;

static nib_status no_memory(const lexicon *x) {
    return nib_fail(x->err, NIB_NO_MEMORY, "%s: no memory for its words", x->plan->in->path);
}

static nib_status unsupported(const lexicon *x, const char *what) {
    return nib_fail(x->err, NIB_UNSUPPORTED, "%s: tokenizer.json: %s, which nibble does not write as GGUF",
                    x->plan->in->path, what);
}

static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "";
}

/* ---- which kind ---- */

/* The member of TYPE in a step: the step itself, or one of a Sequence's LIST. */
static const json_t *find_step(const json_t *step, const char *list, const char *type) {
    if (strcmp(type_of(step), type) == 0)
        return step;
    const json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(step, list), i, entry) {
        if (strcmp(type_of(entry), type) == 0)
            return entry;
    }
    return NULL;
}

/* The pattern that a step of tokenizer.json cuts by; "" when it cuts nothing, NULL when it is none that GGUF
 * has a name for. */
static const char *pattern_of(const json_t *step) {
    if (strcmp(type_of(step), "ByteLevel") == 0) {
        const json_t *regex = json_object_get(step, "use_regex");
        return json_is_true(json_object_get(step, "add_prefix_space")) ? NULL
               : !regex || json_is_true(regex)                         ? PRETOKENIZER_GPT2
                                                                       : "";
    }
    if (strcmp(type_of(step), "Digits") == 0)
        return json_is_true(json_object_get(step, "individual_digits")) ? PRETOKENIZER_EACH_NUMBER
                                                                        : "\\p{N}+";
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    if (strcmp(type_of(step), "Split") != 0 || !behavior || strcmp(behavior, "Isolated") != 0)
        return NULL;
    return json_string_value(json_object_get(json_object_get(step, "pattern"), "Regex"));
}

/* llama.cpp's name of a byte-level pre-tokenizer; NULL when it is none of those nibble knows. */
static const char *pre_of(const json_t *root, const json_t *model, char out[PRETOKENIZER_NAME_MAX]) {
    const json_t *cut = json_object_get(root, "pre_tokenizer"), *list = json_object_get(cut, "pretokenizers"),
                 *step;
    const char *patterns[PRETOKENIZER_MAX_STEPS];
    size_t n = 0, i;
    if (!find_step(cut, "pretokenizers", "ByteLevel"))
        return NULL;
    if (!list) {
        patterns[0] = pattern_of(cut);
        n = patterns[0] && *patterns[0];
    }
    json_array_foreach(list, i, step) {
        const char *pattern = pattern_of(step);
        if (!pattern || (*pattern && n == PRETOKENIZER_MAX_STEPS))
            return NULL;
        if (*pattern)
            patterns[n++] = pattern;
    }
    return pretokenizer_name(patterns, n, json_is_true(json_object_get(model, "ignore_merges")), out);
}

static bool has_space_prefix(const json_t *root) {
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *cut = find_step(json_object_get(root, "pre_tokenizer"), "pretokenizers", "Metaspace");
    if (find_step(normalizer, "normalizers", "Prepend"))
        return true;
    const char *scheme = json_string_value(json_object_get(cut, "prepend_scheme"));
    return cut && (!scheme || strcmp(scheme, "never") != 0);
}

/* The token that the post-processor puts in front; NULL when it puts none. */
static const char *put_in_front(const json_t *root) {
    const json_t *post =
        find_step(json_object_get(root, "post_processor"), "processors", "TemplateProcessing");
    const json_t *first = json_array_get(json_object_get(post, "single"), 0);
    return json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
}

/* ---- tokens ---- */

static nib_status set_token(lexicon *x, json_int_t id, strview text, int type) {
    if (id < 0 || (size_t)id >= x->n)
        return nib_fail(x->err, NIB_BAD_FILE,
                        "%s: tokenizer.json: id %lld is not below the %zu rows of the embedding",
                        x->plan->in->path, (long long)id, x->n);
    if (text.n > TOKEN_SOURCE_MAX_PIECE)
        return nib_fail(x->err, NIB_BAD_FILE,
                        "%s: tokenizer.json: the piece of id %lld has %zu bytes, expected at most %d",
                        x->plan->in->path, (long long)id, text.n, TOKEN_SOURCE_MAX_PIECE);
    x->tokens[id] = text;
    x->types[id] = type;
    return NIB_OK;
}

static bool is_byte_piece(const char *text) {
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>';
}

static nib_status read_vocab(lexicon *x) {
    const char *text;
    const json_t *value, *entry;
    size_t i;
    const char *unk = json_string_value(json_object_get(x->model, "unk_token"));
    json_object_foreach((json_t *)json_object_get(x->model, "vocab"), text, value) {
        int type = x->spm && is_byte_piece(text)             ? TOKEN_BYTE
                   : x->spm && unk && strcmp(unk, text) == 0 ? TOKEN_UNKNOWN
                                                             : TOKEN_NORMAL;
        if (!json_is_integer(value))
            return unsupported(x, "an id that is no integer");
        NIB_TRY(set_token(x, json_integer_value(value), strview_of(text), type));
    }
    json_array_foreach(json_object_get(x->root, "added_tokens"), i, entry) {
        const json_t *id = json_object_get(entry, "id"), *content = json_object_get(entry, "content");
        if (!json_is_integer(id) || !json_is_string(content))
            return unsupported(x, "an added token without id or content");
        if (json_integer_value(id) >= (json_int_t)x->n)
            continue; /* Gemma 3's <image_soft_token>: its embedding is an image, no row of the table */
        int type = json_is_true(json_object_get(entry, "special")) ? TOKEN_CONTROL : TOKEN_USER;
        if (x->spm && unk && strcmp(unk, json_string_value(content)) == 0)
            type = TOKEN_UNKNOWN;
        NIB_TRY(set_token(x, json_integer_value(id),
                          (strview){json_string_value(content), json_string_length(content)}, type));
    }
    return NIB_OK;
}

/* Rows of the embedding without a word: "[PAD123]", as converters name them. */
static nib_status pad_vocab(lexicon *x) {
    size_t missing = 0, used = 0;
    for (size_t i = 0; i < x->n; i++)
        missing += x->types[i] == 0;
    x->padding = mem_array(missing + 1, PAD_BYTES);
    if (!x->padding)
        return no_memory(x);
    for (size_t i = 0; i < x->n; i++) {
        if (x->types[i])
            continue;
        char *text = x->padding + PAD_BYTES * used++;
        snprintf(text, PAD_BYTES, "[PAD%zu]", i);
        x->tokens[i] = strview_of(text);
        x->types[i] = TOKEN_UNUSED;
    }
    return NIB_OK;
}

/* ---- merges ---- */

/* "left right" or ["left", "right"]. */
static bool read_merge(const json_t *entry, strview *left, strview *right) {
    if (json_is_array(entry) && json_array_size(entry) == 2) {
        const json_t *l = json_array_get(entry, 0), *r = json_array_get(entry, 1);
        *left = (strview){json_string_value(l), json_string_length(l)};
        *right = (strview){json_string_value(r), json_string_length(r)};
        return left->p && right->p;
    }
    const char *text = json_string_value(entry), *space = text ? strchr(text, ' ') : NULL;
    if (!space)
        return false;
    *left = (strview){text, (size_t)(space - text)};
    *right = strview_of(space + 1);
    return true;
}

static nib_status write_merges(lexicon *x, gguf_write *out) {
    const json_t *list = json_object_get(x->model, "merges"), *entry;
    size_t n = json_array_size(list), i, bytes = 0;
    strview *texts = mem_array(n, sizeof *texts), left, right;
    nib_status status = texts ? NIB_OK : no_memory(x);
    char *pool = NULL, *p;
    for (int pass = 0; pass < 2 && status == NIB_OK; pass++) {
        if (pass && !(pool = mem_alloc(bytes)))
            status = no_memory(x);
        p = pool;
        json_array_foreach(list, i, entry) {
            if (status == NIB_OK && !read_merge(entry, &left, &right))
                status = unsupported(x, "a merge that is no pair");
            if (status != NIB_OK)
                break;
            bytes += pass ? 0 : left.n + right.n + 1;
            if (pass) {
                memcpy(p, left.p, left.n);
                p[left.n] = ' ';
                memcpy(p + left.n + 1, right.p, right.n);
                texts[i] = (strview){p, left.n + 1 + right.n};
                p += texts[i].n;
            }
        }
    }
    if (status == NIB_OK)
        gguf_write_texts(out, "tokenizer.ggml.merges", texts, n);
    mem_free(texts);
    mem_free(pool);
    return status;
}

static nib_status score_pieces(lexicon *x) {
    const json_t *vocab = json_object_get(x->model, "vocab"), *entry;
    char whole[4096];
    strview left, right;
    size_t i, rank = 0;
    for (i = 0; i < x->n; i++)
        x->scores[i] = x->types[i] == TOKEN_BYTE ? 0.0f : -1e6f;
    json_array_foreach(json_object_get(x->model, "merges"), i, entry) {
        if (!read_merge(entry, &left, &right) || left.n + right.n >= sizeof whole)
            return unsupported(x, "a merge that is no pair of short pieces");
        memcpy(whole, left.p, left.n);
        memcpy(whole + left.n, right.p, right.n);
        const json_t *id = json_object_getn(vocab, whole, left.n + right.n);
        if (!json_is_integer(id))
            return unsupported(x, "a merge whose result is no token");
        float *score = &x->scores[json_integer_value(id)]; /* read_vocab has checked the id */
        if (*score == -1e6f)
            *score = -(float)rank++;
    }
    return NIB_OK;
}

/* ---- special ids ---- */

static int32_t find_token(const lexicon *x, const char *text) {
    for (size_t i = 0; text && i < x->n; i++)
        if (strview_is(x->tokens[i], text) && x->types[i] != TOKEN_UNUSED)
            return (int32_t)i;
    return -1;
}

/* "bos_token": "<s>" or {"content": "<s>"}. */
static int32_t configured(const lexicon *x, const char *key) {
    const json_t *value = json_object_get(x->config, key);
    const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    return find_token(x, text);
}

/* What goes in front, or would: as it is done, as config.json says, as tokenizer_config.json says. */
static int32_t find_bos(const lexicon *x) {
    const json_t *text = json_object_get(x->model_config, "text_config");
    const json_t *value = json_object_get(text, "bos_token_id");
    int32_t id = find_token(x, put_in_front(x->root));
    if (!json_is_integer(value))
        value = json_object_get(x->model_config, "bos_token_id");
    if (id < 0 && json_is_integer(value) && json_integer_value(value) >= 0 &&
        json_integer_value(value) < (json_int_t)x->n)
        id = (int32_t)json_integer_value(value);
    return id >= 0 ? id : configured(x, "bos_token");
}

static void write_id(gguf_write *out, const char *key, int32_t id) {
    if (id >= 0)
        gguf_write_u32(out, key, (uint32_t)id);
}

static void write_special(const lexicon *x, gguf_write *out) {
    const token_source *w = &x->plan->in->words;
    int32_t eos = configured(x, "eos_token"), eot = -1;
    if (eos < 0 && w->n_extra_eos)
        eos = w->extra_eos[0];
    for (int32_t i = 0; i < w->n_extra_eos && eot < 0; i++)
        if (w->extra_eos[i] != eos)
            eot = w->extra_eos[i];
    const json_t *bos = json_object_get(x->config, "add_bos_token");
    write_id(out, "tokenizer.ggml.bos_token_id", find_bos(x));
    write_id(out, "tokenizer.ggml.eos_token_id", eos);
    write_id(out, "tokenizer.ggml.eot_token_id", eot);
    write_id(out, "tokenizer.ggml.unknown_token_id", configured(x, "unk_token"));
    write_id(out, "tokenizer.ggml.padding_token_id", configured(x, "pad_token"));
    gguf_write_bool(out, "tokenizer.ggml.add_bos_token",
                    put_in_front(x->root) || (x->spm && json_is_true(bos)));
    gguf_write_bool(out, "tokenizer.ggml.add_eos_token", false);
    if (x->spm)
        gguf_write_bool(out, "tokenizer.ggml.add_space_prefix", has_space_prefix(x->root));
    if (w->chat_template.n)
        gguf_write_text(out, "tokenizer.chat_template", w->chat_template);
}

/* ---- all of it ---- */

static nib_status write_lexicon(lexicon *x, gguf_write *out) {
    strview chat =
        x->plan->in->words.chat_template; /* a file of its own is any bytes, GGUF's strings are not */
    if (utf8_valid_prefix(chat.p, chat.n) != chat.n)
        return nib_fail(x->err, NIB_BAD_FILE, "%s: the chat template is no UTF-8 text", x->plan->in->path);
    NIB_TRY(read_vocab(x));
    NIB_TRY(pad_vocab(x));
    char name[PRETOKENIZER_NAME_MAX];
    const char *pre = x->spm ? "default" : pre_of(x->root, x->model, name);
    if (!pre)
        return unsupported(x, "a pre-tokenizer that GGUF has no name for");
    gguf_write_text(out, "tokenizer.ggml.model", strview_of(x->spm ? "llama" : "gpt2"));
    gguf_write_text(out, "tokenizer.ggml.pre", strview_of(pre));
    gguf_write_texts(out, "tokenizer.ggml.tokens", x->tokens, x->n);
    gguf_write_array(out, "tokenizer.ggml.token_type", GGUF_I32, x->types, x->n);
    if (x->spm) {
        NIB_TRY(score_pieces(x));
        gguf_write_array(out, "tokenizer.ggml.scores", GGUF_F32, x->scores, x->n);
    } else {
        NIB_TRY(write_merges(x, out));
    }
    write_special(x, out);
    return NIB_OK;
}

static nib_status open_lexicon(lexicon *x) {
    const token_source *w = &x->plan->in->words;
    NIB_TRY(json_read(&x->root, w->json.p, w->json.n, w->where, x->err));
    if (w->config_json.n)
        NIB_TRY(json_read(&x->config, w->config_json.p, w->config_json.n, w->where, x->err));
    if (x->plan->in->directory) {
        char path[4096];
        int n = snprintf(path, sizeof path, "%s/config.json", x->plan->in->directory);
        if (n > 0 && (size_t)n < sizeof path)
            NIB_TRY(json_file_read(&x->model_config, path, MAX_CONFIG_BYTES, x->err));
    }
    x->model = json_object_get(x->root, "model");
    if (strcmp(type_of(x->model), "BPE") != 0 && !json_is_object(json_object_get(x->model, "merges")) &&
        !json_is_array(json_object_get(x->model, "merges")))
        return unsupported(x, "a model other than BPE");
    x->spm = json_is_true(json_object_get(x->model, "byte_fallback"));
    x->n = (size_t)x->plan->in->hp.vocab;
    x->tokens = mem_array(x->n, sizeof *x->tokens);
    x->types = mem_array(x->n, sizeof *x->types);
    x->scores = mem_array(x->n, sizeof *x->scores);
    return x->tokens && x->types && x->scores ? NIB_OK : no_memory(x);
}

nib_status gguf_words_write(const export_plan *plan, gguf_write *out, nib_error *err) {
    lexicon x = {.plan = plan, .err = err};
    if (plan->in->words.json.n == 0)
        return nib_fail(
            err, NIB_UNSUPPORTED,
            "%s: has no tokenizer.json; without words a GGUF file is of no use, write a directory",
            plan->in->path);
    nib_status status = open_lexicon(&x);
    if (status == NIB_OK)
        status = write_lexicon(&x, out);
    json_decref(x.root);
    json_decref(x.config);
    json_decref(x.model_config);
    mem_free(x.tokens);
    mem_free(x.types);
    mem_free(x.scores);
    mem_free(x.padding);
    return status;
}
