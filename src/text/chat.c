/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations to ids. What lies between two control tokens is one text, the template's words and the
 * user's together, because merges may cross from one to the other; it is tokenized without control tokens.
 */
#include "text/chat.h"

#include "base/utf8.h"
#include "text/text_buffer.h"

typedef struct builder {
    const chat_template *c;
    const tokenizer *t;
    token_list *out;
    nib_error *err;
    text_buffer text; /* since the last control token */
} builder;

static nib_status add(builder *b, strview text) {
    return text_buffer_append(&b->text, text.p, text.n, b->err);
}

static nib_status words(builder *b, const char *text) {
    return add(b, strview_of(text));
}

static nib_status flush(builder *b) {
    const size_t n = b->text.n;
    b->text.n = 0;
    return n ? tokenizer_encode(b->t, b->text.bytes, n, TOKENIZE_NO_SPECIAL, b->out, b->err) : NIB_OK;
}

static nib_status control_id(builder *b, int32_t id) {
    NIB_TRY(flush(b));
    return token_list_push(b->out, id, b->err);
}

static nib_status control(builder *b, const char *name) {
    return control_id(b, tokenizer_find(b->t, strview_of(name)));
}

/* ---- Python's string methods, which the templates use ---- */

/* What str.strip() takes for white space. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static strview strip(strview s) {
    uint32_t code;
    unsigned bad, bytes;
    while (s.n > 0 && (bytes = utf8_decode((const unsigned char *)s.p, s.n, &code, &bad)) && is_space(code)) {
        s.p += bytes;
        s.n -= bytes;
    }
    while (s.n > 0) {
        size_t last = s.n - 1;
        while (last > 0 && s.n - last < 4 && ((unsigned char)s.p[last] & 0xC0) == 0x80)
            last--;
        bytes = utf8_decode((const unsigned char *)s.p + last, s.n - last, &code, &bad);
        if (bytes != s.n - last || !is_space(code))
            break;
        s.n = last;
    }
    return s;
}

static strview strip_newlines(strview s, bool left, bool right) {
    while (left && s.n > 0 && s.p[0] == '\n') {
        s.p++;
        s.n--;
    }
    while (right && s.n > 0 && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

/* The part of S before the first, or after the last, MARK; S when there is none. */
static strview before_first(strview s, const char *mark) {
    const char *at = memmem(s.p, s.n, mark, strlen(mark));
    return at ? (strview){s.p, (size_t)(at - s.p)} : s;
}

static strview after_last(strview s, const char *mark) {
    const char *at;
    while ((at = memmem(s.p, s.n, mark, strlen(mark)))) {
        at += strlen(mark);
        s = (strview){at, s.n - (size_t)(at - s.p)};
    }
    return s;
}

static bool begins(strview s, const char *mark) {
    return s.n >= strlen(mark) && memcmp(s.p, mark, strlen(mark)) == 0;
}

static bool ends(strview s, const char *mark) {
    return s.n >= strlen(mark) && memcmp(s.p + s.n - strlen(mark), mark, strlen(mark)) == 0;
}

/* ---- ChatML and Qwen3 ---- */

static nib_status chatml_open(builder *b, const char *role) {
    NIB_TRY(control(b, "<|im_start|>"));
    NIB_TRY(words(b, role));
    return words(b, "\n");
}

static nib_status chatml_close(builder *b) {
    NIB_TRY(control(b, "<|im_end|>"));
    return words(b, "\n");
}

static nib_status chatml_turn(builder *b, const char *role, strview content) {
    NIB_TRY(chatml_open(b, role));
    NIB_TRY(add(b, content));
    return chatml_close(b);
}

static nib_status encode_chatml(builder *b, const nib_message *m, size_t n) {
    if (b->c->default_system.n && strcmp(m[0].role, "system") != 0)
        NIB_TRY(chatml_turn(b, "system", b->c->default_system));
    for (size_t i = 0; i < n; i++)
        NIB_TRY(chatml_turn(b, m[i].role, strview_of(m[i].content)));
    return chatml_open(b, "assistant");
}

/* Reasoning is kept only in answers after the last real question (a tool's response is none). */
static size_t qwen3_last_query(const nib_message *m, size_t n) {
    for (size_t i = n; i-- > 0;) {
        const strview content = strview_of(m[i].content);
        if (strcmp(m[i].role, "user") == 0 &&
            !(begins(content, "<tool_response>") && ends(content, "</tool_response>")))
            return i;
    }
    return n - 1;
}

