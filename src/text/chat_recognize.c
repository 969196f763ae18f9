/* SPDX-License-Identifier: Apache-2.0
 *
 * Which template a model's Jinja text is. The text is brought to one form: white space and quotes of the code
 * unified, literals joined, branches that nibble's conversations never take left out (tools, reasoning given
 * apart), the default system text and the date cut out. A template is known when the hash of that whole form
 * is one of chat_known.c's; so a statement more or less, or in another place, makes it unknown.
 */
#include <stdio.h>

#include "base/mem.h"
#include "text/chat.h"
#include "text/chat_known.h"

#define MAX_TEMPLATE_BYTES 65536
#define MAX_NESTING        32
#define QUOTE_IN_LITERAL   '\x02' /* so that no literal reads as code */

/* ---- one form ---- */

/* An open {% if %} or {% for %}. */
typedef struct level {
    bool is_for;
    bool written; /* its "if" stands in the text */
    bool decided; /* a branch that is always taken has been met */
    bool skipped; /* the current branch is left out */
} level;

typedef struct plain {
    char *text; /* NUL-terminated */
    size_t n;
    level levels[MAX_NESTING];
    size_t n_levels, n_skipped; /* of the levels, how many are skipped */
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
            if (!strchr("nt'\"", c) || c == '\0')
                out->text[out->n++] = '\\'; /* of another escape, or of a backslash */
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        if (c == '\'')
            c = QUOTE_IN_LITERAL;
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

/* ---- branches never taken ---- */

static bool is_one_of(const char *p, size_t n, const char *const *list) {
    for (; *list; list++)
        if (strlen(*list) == n && memcmp(*list, p, n) == 0)
            return true;
    return false;
}

/* The value that a condition has in every conversation of nibble's: no tools, text as content, a generation
 * prompt. false: it depends. */
static bool condition_value(const char *p, size_t n, bool *value) {
    static const char *const never[] = {
        "tools",
        "notadd_generation_promptisdefined",
        "custom_toolsisdefined",
        "builtin_toolsisdefined",
        "toolsisnotnone",
        "builtin_toolsisdefinedortoolsisnotnone",
        "toolsisnotnoneandnottools_in_user_message",
        "tools_in_user_messageandnottoolsisnone",
        "strftime_nowisdefined",
        "message.tool_calls",
        "'tool_calls'inmessage",
        "message['role']=='tool'",
        "message['role']=='tool'ormessage['role']=='ipython'",
        "message.reasoning_contentisdefinedandmessage.reasoning_contentisnotnone",
        "message.reasoning_contentisstring",
        "enable_thinkingisdefinedandenable_thinkingisfalse",
        NULL};
    static const char *const always[] = {"add_generation_prompt", "message['content']isstring",
                                         "messages[0]['content']isstring", NULL};
    *value = is_one_of(p, n, always);
    return *value || is_one_of(p, n, never);
}

static void set_skipped(plain *p, level *l, bool skipped) {
    p->n_skipped += (size_t)skipped - (size_t)l->skipped;
    l->skipped = skipped;
}

/* A branch of L opens with text[at ..), "{%" and WORD and the condition; "{%else}" has none. */
static void open_branch(plain *p, level *l, size_t at, const char *word) {
    const size_t begin = at + 2 + strlen(word);
    bool value = true, known = strcmp(word, "else") == 0;
    if (!known)
        known = condition_value(p->text + begin, p->n - 1 - begin, &value);
    set_skipped(p, l, l->decided || (known && !value));
    if (l->skipped || (known && !l->written)) {
        p->n = at;
    } else if (known) {
        p->n = at + (size_t)sprintf(p->text + at, "{%%else}");
    } else if (!l->written && strcmp(word, "elif") == 0) {
        memmove(p->text + at + 2, p->text + at + 4, p->n - at - 4); /* the first that is written */
        p->n -= 2;
    }
    l->decided = l->decided || (known && value);
    l->written = l->written || (!known && !l->skipped);
}

static bool begins(const plain *p, size_t at, const char *what) {
    return p->n - at >= strlen(what) && memcmp(p->text + at, what, strlen(what)) == 0;
}

/* Keeps, rewrites or drops the segment text[at ..) just written; false when the nesting is not sound. */
static bool fold(plain *p, size_t at) {
    const bool is_if = begins(p, at, "{%if"), is_for = begins(p, at, "{%for");
    level *l = p->n_levels ? &p->levels[p->n_levels - 1] : NULL;
    if (is_if || is_for) {
        if (p->n_levels == MAX_NESTING)
            return false;
        const bool dead = p->n_skipped > 0;
        l = &p->levels[p->n_levels++];
        *l = (level){.is_for = is_for, .decided = dead};
        if (is_if)
            open_branch(p, l, at, "if");
        else if (dead)
            p->n = at;
        return true;
    }
    const bool is_elif = begins(p, at, "{%elif"), is_else = begins(p, at, "{%else}");
    if (is_elif || is_else) {
        if (!l || l->is_for)
            return false;
        open_branch(p, l, at, is_elif ? "elif" : "else");
        return true;
    }
    const bool ends_if = begins(p, at, "{%endif}"), ends_for = begins(p, at, "{%endfor}");
    if (ends_if || ends_for) {
        if (!l || l->is_for != ends_for)
            return false;
        set_skipped(p, l, false);
        p->n_levels--;
        if (p->n_skipped > 0 || (ends_if && !l->written))
            p->n = at;
        return true;
    }
    if (p->n_skipped > 0)
        p->n = at;
    return true;
}

/* ---- what differs from model to model ---- */

/* Cuts the text between OPENING and CLOSING out of the segment text[at ..), when it is plain text; FOUND is
 * where the template itself has it. false when it was found before or is not there as it stands. */
static bool cut_out(plain *p, size_t at, const char *opening, const char *closing, strview s,
                    strview *found) {
    const size_t from = at + strlen(opening), after = strlen(closing);
    if (!begins(p, at, opening) || p->n < from + after || memcmp(p->text + p->n - after, closing, after) != 0)
        return true;
    const size_t n = p->n - after - from;
    if (memchr(p->text + from, '\'', n))
        return true; /* an expression: it stays */
    if (found) {
        const char *source = memmem(s.p, s.n, p->text + from, n);
        if (n == 0 || !source || found->n || memchr(p->text + from, '<', n) || /* control tokens */
            memchr(p->text + from, '\\', n))
            return false;
        *found = (strview){source, n};
    }
    memcpy(p->text + from, closing, after);
    p->n = from + after;
    return true;
}

static bool cut_known(chat_template *out, plain *p, size_t at, strview s) {
    return cut_out(p, at, "{raise_exception('", "')}", s, NULL) &&
           cut_out(p, at, "{%setdate_string='", "'}", s, &out->date) &&
           cut_out(p, at, "{'<|im_start|>system\n", "<|im_end|>\n'}", s, &out->default_system);
}

/* ---- the whole ---- */

/* false: the template writes text of its own outside {{ }}, which none of the known ones does. */
static bool to_plain(chat_template *found, plain *out, strview s) {
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
            const size_t at = out->n;
            out->text[out->n++] = '{';
            if (second == '%')
                out->text[out->n++] = '%';
            i = copy_code(out, s, i + (i + 2 < s.n && s.p[i + 2] == '-' ? 3 : 2));
            if (!fold(out, at) || (out->n > at && !cut_known(found, out, at, s)))
                return false;
        }
        raw = i;
    }
    out->text[out->n] = '\0';
    return !writes(s, raw, s.n) && out->n_levels == 0;
}

