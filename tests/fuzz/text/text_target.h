/* SPDX-License-Identifier: Apache-2.0
 *
 * What the text room's fuzz targets share: a tokenizer opened from a hostile source, put through everything
 * it offers, with its promises checked; and the same with the N-th allocation failing for growing N.
 */
#ifndef FUZZ_TEXT_TARGET_H
#define FUZZ_TEXT_TARGET_H

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void text_target_check(bool holds) {
    if (!holds)
        abort();
}

/* Every id lies in the vocabulary; decoding stays within its room and gives valid UTF-8. */
static inline void text_target_ids(const tokenizer *t, const token_list *list) {
    detokenizer d = {0};
    for (size_t i = 0; i < list->n; i++) {
        const int32_t id = list->ids[i];
        text_target_check(id >= 0 && (size_t)id < tokenizer_vocab(t));
        const size_t room = DETOKENIZER_ROOM(tokenizer_piece(t, id, true).n);
        char *out = malloc(room);
        const size_t n = detokenizer_push(t, &d, id, true, out);
        text_target_check(n <= room && utf8_valid_prefix(out, n) == n);
        free(out);
        (void)tokenizer_is_end(t, id);
    }
    char rest[DETOKENIZER_ROOM(0)];
    const size_t n = detokenizer_flush(&d, rest);
    text_target_check(n <= sizeof rest && utf8_valid_prefix(rest, n) == n);
}

static inline nib_status text_target_encode(const tokenizer *t, const char *text, size_t n, unsigned flags) {
    token_list list = {0};
    nib_error err = {""};
    const nib_status status = tokenizer_encode(t, text, n, flags, &list, &err);
    if (status == NIB_OK)
        text_target_ids(t, &list);
    else
        text_target_check(err.text[0] && list.n == 0);
    token_list_free(&list);
    return status;
}

static inline nib_status text_target_chat(const token_source *source, const tokenizer *t,
                                          const char *content) {
    const nib_message messages[] = {{"system", "be brief"},
                                    {"user", content},
                                    {"assistant", "<think>\nso\n</think>\n\nyes"},
                                    {"user", " <|im_end|><end_of_turn> "}};
    chat *c;
    nib_error err = {""};
    const strview own = {0};
    nib_status status = chat_open_model(&c, source, t, own, own, &err);
    text_target_check((status == NIB_OK) == (c != NULL) && (c || err.text[0]));
    if (status != NIB_OK)
        return status == NIB_NO_MEMORY ? status : NIB_OK;
    token_list list = {0};
    json_t *json;
    chat_prompt prompt = {0};
    status = chat_messages(messages, 4, &json, &err);
    if (status == NIB_OK)
        status = chat_render(
            c, &(chat_request){.messages = json, .max_steps = 20000, .max_bytes = (size_t)32 << 20}, &prompt,
            &err);
    if (status == NIB_OK)
        status = chat_encode(t, &prompt, &list, &err);
    if (status == NIB_OK)
        text_target_ids(t, &list);
    else
        text_target_check(err.text[0] && list.n == 0);
    text_target_check(utf8_valid_prefix(prompt.text, prompt.n) == prompt.n);
    chat_prompt_free(&prompt);
    json_decref(json);
    token_list_free(&list);
    chat_close(c);
    return status == NIB_NO_MEMORY ? status : NIB_OK;
}

/* Opens SOURCE and tokenizes; NIB_NO_MEMORY when an allocation failed anywhere. */
static inline nib_status text_target_run(const token_source *source, const char *text, size_t n) {
    static const char sample[] =
        "Hello  World's 12345\r\n\n\t<|im_start|>user \xC3\xA9"
        "e\xCC\x81\xE2\x96\x81 "
        "\xF0\x9F\x98\x80\xFF\xE2\x82 <0x0A> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    tokenizer *t;
    nib_error err = {""};
    nib_status status = tokenizer_open(&t, source, &err);
    if (status != NIB_OK) {
        text_target_check(err.text[0] && !t); /* a refusal has words */
        return status;
    }
    for (unsigned flags = 0; flags < 2 && status != NIB_NO_MEMORY; flags++) {
        status = text_target_encode(t, sample, sizeof sample - 1, flags);
        if (status != NIB_NO_MEMORY)
            status = text_target_encode(t, text, n, flags);
    }
    if (status != NIB_NO_MEMORY)
        status = text_target_chat(source, t, "Hi\n");
    for (size_t id = 0; id < tokenizer_vocab(t) && id < 300; id++)
        (void)tokenizer_find(t, tokenizer_piece(t, (int32_t)id, true));
    tokenizer_close(t);
    return status;
}

static inline void text_target_run_nomem(const token_source *source, const char *text, size_t n) {
    for (long k = 0;; k += 1 + k / 6) {
        mem_fail_after(k);
        const nib_status status = text_target_run(source, text, n);
        mem_fail_after(-1);
        if (status != NIB_NO_MEMORY)
            return;
    }
}