static nib_status qwen3_answer(builder *b, strview message, bool after_query, bool last) {
    strview content = message, reasoning = {"", 0};
    if (memmem(message.p, message.n, "</think>", 8)) {
        content = strip_newlines(after_last(message, "</think>"), true, false);
        reasoning = strip_newlines(before_first(message, "</think>"), false, true);
        reasoning = strip_newlines(after_last(reasoning, "<think>"), true, false);
    }
    NIB_TRY(chatml_open(b, "assistant"));
    if (after_query && (last || reasoning.n > 0)) {
        NIB_TRY(words(b, "<think>\n"));
        NIB_TRY(add(b, strip_newlines(reasoning, true, true)));
        NIB_TRY(words(b, "\n</think>\n\n"));
        content = strip_newlines(content, true, false);
    }
    NIB_TRY(add(b, content));
    return chatml_close(b);
}

static nib_status encode_qwen3(builder *b, const nib_message *m, size_t n) {
    const size_t last_query = qwen3_last_query(m, n);
    for (size_t i = 0; i < n; i++) {
        const strview content = strview_of(m[i].content);
        if (strcmp(m[i].role, "assistant") == 0)
            NIB_TRY(qwen3_answer(b, content, i > last_query, i + 1 == n));
        else
            NIB_TRY(chatml_turn(b, m[i].role, content));
    }
    return chatml_open(b, "assistant");
}

/* ---- Gemma, Llama 2, Llama 3 ---- */

/* The system message at the front, if any, moves M and N on. */
static strview take_system(const nib_message **m, size_t *n) {
    if (*n == 0 || strcmp((*m)[0].role, "system") != 0)
        return (strview){"", 0};
    const strview content = strview_of((*m)[0].content);
    (*m)++;
    (*n)--;
    return content;
}

static nib_status check_alternation(builder *b, const nib_message *m, size_t n, size_t first) {
    for (size_t i = 0; i < n; i++) {
        const char *expected = i % 2 == 0 ? "user" : "assistant";
        if (strcmp(m[i].role, expected) != 0)
            return nib_fail(b->err, NIB_BAD_ARGUMENT,
                            "message %zu of the conversation has the role %s, expected %s: this model's "
                            "template alternates them",
                            first + i, m[i].role, expected);
    }
    return NIB_OK;
}

static nib_status gemma_open(builder *b, const char *role) {
    NIB_TRY(control(b, "<start_of_turn>"));
    NIB_TRY(words(b, role));
    return words(b, "\n");
}

static nib_status encode_gemma(builder *b, const nib_message *m, size_t n) {
    const size_t all = n;
    const strview system = take_system(&m, &n);
    if (all > n && b->c->no_system)
        return nib_fail(b->err, NIB_BAD_ARGUMENT, "this model's template takes no system message");
    NIB_TRY(check_alternation(b, m, n, all - n));
    NIB_TRY(control_id(b, tokenizer_bos(b->t)));
    for (size_t i = 0; i < n; i++) {
        NIB_TRY(gemma_open(b, i % 2 == 0 ? "user" : "model"));
        if (i == 0 && all > n) {
            NIB_TRY(add(b, system));
            NIB_TRY(words(b, "\n\n"));
        }
        NIB_TRY(add(b, strip(strview_of(m[i].content))));
        NIB_TRY(control(b, "<end_of_turn>"));
        NIB_TRY(words(b, "\n"));
    }
    return gemma_open(b, "model");
}

/* <<SYS>> and the user's first message are stripped together. */
static nib_status llama2_first(builder *b, strview system, strview content) {
    text_buffer both = {0};
    nib_status status = text_buffer_append(&both, "<<SYS>>\n", 8, b->err);
    if (status == NIB_OK)
        status = text_buffer_append(&both, system.p, system.n, b->err);
    if (status == NIB_OK)
        status = text_buffer_append(&both, "\n<</SYS>>\n\n", 11, b->err);
    if (status == NIB_OK)
        status = text_buffer_append(&both, content.p, content.n, b->err);
    if (status == NIB_OK)
        status = add(b, strip((strview){both.bytes, both.n}));
    text_buffer_free(&both);
    return status;
}