static bool has_tokens(const tokenizer *t, const char *const *names) {
    for (; *names; names++) {
        const int32_t id = tokenizer_find(t, strview_of(*names));
        if (id < 0 || !tokenizer_is_control(t, id))
            return false;
    }
    return true;
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash(const char *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return h;
}

/* The form's hash; 0: S has none. FOUND gets what was cut out and whether BOS stands in front. */
static uint64_t form_of(chat_template *found, strview s, nib_status *status) {
    static const char bos[] = "{bos_token}";
    plain p = {0};
    p.text = mem_alloc(2 * s.n + 64); /* at most: ".role" becomes "['role']" */
    *status = p.text ? NIB_OK : NIB_NO_MEMORY;
    uint64_t form = 0;
    if (p.text && to_plain(found, &p, s)) {
        found->with_bos = begins(&p, 0, bos);
        const size_t front = found->with_bos ? sizeof bos - 1 : 0;
        form = hash(p.text + front, p.n - front);
    }
    mem_free(p.text);
    return form;
}

uint64_t chat_form(strview jinja) {
    chat_template found = {0};
    nib_status status;
    return form_of(&found, jinja, &status);
}

static chat_kind match(chat_template *out, uint64_t form) {
    for (const chat_known *k = chat_known_list; k->name; k++) {
        if (k->form != form || (k->bos != CHAT_BOS_EITHER && (k->bos == CHAT_BOS_IN_FRONT) != out->with_bos))
            continue;
        out->with_bos |= k->bos == CHAT_BOS_IN_TEXT;
        out->no_system = k->no_system;
        out->dated_system = k->dated_system;
        return k->kind;
    }
    return CHAT_NONE;
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
    nib_status status;
    const uint64_t form = form_of(out, s, &status);
    if (status != NIB_OK) {
        out->note = "no memory to read the model's chat template";
        return;
    }
    const chat_kind kind = form ? match(out, form) : CHAT_NONE;
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
