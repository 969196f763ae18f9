/* SPDX-License-Identifier: Apache-2.0
 *
 * Which template a model's Jinja text is. The text is first brought to one form (white space and quotes of
 * the code unified, literals joined), then searched for the expressions that write a turn: a template counts
 * as known when it writes its turns with exactly these and has nothing that would change them.
 */
#include <stdio.h>

#include "base/mem.h"
#include "text/chat.h"

#define MAX_TEMPLATE_BYTES 65536

/* ---- one form ---- */

typedef struct plain {
    char *text; /* NUL-terminated */
    size_t n;
} plain;

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* A string literal at s[i] (its quote): copied with ' for quotes and \n undone; a literal that continues the
 * one before ('a' + 'b') joins it. Returns what follows it. */
static size_t copy_literal(plain *out, strview s, size_t i) {
    const char quote = s.p[i++];
    if (out->n >= 2 && out->text[out->n - 1] == '+' && out->text[out->n - 2] == '\'')
        out->n -= 2;
    else
        out->text[out->n++] = '\'';
    for (; i < s.n && s.p[i] != quote; i++) {
        char c = s.p[i];
        if (c == '\\' && i + 1 < s.n) {
            c = s.p[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        out->text[out->n++] = c;
    }
    out->text[out->n++] = '\'';
    return i < s.n ? i + 1 : i; /* a literal may lack its end */
}

/* message.role and message["role"] are the same. */
static size_t copy_attribute(plain *out, strview s, size_t i) {
    static const char *const names[] = {".role", ".content"};
    for (size_t k = 0; k < 2; k++) {
        const size_t n = strlen(names[k]);
        const bool message = out->n >= 7 && (memcmp(out->text + out->n - 7, "message", 7) == 0 ||
                                             out->text[out->n - 1] == ']');
        if (message && s.n - i >= n && memcmp(s.p + i, names[k], n) == 0) {
            out->n += (size_t)sprintf(out->text + out->n, "['%s']", names[k] + 1);
            return i + n;
        }
    }
    out->text[out->n++] = s.p[i];
    return i + 1;
}

/* Code between {{ }} or {% %}, from s[i] past the opening braces; returns what follows the closing ones. */
static size_t copy_code(plain *out, strview s, size_t i) {
    while (i < s.n) {
        const char c = s.p[i];
        if (c == '\'' || c == '"') {
            i = copy_literal(out, s, i);
        } else if ((c == '}' || c == '%') && i + 1 < s.n && s.p[i + 1] == '}') {
            out->text[out->n++] = '}';
            return i + 2;
        } else if (c == '.') {
            i = copy_attribute(out, s, i);
        } else {
            if (!is_blank(c) && !(c == '-' && i + 2 < s.n && s.p[i + 2] == '}'))
                out->text[out->n++] = c;
            i++;
        }
    }
    return i;
}

/* Whether s[from .. to), what stands between two tags, writes anything: the rules of Jinja as transformers
 * sets it up (trim_blocks, lstrip_blocks; the template's last line end goes). */
static bool writes(strview s, size_t from, size_t to) {
    const bool last = to == s.n;
    if ((from >= 3 && s.p[from - 1] == '}' && s.p[from - 3] == '-') ||
        (!last && to + 2 < s.n && s.p[to + 2] == '-')) {
        while (from < to && is_blank(s.p[from]))
            from++;
        return from < to;
    }
    bool line_start = from == 0;
    if (from >= 2 && s.p[from - 2] != '}' && from < to && s.p[from] == '\n') { /* after %} or #} */
        from++;
        line_start = true;
    }
    if (last && to > from && s.p[to - 1] == '\n')
        to--;
    if (!last && s.p[to + 1] != '{' && line_start) /* before {% or {# at the start of a line */
        while (to > from && (s.p[to - 1] == ' ' || s.p[to - 1] == '\t'))
            to--;
    return from < to;
}

/* false: the template writes text of its own outside {{ }}, which none of the known ones does. */
static bool to_plain(plain *out, strview s) {
    size_t raw = 0; /* where the text outside tags began */
    for (size_t i = 0; i < s.n;) {
        const char second = s.p[i] == '{' && i + 1 < s.n ? s.p[i + 1] : '\0';
        if (second != '#' && second != '{' && second != '%') {
            i++;
            continue;
        }
        if (writes(s, raw, i))
            return false;
        if (second == '#') {
            const char *end = memmem(s.p + i, s.n - i, "#}", 2);
            i = end ? (size_t)(end - s.p) + 2 : s.n;
        } else {
            out->text[out->n++] = '{';
            i = copy_code(out, s, i + (i + 2 < s.n && s.p[i + 2] == '-' ? 3 : 2));
        }
        raw = i;
    }
    out->text[out->n] = '\0';
    return !writes(s, raw, s.n);
}

static bool has(const plain *p, const char *what) {
    return memmem(p->text, p->n, what, strlen(what)) != NULL;
}

/* ---- the templates ---- */

#define GENERIC_TURN "'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'"

/* The text of a system turn that the template itself holds; false when it is not plain text. */
static bool find_default_system(chat_template *out, strview s, const plain *p) {
    static const char opening[] = "<|im_start|>system\n";
    const char *at = p->text;
    bool any = false;
    while ((at = memmem(at, p->n - (size_t)(at - p->text), opening, sizeof opening - 1))) {
        at += sizeof opening - 1;
        any = any || *at != '\'';
    }
    if (!any)
        return true;
    for (size_t i = 0; i + 18 < s.n; i++) {
        if (memcmp(s.p + i, opening, 18) != 0)
            continue;
        size_t from = i + 18;
        from += s.p[from] == '\n' ? 1 : s.n - from > 2 && memcmp(s.p + from, "\\n", 2) == 0 ? 2 : 0;
        size_t to = from;
        while (to < s.n && !strchr("'\"\\{}<", s.p[to]))
            to++;
        if (to > from && s.n - to > 10 && memcmp(s.p + to, "<|im_end|>", 10) == 0) {
            out->default_system = (strview){s.p + from, to - from};
            return has(p, "messages[0]['role']!='system'") || has(p, "messages[0]['role']=='system'");
        }
    }
    return false;
}

static bool is_qwen3(const plain *p) {
    return has(p, GENERIC_TURN) && has(p, "last_query_index") && has(p, "'<|im_start|>assistant\n'") &&
           has(p, "message['role']+'\n<think>\n'+reasoning_content.strip('\n')+'\n</think>\n\n'+"
                  "content.lstrip('\n')") &&
           has(p, "enable_thinkingisfalse}{'<think>\n\n</think>\n\n'}") && !has(p, "'<think>\n'") &&
           !has(p, "bos_token");
}

static bool is_chatml(chat_template *out, strview s, const plain *p) {
    if (!has(p, GENERIC_TURN) || !has(p, "'<|im_start|>assistant\n'") || has(p, "<think>") ||
        has(p, "enable_thinking") || has(p, "|trim") || has(p, "strip(") || has(p, "setmessages="))
        return false;
    out->with_bos = has(p, "bos_token");
    if (out->with_bos && !(p->n > 11 && memcmp(p->text, "{bos_token}", 11) == 0))
        return false;
    return find_default_system(out, s, p);
}

static bool is_gemma(chat_template *out, const plain *p) {
    if (!has(p, "'<start_of_turn>'+role+'\n'") || !has(p, "message['content']|trim") ||
        !has(p, "'<start_of_turn>model\n'") || !has(p, "<end_of_turn>\n") || has(p, "tool"))
        return false;
    out->with_bos = p->n > 11 && memcmp(p->text, "{bos_token}", 11) == 0;
    out->no_system = has(p, "System role not supported");
    const bool prefixed = has(p, "first_user_prefix=messages[0]['content']+'\n\n'");
    return out->with_bos && out->no_system != prefixed;
}

static bool is_llama2(const plain *p) {
    return has(p, "'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message['content']") &&
           has(p, "bos_token+'[INST] '+content.strip()+' [/INST]'") &&
           has(p, "' '+content.strip()+' '+eos_token");
}

static bool is_llama3(chat_template *out, strview s, const plain *p) {
    if (!has(p, "'<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'+message['content']|trim+"
                "'<|eot_id|>'") ||
        !has(p, "'<|start_header_id|>assistant<|end_header_id|>\n\n'") || !has(p, "bos_token"))
        return false;
    out->with_bos = true;
    out->dated_system = has(p, "Cutting Knowledge Date: ");
    if (!out->dated_system)
        return !has(p, "tool") && !has(p, "<|start_header_id|>system");
    if (!has(p, "'Cutting Knowledge Date: December 2023\n'") || !has(p, "'Today Date: '+date_string+'\n\n'"))
        return false;
    static const char setting[] = "set date_string = \"";
    const char *at = memmem(s.p, s.n, setting, sizeof setting - 1);
    if (!at)
        return false;
    at += sizeof setting - 1;
    const char *end = memchr(at, '"', s.n - (size_t)(at - s.p));
    if (!end || end - at > 32 || memchr(at, '\\', (size_t)(end - at)))
        return false;
    out->date = (strview){at, (size_t)(end - at)};
    return true;
}

static bool has_tokens(const tokenizer *t, const char *const *names) {
    for (; *names; names++) {
        const int32_t id = tokenizer_find(t, strview_of(*names));
        if (id < 0 || !tokenizer_is_control(t, id))
            return false;
    }
    return true;
}

static chat_kind match(chat_template *out, strview s, const plain *p) {
    if (has(p, "<|im_start|>"))
        return is_qwen3(p) ? CHAT_QWEN3 : is_chatml(out, s, p) ? CHAT_CHATML : CHAT_NONE;
    if (has(p, "<start_of_turn>"))
        return is_gemma(out, p) ? CHAT_GEMMA : CHAT_NONE;
    if (has(p, "<<SYS>>"))
        return is_llama2(p) ? CHAT_LLAMA2 : CHAT_NONE;
    return is_llama3(out, s, p) ? CHAT_LLAMA3 : CHAT_NONE;
}

void chat_recognize(chat_template *out, const token_source *source, const tokenizer *t) {
    static const char *const chatml[] = {"<|im_start|>", "<|im_end|>", NULL};
    static const char *const gemma[] = {"<start_of_turn>", "<end_of_turn>", NULL};
    static const char *const llama3[] = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", NULL};
    static const char *const llama2[] = {"</s>", NULL};
    memset(out, 0, sizeof *out);
    const strview s = source->chat_template;
    if (s.n == 0) {
        out->note = "the model has no chat template";
        return;
    }
    if (s.n > MAX_TEMPLATE_BYTES) {
        out->note = "the model's chat template is longer than 64 KiB";
        return;
    }
    plain p = {0};
    p.text = mem_alloc(2 * s.n + 16); /* at most: ".role" becomes "['role']" */
    if (!p.text) {
        out->note = "no memory to read the model's chat template";
        return;
    }
    const chat_kind kind = to_plain(&p, s) ? match(out, s, &p) : CHAT_NONE;
    mem_free(p.text);
    const char *const *names = kind == CHAT_GEMMA    ? gemma
                               : kind == CHAT_LLAMA2 ? llama2
                               : kind == CHAT_LLAMA3 ? llama3
                                                     : chatml;
    const bool bos = out->with_bos || kind == CHAT_LLAMA2;
    if (kind != CHAT_NONE && has_tokens(t, names) && (!bos || tokenizer_bos(t) >= 0)) {
        out->kind = kind;
        return;
    }
    *out = (chat_template){.note = kind == CHAT_NONE
                                       ? "the model's chat template is none of those nibble knows (ChatML, "
                                         "Gemma, Llama 2, Llama 3, Qwen3)"
                                       : "the model's chat template needs tokens that its vocabulary lacks"};
}
