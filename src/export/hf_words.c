/* SPDX-License-Identifier: Apache-2.0
 *
 * The words of a directory: the source's files as they are, or tokenizer.json, tokenizer_config.json and
 * generation_config.json made from GGUF metadata. GGUF's strings are any bytes, JSON's are UTF-8: that is
 * compared first, so that what jansson refuses afterwards is for want of memory.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mapfile.h"
#include "base/quote.h"
#include "base/utf8.h"
#include "export/export_parts.h"
#include "export/spm_merges.h"

static const char WORD_START[] = "\xe2\x96\x81"; /* U+2581 */

/* ---- copying ---- */

static nib_status copy_file(const char *from, const char *directory, const char *name, nib_error *err) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", from, name);
    if (n < 0 || (size_t)n >= sizeof path || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return NIB_OK; /* not there */
    if (st.st_size == 0)
        return hf_side_write_text(directory, name, "", 0, err);
    mapfile map;
    NIB_TRY(mapfile_open(&map, path, err));
    nib_status status = hf_side_write_text(directory, name, map.bytes, map.size, err);
    mapfile_close(&map);
    return status;
}

/* Every file of a directory that nibble writes: first those it makes, then those it copies. */
#define N_MADE 4
static const char *const side_names[] = {
    "config.json",
    "hf_quant_config.json",
    "model.safetensors",
    HF_SIDE_MARK,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "Notice",
    "USE_POLICY.md",
};

const char *export_side_name(size_t i) {
    return i < sizeof side_names / sizeof side_names[0] ? side_names[i] : NULL;
}

bool hf_side_is_ours(const char *name) {
    const char *ours;
    for (size_t i = 0; (ours = export_side_name(i)); i++)
        if (strcmp(name, ours) == 0)
            return true;
    return false;
}

static nib_status copy_all(const char *from, const char *directory, nib_error *err) {
    const char *name;
    for (size_t i = N_MADE; (name = export_side_name(i)); i++)
        NIB_TRY(copy_file(from, directory, name, err));
    return NIB_OK;
}

/* ---- small helpers ---- */

static json_t *text_of(strview v) {
    return json_stringn(v.p, v.n);
}

static bool add(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

static bool is_id(const token_source *w, int32_t id) {
    return id >= 0 && (size_t)id < w->n_tokens;
}

/* ---- what JSON can hold ---- */

static bool is_text(strview v) {
    return v.n == 0 || (utf8_valid_prefix(v.p, v.n) == v.n && !memchr(v.p, '\0', v.n));
}

static nib_status check_texts(const token_source *w, const char *key, const strview *list, size_t n,
                              nib_error *err) {
    for (size_t i = 0; i < n; i++)
        if (!is_text(list[i]))
            return nib_fail(
                err, NIB_UNSUPPORTED,
                "%s: item %zu of %s (%s) is no UTF-8 text; tokenizer.json cannot hold it, write a "
                "GGUF file instead",
                w->where, i, key, QUOTE(list[i]));
    return NIB_OK;
}

static nib_status check_words(const token_source *w, nib_error *err) {
    NIB_TRY(check_texts(w, "tokenizer.ggml.tokens", w->tokens, w->n_tokens, err));
    NIB_TRY(check_texts(w, "tokenizer.ggml.merges", w->merges, w->n_merges, err));
    if (is_text(w->chat_template))
        return NIB_OK;
    return nib_fail(
        err, NIB_UNSUPPORTED,
        "%s: tokenizer.chat_template is no UTF-8 text; tokenizer_config.json cannot hold it, write a "
        "GGUF file instead",
        w->where);
}

/* ---- tokenizer.json ---- */

static json_t *split_step(const char *pattern) {
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior",
                     "Isolated", "invert", 0);
}

static json_t *byte_level(bool use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                     "use_regex", use_regex);
}

/* How byte pairs are cut: as the model's own tokenizer.json says it where that is known. NULL: no memory. */
static json_t *steps_of(const pretokenizer *pre) {
    const char *const *patterns = pre->json[0] ? pre->json : pre->steps;
    json_t *list = json_array();
    bool ok = list != NULL, gpt2 = false;
    for (size_t i = 0; i < PRETOKENIZER_MAX_STEPS && patterns[i]; i++) {
        bool last = i + 1 == PRETOKENIZER_MAX_STEPS || !patterns[i + 1];
        gpt2 = last && strcmp(patterns[i], PRETOKENIZER_GPT2) == 0;
        if (strcmp(patterns[i], PRETOKENIZER_EACH_NUMBER) == 0)
            ok &= json_array_append_new(
                      list, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1)) == 0;
        else if (!gpt2)
            ok &= json_array_append_new(list, split_step(patterns[i])) == 0;
    }
    ok &= json_array_append_new(list, byte_level(gpt2)) == 0;
    if (ok)
        return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
    json_decref(list);
    return NULL;
}