static nib_status encode_llama2(builder *b, const nib_message *m, size_t n) {
    const size_t all = n;
    const strview system = take_system(&m, &n);
    NIB_TRY(check_alternation(b, m, n, all - n));
    for (size_t i = 0; i < n; i++) {
        const strview content = strview_of(m[i].content);
        if (i % 2 == 0) {
            NIB_TRY(control_id(b, tokenizer_bos(b->t)));
            NIB_TRY(words(b, "[INST] "));
            NIB_TRY(i == 0 && all > n ? llama2_first(b, system, content) : add(b, strip(content)));
            NIB_TRY(words(b, " [/INST]"));
        } else {
            NIB_TRY(words(b, " "));
            NIB_TRY(add(b, strip(content)));
            NIB_TRY(words(b, " "));
            NIB_TRY(control(b, "</s>"));
        }
    }
    return NIB_OK;
}

static nib_status llama3_open(builder *b, const char *role) {
    NIB_TRY(control(b, "<|start_header_id|>"));
    NIB_TRY(words(b, role));
    NIB_TRY(control(b, "<|end_header_id|>"));
    return words(b, "\n\n");
}

static nib_status encode_llama3(builder *b, const nib_message *m, size_t n) {
    NIB_TRY(control_id(b, tokenizer_bos(b->t)));
    if (b->c->dated_system) {
        const strview system = take_system(&m, &n);
        NIB_TRY(llama3_open(b, "system"));
        NIB_TRY(words(b, "Cutting Knowledge Date: December 2023\nToday Date: "));
        NIB_TRY(add(b, b->c->date));
        NIB_TRY(words(b, "\n\n"));
        NIB_TRY(add(b, strip(system)));
        NIB_TRY(control(b, "<|eot_id|>"));
    }
    for (size_t i = 0; i < n; i++) {
        NIB_TRY(llama3_open(b, m[i].role));
        NIB_TRY(add(b, strip(strview_of(m[i].content))));
        NIB_TRY(control(b, "<|eot_id|>"));
    }
    return llama3_open(b, "assistant");
}

/* ---- any ---- */

static nib_status check_messages(const nib_message *m, size_t n, nib_error *err) {
    if (n == 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "a conversation without messages, expected at least one");
    for (size_t i = 0; i < n; i++) {
        if (!m[i].role || !m[i].content)
            return nib_fail(err, NIB_BAD_ARGUMENT, "message %zu of the conversation has no role or content",
                            i);
        if (strcmp(m[i].role, "system") != 0 && strcmp(m[i].role, "user") != 0 &&
            strcmp(m[i].role, "assistant") != 0)
            return nib_fail(
                err, NIB_BAD_ARGUMENT,
                "message %zu of the conversation has the role \"%.40s\", expected system, user or "
                "assistant",
                i, m[i].role);
    }
    return NIB_OK;
}

nib_status chat_encode(const chat_template *c, const tokenizer *t, const nib_message *messages,
                       size_t n_messages, token_list *out, nib_error *err) {
    NIB_TRY(check_messages(messages, n_messages, err));
    const size_t before = out->n;
    builder b = {.c = c, .t = t, .out = out, .err = err};
    nib_status status = NIB_OK;
    if (c->kind == CHAT_CHATML && c->with_bos)
        status = control_id(&b, tokenizer_bos(t));
    if (status == NIB_OK) {
        switch (c->kind) {
        case CHAT_NONE:
            status = nib_fail(err, NIB_UNSUPPORTED, "%s", c->note ? c->note : "no chat template");
            break;
        case CHAT_CHATML:
            status = encode_chatml(&b, messages, n_messages);
            break;
        case CHAT_QWEN3:
            status = encode_qwen3(&b, messages, n_messages);
            break;
        case CHAT_GEMMA:
            status = encode_gemma(&b, messages, n_messages);
            break;
        case CHAT_LLAMA2:
            status = encode_llama2(&b, messages, n_messages);
            break;
        case CHAT_LLAMA3:
            status = encode_llama3(&b, messages, n_messages);
            break;
        }
    }
    if (status == NIB_OK)
        status = flush(&b);
    if (status != NIB_OK)
        out->n = before;
    text_buffer_free(&b.text);
    return status;
}
