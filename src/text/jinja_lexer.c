/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules of jinja2's lexer (jinja2 3.1, lexer.py), by hand: which white space a tag takes with it, when
 * a closing brace is an operator, what a string's escapes mean.
 */
#include "text/jinja_lexer.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja_value.h"

typedef struct lexer {
    strview s; /* the source, line ends unified */
    size_t at;
    size_t counted; /* lines up to here are in `line` */
    int line;
    arena *memory;
    jinja_tokens *out;
    char open[64]; /* brackets not yet closed in the tag at hand */
    size_t n_open;
    nib_error *err;
} lexer;

static nib_status refuse(lexer *l, const char *words) {
    return nib_fail(l->err, NIB_BAD_FILE, "chat template, line %d: %s", l->line, words);
}

static nib_status push(lexer *l, jinja_token_kind kind, strview text) {
    jinja_tokens *t = l->out;
    if (t->n == t->capacity) {
        const size_t capacity = t->capacity ? 2 * t->capacity : 256;
        jinja_token *grown = mem_resize(t->list, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(l->err, NIB_NO_MEMORY, "no memory for the chat template");
        t->list = grown;
        t->capacity = capacity;
    }
    t->list[t->n++] = (jinja_token){kind, l->line, text};
    return NIB_OK;
}

static void count_lines(lexer *l) {
    for (; l->counted < l->at; l->counted++)
        l->line += l->s.p[l->counted] == '\n';
}

static bool at_text(const lexer *l, size_t at, const char *what) {
    const size_t n = strlen(what);
    return at <= l->s.n && l->s.n - at >= n && memcmp(l->s.p + at, what, n) == 0;
}

static size_t skip_space(const lexer *l, size_t at) {
    return at + jinja_space_after((strview){l->s.p + at, l->s.n - at});
}

/* ---- text between tags ---- */

/* Data [from, to) before a tag with SIGN ('-', '+' or none), cut as the tag wants it. */
static nib_status push_data(lexer *l, size_t from, size_t to, char sign, bool is_variable) {
    strview text = {l->s.p + from, to - from};
    if (sign == '-') {
        text.n = jinja_space_before(text);
    } else if (sign != '+' && !is_variable) {
        size_t start = text.n;
        while (start > 0 && text.p[start - 1] != '\n')
            start--;
        const bool line_starts = start > 0 || from == 0 || l->s.p[from - 1] == '\n';
        if (line_starts && jinja_space_before((strview){text.p + start, text.n - start}) == 0)
            text.n = start;
    }
    return text.n ? push(l, JINJA_T_DATA, text) : NIB_OK;
}

/* What a closing END at `at` takes with it; false: there is none. */
static bool closes(const lexer *l, size_t at, const char *end, bool plus, bool trim, size_t *after) {
    const size_t n = strlen(end);
    if (at < l->s.n && l->s.p[at] == '-' && at_text(l, at + 1, end)) {
        *after = skip_space(l, at + 1 + n);
        return true;
    }
    if (plus && at < l->s.n && l->s.p[at] == '+' && at_text(l, at + 1, end)) {
        *after = at + 1 + n;
        return true;
    }
    if (!at_text(l, at, end))
        return false;
    *after = at + n;
    if (trim && *after < l->s.n && l->s.p[*after] == '\n')
        ++*after;
    return true;
}

static char sign_at(const lexer *l, size_t at) {
    return at < l->s.n && (l->s.p[at] == '-' || l->s.p[at] == '+') ? l->s.p[at] : '\0';
}

/* {% raw %} ... {% endraw %}: the body is data. *found: it was one. */
static nib_status lex_raw(lexer *l, bool *found) {
    const char sign = sign_at(l, l->at + 2);
    size_t at = skip_space(l, l->at + 2 + (sign != 0));
    *found = at_text(l, at, "raw");
    at = *found ? skip_space(l, at + 3) : at;
    size_t body;
    *found = *found && closes(l, at, "%}", false, false, &body);
    if (!*found)
        return NIB_OK;
    for (size_t i = body; i < l->s.n; i++) {
        if (!at_text(l, i, "{%"))
            continue;
        const char end_sign = sign_at(l, i + 2);
        size_t end = skip_space(l, i + 2 + (end_sign != 0)), after;
        if (!at_text(l, end, "endraw"))
            continue;
        end = skip_space(l, end + 6);
        if (!closes(l, end, "%}", true, true, &after))
            continue;
        NIB_TRY(push_data(l, body, i, end_sign, false));
        l->at = after;
        return NIB_OK;
    }
    l->at = body;
    return body < l->s.n ? refuse(l, "Missing end of raw directive") : NIB_OK; /* as jinja2's */
}

static nib_status lex_comment(lexer *l) {
    const size_t body = l->at + 2 + (sign_at(l, l->at + 2) != 0);
    for (size_t i = body, after; i < l->s.n; i++)
        if (closes(l, i, "#}", true, true, &after)) {
            l->at = after;
            return NIB_OK;
        }
    l->at = body;
    return body < l->s.n ? refuse(l, "Missing end of comment tag") : NIB_OK; /* as jinja2's */
}

/* ---- inside tags ---- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_name_byte(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c) ||
           (unsigned char)c >= 0x80;
}

static char byte_at(const lexer *l, size_t at) {
    return at < l->s.n ? l->s.p[at] : '\0';
}

/* Digits with single underscores between them; returns where they end, FROM when there are none. */
static size_t digits_end(const lexer *l, size_t from, bool hex) {
    size_t at = from;
    for (;; at++) {
        const char c = byte_at(l, at);
        const bool digit = is_digit(c) || (hex && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')));
        const bool joint = c == '_' && at > from && byte_at(l, at - 1) != '_' && is_digit(byte_at(l, at + 1));
        if (!digit && !joint)
            return at;
    }
}

static nib_status lex_number(lexer *l) {
    const char second = byte_at(l, l->at + 1);
    const bool hex = byte_at(l, l->at) == '0' && (second == 'x' || second == 'X');
    size_t end = hex ? digits_end(l, l->at + 2, true) : digits_end(l, l->at, false);
    bool real = false;
    const bool after_dot = l->at > 0 && l->s.p[l->at - 1] == '.';
    if (!hex && !after_dot) {
        size_t more = end;
        if (byte_at(l, more) == '.' && is_digit(byte_at(l, more + 1))) {
            more = digits_end(l, more + 1, false);
            real = true;
            end = more;
        }
        if (byte_at(l, more) == 'e' || byte_at(l, more) == 'E') {
            more++;
            if (byte_at(l, more) == '+' || byte_at(l, more) == '-')
                more++;
            if (is_digit(byte_at(l, more))) {
                end = digits_end(l, more, false);
                real = true;
            }
        }
    }
    const strview text = {l->s.p + l->at, end - l->at};
    l->at = end;
    return push(l, real ? JINJA_T_FLOAT : JINJA_T_INTEGER, text);
}

static int hex_value(char c) {
    return is_digit(c)            ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* N hex digits at s.p[i]; false: they are not there or no character. */
static bool read_hex(strview s, size_t i, size_t n, uint32_t *code) {
    *code = 0;
    for (size_t k = 0; k < n; k++) {
        const int digit = i + k < s.n ? hex_value(s.p[i + k]) : -1;
        if (digit < 0)
            return false;
        *code = *code << 4 | (uint32_t)digit;
    }
    return *code < 0x110000 && (*code < 0xD800 || *code > 0xDFFF);
}

/* One escape: s.p[*i] is what follows the backslash. Returns bytes written; 0 with *bad: it means nothing. */
static size_t unescape_one(strview s, size_t *i, char *out, bool *bad) {
    static const char letters[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    const char c = s.p[(*i)++];
    for (size_t k = 0; k + 1 < sizeof letters; k += 2)
        if (letters[k] == c) {
            *out = letters[k + 1];
            return 1;
        }
    uint32_t code = 0;
    const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (n) {
        *bad = !read_hex(s, *i, n, &code);
        *i += n;
        return *bad ? 0 : utf8_encode(code, out);
    }
    if (c >= '0' && c <= '7') {
        size_t k = *i - 1;
        for (size_t from = k; k < s.n && k < from + 3 && s.p[k] >= '0' && s.p[k] <= '7'; k++)
            code = code * 8 + (uint32_t)(s.p[k] - '0');
        *i = k;
        return utf8_encode(code, out);
    }
    if (c == '\n')
        return 0; /* a line goes on */
    *bad = c == 'N';
    out[0] = '\\'; /* any other stays as it is */
    out[1] = c;
    return 2;
}

static nib_status lex_string(lexer *l) {
    const char quote = l->s.p[l->at];
    size_t end = l->at + 1;
    while (end < l->s.n && l->s.p[end] != quote)
        end += l->s.p[end] == '\\' ? 2 : 1;
    if (end >= l->s.n)
        return refuse(l, "a string has no end");
    const strview raw = {l->s.p + l->at + 1, end - l->at - 1};
    l->at = end + 1;
    if (!raw.n || !memchr(raw.p, '\\', raw.n))
        return push(l, JINJA_T_STRING, raw);
    char *text = arena_alloc(l->memory, raw.n + 4, 1); /* no escape is shorter than what it writes */
    if (!text)
        return nib_fail(l->err, NIB_NO_MEMORY, "no memory for the chat template");
    size_t n = 0;
    for (size_t i = 0; i < raw.n;) {
        bool bad = false;
        if (raw.p[i] != '\\')
            text[n++] = raw.p[i++];
        else if (++i < raw.n)
            n += unescape_one(raw, &i, text + n, &bad);
        if (bad)
            return refuse(l, "an escape of a string is no character");
    }
    return push(l, JINJA_T_STRING, (strview){text, n});
}

static nib_status lex_operator(lexer *l) {
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!at_text(l, l->at, operators[i]))
            continue;
        const char c = operators[i][0];
        if (c == '(' || c == '[' || c == '{') {
            if (l->n_open == sizeof l->open)
                return refuse(l, "brackets nested too deep");
            l->open[l->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (l->n_open == 0 || l->open[--l->n_open] != c)
                return refuse(l, "a closing bracket that closes nothing");
        }
        const strview text = {l->s.p + l->at, strlen(operators[i])};
        l->at += text.n;
        return push(l, JINJA_T_OPERATOR, text);
    }
    return refuse(l, "an unexpected character in a tag");
}

static nib_status lex_tag(lexer *l, bool is_variable) {
    const char *end = is_variable ? "}}" : "%}";
    for (size_t after;;) {
        count_lines(l);
        if (l->n_open == 0 && closes(l, l->at, end, !is_variable, !is_variable, &after)) {
            NIB_TRY(push(l, is_variable ? JINJA_T_VARIABLE_END : JINJA_T_BLOCK_END, (strview){end, 2}));
            l->at = after;
            return NIB_OK;
        }
        if (l->at >= l->s.n)
            return refuse(l, "a tag has no end");
        const char c = l->s.p[l->at];
        const size_t space = skip_space(l, l->at);
        if (space > l->at) {
            l->at = space;
        } else if (is_digit(c)) {
            NIB_TRY(lex_number(l));
        } else if (is_name_byte(c)) {
            const size_t from = l->at;
            while (is_name_byte(byte_at(l, l->at)))
                l->at++;
            NIB_TRY(push(l, JINJA_T_NAME, (strview){l->s.p + from, l->at - from}));
        } else if (c == '\'' || c == '"') {
            NIB_TRY(lex_string(l));
        } else {
            NIB_TRY(lex_operator(l));
        }
    }
}

/* ---- the whole ---- */

/* \r\n and \r become \n; one line end at the very end goes. */
static nib_status unify_lines(lexer *l, strview source) {
    char *text = arena_alloc(l->memory, source.n + 1, 1);
    if (!text)
        return nib_fail(l->err, NIB_NO_MEMORY, "no memory for the chat template");
    size_t n = 0;
    for (size_t i = 0; i < source.n; i++) {
        const bool cr = source.p[i] == '\r';
        if (cr && i + 1 < source.n && source.p[i + 1] == '\n')
            i++;
        text[n++] = cr ? '\n' : source.p[i];
    }
    if (n > 0 && text[n - 1] == '\n')
        n--;
    l->s = (strview){text, n};
    return NIB_OK;
}

static nib_status lex_all(lexer *l) {
    while (l->at < l->s.n) {
        const size_t from = l->at;
        size_t tag = from;
        while (tag < l->s.n && !at_text(l, tag, "{%") && !at_text(l, tag, "{{") && !at_text(l, tag, "{#"))
            tag++;
        count_lines(l);
        if (tag >= l->s.n)
            return push(l, JINJA_T_DATA, (strview){l->s.p + from, l->s.n - from});
        const char second = l->s.p[tag + 1], sign = sign_at(l, tag + 2);
        NIB_TRY(push_data(l, from, tag, sign, second == '{'));
        l->at = tag;
        count_lines(l);
        bool raw = false;
        if (second == '%')
            NIB_TRY(lex_raw(l, &raw));
        if (raw)
            continue;
        if (second == '#') {
            NIB_TRY(lex_comment(l));
            continue;
        }
        NIB_TRY(push(l, second == '{' ? JINJA_T_VARIABLE_BEGIN : JINJA_T_BLOCK_BEGIN,
                     (strview){l->s.p + tag, 2}));
        l->at = tag + 2 + (sign != 0);
        l->n_open = 0;
        NIB_TRY(lex_tag(l, second == '{'));
    }
    return NIB_OK;
}

nib_status jinja_lex(strview source, arena *memory, jinja_tokens *out, nib_error *err) {
    lexer l = {.line = 1, .memory = memory, .out = out, .err = err};
    memset(out, 0, sizeof *out);
    nib_status status = unify_lines(&l, source);
    if (status == NIB_OK)
        status = lex_all(&l);
    if (status == NIB_OK)
        status = push(&l, JINJA_T_EOF, (strview){"", 0});
    if (status != NIB_OK) {
        mem_free(out->list);
        memset(out, 0, sizeof *out);
    }
    return status;
}