/* How text is cut before merging. */
static nib_status add_pre_tokenizer(json_t *root, const token_source *w, nib_error *err) {
    const pretokenizer *pre = token_source_pre(w);
    json_t *cut = NULL, *normalizer = json_null();
    if (strview_is(w->model, "llama") && w->add_space_prefix == 0) {
        cut = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "String", " ", "behavior",
                        "MergedWithPrevious", "invert", 0);
        normalizer = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ", "content",
                               WORD_START);
    } else if (strview_is(w->model, "llama")) {
        cut = json_null();
        normalizer = json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}, s:s}]}", "type", "Sequence",
                               "normalizers", "type", "Prepend", "prepend", WORD_START, "type", "Replace",
                               "pattern", "String", " ", "content", WORD_START);
    } else if (pre && !pre->characters) {
        cut = steps_of(pre);
        if (pre->nfc)
            normalizer = json_pack("{s:s}", "type", "NFC");
    } else {
        return nib_fail(
            err, NIB_UNSUPPORTED,
            "%s: the pre-tokenizer \"%s\" is none that nibble writes as tokenizer.json; write a GGUF file "
            "instead",
            w->where, QUOTE(w->pre));
    }
    bool ok = add(root, "normalizer", normalizer);
    ok &= add(root, "pre_tokenizer", cut); /* takes it also when the first failed */
    return ok ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
}