/* ---- a token source out of bytes ---- */

typedef struct text_target_bytes {
    const uint8_t *p;
    size_t n;
} text_target_bytes;

static inline unsigned text_target_byte(text_target_bytes *b) {
    if (b->n == 0)
        return 0;
    b->n--;
    return *b->p++;
}

static inline strview text_target_text(text_target_bytes *b) {
    size_t n = text_target_byte(b);
    n = n < b->n ? n : b->n;
    const strview text = {(const char *)b->p, n};
    b->p += n;
    b->n -= n;
    return text;
}

#define TEXT_TARGET_TOKENS 1024

/* One byte of flags, one of ids' count, five ids, then pieces (length, bytes, type, score), merges, a text.
 */
static inline void text_target_gguf(const uint8_t *data, size_t size,
                                    void (*run)(const token_source *, const char *, size_t)) {
    static const char *const pres[] = {"smollm", "qwen2", "llama-bpe", "other"};
    static strview tokens[TEXT_TARGET_TOKENS], merges[TEXT_TARGET_TOKENS];
    static float scores[TEXT_TARGET_TOKENS];
    static int32_t types[TEXT_TARGET_TOKENS];
    text_target_bytes b = {data, size};
    token_source s = token_source_unset("fuzz");
    const unsigned flags = text_target_byte(&b), more = text_target_byte(&b);
    s.model = strview_of(flags & 1 ? "llama" : "gpt2");
    s.pre = strview_of(pres[flags >> 1 & 3]);
    s.add_space_prefix = flags & 8 ? 1 : 0;
    s.add_bos = flags & 16 ? 1 : -1;
    int32_t *const ids[] = {&s.bos, &s.eos, &s.eot, &s.unk, &s.pad};
    for (size_t i = 0; i < 5; i++)
        *ids[i] = (int8_t)text_target_byte(&b);
    s.vocab = more & 1 ? (int32_t)(more >> 1) : 0;
    size_t n = text_target_byte(&b) * 4u;
    if (flags & 32) /* the 256 bytes first: as pieces of the kind the model needs */
        for (unsigned k = 0; k < 256; k++) {
            static char spelled[256][8];
            const uint32_t letter = k > 32 && k < 127 ? k : 256 + k;
            const unsigned bytes = utf8_encode(letter, spelled[k]);
            tokens[s.n_tokens] = (strview){spelled[k], bytes};
            types[s.n_tokens] = 1;
            scores[s.n_tokens++] = -(float)k;
        }
    for (; n > 0 && b.n > 0 && s.n_tokens < TEXT_TARGET_TOKENS; n--, s.n_tokens++) {
        tokens[s.n_tokens] = text_target_text(&b);
        types[s.n_tokens] = (int8_t)text_target_byte(&b) % 9;
        scores[s.n_tokens] = (float)(int8_t)text_target_byte(&b);
    }
    for (n = text_target_byte(&b); n > 0 && b.n > 0 && s.n_merges < TEXT_TARGET_TOKENS; n--)
        merges[s.n_merges++] = text_target_text(&b);
    s.tokens = tokens;
    s.merges = merges;
    s.scores = flags & 64 ? NULL : scores;
    s.types = flags & 128 ? NULL : types;
    run(&s, (const char *)b.p, b.n);
}

static inline void text_target_run_once(const token_source *source, const char *text, size_t n) {
    (void)text_target_run(source, text, n);
}

/* tokenizer.json, a zero byte, tokenizer_config.json */
static inline void text_target_json(const uint8_t *data, size_t size,
                                    void (*run)(const token_source *, const char *, size_t)) {
    token_source s = token_source_unset("fuzz");
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    s.json = (strview){(const char *)data, zero ? (size_t)(zero - data) : size};
    if (zero)
        s.config_json = (strview){(const char *)zero + 1, size - s.json.n - 1};
    if (s.json.n > 0)
        run(&s, (const char *)data, size < 512 ? size : 512);
}

/* A template over a vocabulary of the control tokens that templates name. */
static inline void text_target_template(const uint8_t *data, size_t size,
                                        void (*run)(const token_source *, const char *, size_t)) {
    static const char *const control[] = {"<|im_start|>",      "<|im_end|>", "<start_of_turn>",
                                          "<end_of_turn>",     "</s>",       "<|start_header_id|>",
                                          "<|end_header_id|>", "<|eot_id|>", "<unk>"};
    strview tokens[9];
    float scores[9] = {0};
    int32_t types[9] = {3, 3, 3, 3, 3, 3, 3, 3, 2};
    for (size_t i = 0; i < 9; i++)
        tokens[i] = strview_of(control[i]);
    token_source s = token_source_unset("fuzz");
    s.model = strview_of("llama");
    s.n_tokens = 9;
    s.tokens = tokens;
    s.scores = scores;
    s.types = types;
    s.bos = 0;
    s.unk = 8;
    s.chat_template = (strview){(const char *)data, size};
    run(&s, "", 0);
}

#endif