static json_t *decoder_of(const token_source *w) {
    if (!strview_is(w->model, "llama"))
        return byte_level(true);
    json_t *steps = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
                              WORD_START, "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (w->add_space_prefix != 0)
        json_array_append_new(
            steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

/* Puts BOS in front, where the model wants it. */
static json_t *post_processor_of(const token_source *w) {
    if (!token_source_adds_bos(w) || !is_id(w, w->bos))
        return strview_is(w->model, "llama") ? json_null() : byte_level(true);
    strview t = w->tokens[w->bos];
    json_t *special = json_object();
    if (special)
        json_object_setn_new(
            special, t.p, t.n,
            json_pack("{s:o, s:[i], s:[o]}", "id", text_of(t), "ids", w->bos, "tokens", text_of(t)));
    return json_pack(
        "{s:s, s:[{s:{s:o, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:o, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}], "
        "s:o}",
        "type", "TemplateProcessing", "single", "SpecialToken", "id", text_of(t), "type_id", 0, "Sequence",
        "id", "A", "type_id", 0, "pair", "SpecialToken", "id", text_of(t), "type_id", 0, "Sequence", "id",
        "A", "type_id", 0, "Sequence", "id", "B", "type_id", 1, "special_tokens", special);
}

static nib_status add_vocab(json_t *model, json_t *added, const token_source *w, nib_error *err) {
    json_t *vocab = json_object();
    bool ok = vocab != NULL;
    for (size_t i = 0; i < w->n_tokens && ok; i++) {
        strview t = w->tokens[i];
        if (json_object_getn(vocab, t.p, t.n)) {
            json_decref(vocab);
            return nib_fail(
                err, NIB_UNSUPPORTED,
                "%s: item %zu of tokenizer.ggml.tokens (%s) is there twice; tokenizer.json cannot "
                "hold it, write a GGUF file instead",
                w->where, i, QUOTE(t));
        }
        ok = json_object_setn_new(vocab, t.p, t.n, json_integer((json_int_t)i)) == 0;
        int type = token_source_type(w, i);
        if (type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNKNOWN)
            ok &= json_array_append_new(added, json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id",
                                                         (json_int_t)i, "content", text_of(t), "single_word",
                                                         0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                                         "special", type != TOKEN_USER)) == 0;
    }
    ok = add(model, "vocab", vocab) && ok;
    return ok ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
}

static nib_status add_merges(json_t *model, const token_source *w, nib_error *err) {
    json_t *out;
    if (strview_is(w->model, "llama")) {
        NIB_TRY(spm_merges(&out, w, err));
    } else {
        out = json_array();
        for (size_t i = 0; out && i < w->n_merges; i++)
            if (json_array_append_new(out, text_of(w->merges[i])) != 0) {
                json_decref(out);
                out = NULL;
            }
    }
    return add(model, "merges", out) ? NIB_OK
                                     : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its merges", w->where);
}

static nib_status fill_tokenizer(json_t *root, const token_source *w, nib_error *err) {
    const pretokenizer *pre = token_source_pre(w);
    bool spm = strview_is(w->model, "llama");
    json_t *unk = spm && is_id(w, w->unk) ? text_of(w->tokens[w->unk]) : json_null();
    json_t *model = json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout",
                              "unk_token", unk, "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                              spm, "byte_fallback", spm, "ignore_merges", pre && pre->ignore_merges);
    json_t *added = json_array();
    bool ok = add(root, "version", json_string("1.0")) && add(root, "truncation", json_null()) &&
              add(root, "padding", json_null());
    ok &= add(root, "added_tokens", added); /* from here on root owns both */
    ok &= add(root, "model", model);
    if (!ok)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
    NIB_TRY(add_pre_tokenizer(root, w, err));
    if (!add(root, "post_processor", post_processor_of(w)) || !add(root, "decoder", decoder_of(w)))
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
    NIB_TRY(add_vocab(model, added, w, err));
    return add_merges(model, w, err);
}

/* ---- tokenizer_config.json and generation_config.json ---- */

static bool add_token(json_t *object, const char *key, const token_source *w, int32_t id) {
    return !is_id(w, id) || add(object, key, text_of(w->tokens[id]));
}

static nib_status fill_config(json_t *root, const export_plan *plan, nib_error *err) {
    const token_source *w = &plan->in->words;
    bool ok = add(root, "tokenizer_class", json_string("PreTrainedTokenizerFast")) &&
              add(root, "clean_up_tokenization_spaces", json_false()) &&
              add(root, "model_max_length", json_integer(plan->in->hp.context_len)) &&
              add_token(root, "bos_token", w, w->bos) && add_token(root, "eos_token", w, w->eos) &&
              add_token(root, "unk_token", w, w->unk) && add_token(root, "pad_token", w, w->pad);
    if (w->add_bos >= 0)
        ok = ok && add(root, "add_bos_token", json_boolean(w->add_bos));
    if (w->chat_template.n)
        ok = ok && add(root, "chat_template", text_of(w->chat_template));
    return ok ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
}

/* What ends an answer: eos, eot, and the turn ends that chat models of these families use. */
static json_t *end_ids(const token_source *w) {
    static const char *const turns[] = {"<end_of_turn>", "<|im_end|>", "<|eot_id|>"};
    json_t *list = json_array();
    if (is_id(w, w->eos))
        json_array_append_new(list, json_integer(w->eos));
    if (is_id(w, w->eot) && w->eot != w->eos)
        json_array_append_new(list, json_integer(w->eot));
    for (size_t i = 0; i < w->n_tokens; i++)
        for (size_t t = 0; token_source_type(w, i) == TOKEN_CONTROL && t < sizeof turns / sizeof turns[0];
             t++)
            if (strview_is(w->tokens[i], turns[t]) && (int32_t)i != w->eos && (int32_t)i != w->eot)
                json_array_append_new(list, json_integer((json_int_t)i));
    return list;
}

static nib_status fill_generation(json_t *root, const token_source *w, nib_error *err) {
    bool ok = add(root, "_from_model_config", json_true()) && add(root, "eos_token_id", end_ids(w));
    if (is_id(w, w->bos))
        ok = ok && add(root, "bos_token_id", json_integer(w->bos));
    if (is_id(w, w->pad))
        ok = ok && add(root, "pad_token_id", json_integer(w->pad));
    return ok ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
}

static nib_status write_root(const export_plan *plan, const char *directory, int which, nib_error *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"};
    const token_source *w = &plan->in->words;
    json_t *root = json_object();
    nib_status status = root ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its words", w->where);
    if (status == NIB_OK)
        status = which == 0   ? fill_tokenizer(root, w, err)
                 : which == 1 ? fill_config(root, plan, err)
                              : fill_generation(root, w, err);
    if (status == NIB_OK)
        status = hf_side_write_json(directory, names[which], root, err);
    json_decref(root);
    return status;
}

nib_status hf_words_write(const export_plan *plan, const char *directory, nib_error *err) {
    if (!plan->in->gguf)
        return plan->in->directory ? copy_all(plan->in->directory, directory, err) : NIB_OK;
    if (plan->in->words.n_tokens == 0)
        return NIB_OK; /* a model without words stays one */
    NIB_TRY(check_words(&plan->in->words, err));
    for (int which = 0; which < 3; which++)
        NIB_TRY(write_root(plan, directory, which, err));
    return NIB_OK;
}
