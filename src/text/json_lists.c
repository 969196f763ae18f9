/* SPDX-License-Identifier: Apache-2.0
 *
 * Cutting the lists out and walking over them; see json_lists.h. The caller is tokenizer_json.c.
 */
#include "text/json_lists.h"

#include "base/utf8.h"

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* ---- cutting ---- */

/* Past the string that begins at S[i]. */
static size_t skip_string(strview s, size_t i) {
    for (i++; i < s.n && s.p[i] != '"'; i++)
        if (s.p[i] == '\\')
            i++;
    return i < s.n ? i + 1 : s.n;
}

static size_t skip_blanks(strview s, size_t i) {
    while (i < s.n && is_blank(s.p[i]))
        i++;
    return i;
}

/* Past the object or list that begins at S[i]. */
static size_t skip_value(strview s, size_t i) {
    size_t depth = 0;
    while (i < s.n) {
        const char c = s.p[i];
        if (c == '"') {
            i = skip_string(s, i);
            continue;
        }
        i++;
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return i;
    }
    return s.n;
}

static bool key_is(strview s, size_t from, size_t to, const char *name) {
    return strview_equal((strview){s.p + from, to - from}, strview_of(name));
}

nib_status json_lists_cut(json_lists *out, strview s, nib_error *err) {
    memset(out, 0, sizeof *out);
    size_t depth = 0, copied = 0;
    bool in_model = false;
    for (size_t i = 0; i < s.n;) {
        const char c = s.p[i];
        if (c != '"') {
            depth += c == '{' || c == '[';
            depth -= (c == '}' || c == ']') && depth > 0;
            i++;
            continue;
        }
        const size_t end = skip_string(s, i), colon = skip_blanks(s, end);
        if (colon < s.n && s.p[colon] == ':' && depth == 1)
            in_model = key_is(s, i, end, "\"model\"");
        strview *list = !in_model || depth != 2           ? NULL
                        : key_is(s, i, end, "\"vocab\"")  ? &out->vocab
                        : key_is(s, i, end, "\"merges\"") ? &out->merges
                                                          : NULL;
        const size_t value = colon < s.n && s.p[colon] == ':' ? skip_blanks(s, colon + 1) : s.n;
        i = end;
        if (!list || list->n || value >= s.n || s.p[value] != (list == &out->vocab ? '{' : '['))
            continue;
        i = skip_value(s, value);
        *list = (strview){s.p + value, i - value};
        NIB_TRY(text_buffer_append(&out->rest, s.p + copied, value - copied, err));
        NIB_TRY(text_buffer_append(&out->rest, list == &out->vocab ? "{}" : "[]", 2, err));
        copied = i;
    }
    return text_buffer_append(&out->rest, s.p + copied, s.n - copied, err);
}

void json_lists_free(json_lists *lists) {
    text_buffer_free(&lists->rest);
}

/* ---- walking ---- */

void json_lists_walk_free(json_lists_walk *w) {
    text_buffer_free(&w->left);
    text_buffer_free(&w->right);
}

static nib_status bad(const json_lists_walk *w, const char *expected, nib_error *err) {
    return nib_fail(err, NIB_BAD_FILE, "%s: %s, entry %zu: expected %s", w->where, w->field, w->n, expected);
}

static char peek(json_lists_walk *w) {
    const size_t i = skip_blanks(w->rest, 0);
    w->rest.p += i;
    w->rest.n -= i;
    return w->rest.n ? *w->rest.p : '\0';
}

static bool take(json_lists_walk *w, char c) {
    if (peek(w) != c || w->rest.n == 0)
        return false;
    w->rest.p++;
    w->rest.n--;
    return true;
}

/* Four hexadecimal digits at P, or -1. */
static int32_t hex4(const char *p, size_t n) {
    int32_t value = 0;
    if (n < 4)
        return -1;
    for (size_t i = 0; i < 4; i++) {
        const char c = p[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The escape at S[0] ('\'): its bytes go to OUT; returns its length, 0 when it is none. */
static size_t unescape(strview s, char out[4], unsigned *n_out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (s.n < 2)
        return 0;
    const char *name = s.p[1] ? strchr(names, s.p[1]) : NULL;
    if (name) {
        out[0] = values[name - names];
        *n_out = 1;
        return 2;
    }
    int32_t code = s.p[1] == 'u' ? hex4(s.p + 2, s.n - 2) : -1;
    if (code <= 0 || (code >= 0xDC00 && code < 0xE000))
        return 0;
    size_t used = 6;
    if (code >= 0xD800 && code < 0xDC00) {
        const int32_t low = s.n >= 12 && s.p[6] == '\\' && s.p[7] == 'u' ? hex4(s.p + 8, 4) : -1;
        if (low < 0xDC00 || low >= 0xE000)
            return 0;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        used = 12;
    }
    *n_out = utf8_encode((uint32_t)code, out);
    return used;
}

/* The string at the front of the walk. OWN holds it when it has escapes. */
static nib_status take_string(json_lists_walk *w, text_buffer *own, strview *out, nib_error *err) {
    if (!take(w, '"'))
        return bad(w, "a string", err);
    const strview s = w->rest;
    size_t i = 0, copied = 0;
    own->n = 0;
    while (i < s.n && s.p[i] != '"') {
        if ((unsigned char)s.p[i] < 0x20)
            return bad(w, "a string without control characters", err);
        if (s.p[i] != '\\') {
            i++;
            continue;
        }
        char bytes[4];
        unsigned n_bytes = 0;
        const size_t used = unescape((strview){s.p + i, s.n - i}, bytes, &n_bytes);
        if (!used)
            return bad(w, "a string with sound escapes", err);
        NIB_TRY(text_buffer_append(own, s.p + copied, i - copied, err));
        NIB_TRY(text_buffer_append(own, bytes, n_bytes, err));
        i += used;
        copied = i;
    }
    if (i == s.n)
        return bad(w, "a string that ends", err);
    *out = (strview){s.p, i};
    if (copied > 0) {
        NIB_TRY(text_buffer_append(own, s.p + copied, i - copied, err));
        *out = (strview){own->bytes, own->n};
    }
    if (utf8_valid_prefix(out->p, out->n) < out->n)
        return bad(w, "a string in UTF-8", err);
    w->rest.p += i + 1;
    w->rest.n -= i + 1;
    return NIB_OK;
}

/* Opens the list, or steps over the comma; *found is false at its end, which must be the text's. */
static nib_status next_entry(json_lists_walk *w, char open, char close, bool *found, nib_error *err) {
    const bool first = w->n == 0;
    if (first && !take(w, open))
        return bad(w, "a list", err);
    if (take(w, close)) {
        *found = false;
        return w->rest.n ? bad(w, "the end of the list", err) : NIB_OK;
    }
    if (!first && !take(w, ','))
        return bad(w, "a comma", err);
    *found = true;
    return NIB_OK;
}

nib_status json_lists_next_piece(json_lists_walk *w, strview *piece, int32_t *id, bool *found,
                                 nib_error *err) {
    NIB_TRY(next_entry(w, '{', '}', found, err));
    if (!*found)
        return NIB_OK;
    NIB_TRY(take_string(w, &w->left, piece, err));
    if (!take(w, ':'))
        return bad(w, "a colon", err);
    const char first = peek(w);
    size_t digits = 0;
    *id = 0;
    while (digits < w->rest.n && digits < 9 && w->rest.p[digits] >= '0' && w->rest.p[digits] <= '9')
        *id = *id * 10 + (w->rest.p[digits++] - '0');
    const char after = digits < w->rest.n ? w->rest.p[digits] : '\0';
    if (digits == 0 || digits == 9 || (first == '0' && digits > 1) || after == '.' || (after | 0x20) == 'e')
        return bad(w, "an id, a number from 0 up", err);
    w->rest.p += digits;
    w->rest.n -= digits;
    w->n++;
    return NIB_OK;
}

size_t json_lists_merges_bound(strview list) {
    const size_t first = list.n ? skip_blanks(list, 1) : 0;
    const char mark = first < list.n && list.p[first] == '[' ? '[' : ',';
    size_t n = 1;
    for (size_t i = 0; i < list.n; i++)
        n += list.p[i] == mark;
    return n;
}

nib_status json_lists_next_merge(json_lists_walk *w, strview *left, strview *right, bool *found,
                                 nib_error *err) {
    NIB_TRY(next_entry(w, '[', ']', found, err));
    if (!*found)
        return NIB_OK;
    const bool pair = take(w, '[');
    if (w->n == 0)
        w->pairs = pair;
    if (pair != w->pairs)
        return bad(w, "a merge in the form of the first", err);
    if (pair) {
        NIB_TRY(take_string(w, &w->left, left, err));
        if (!take(w, ','))
            return bad(w, "a pair of pieces", err);
        NIB_TRY(take_string(w, &w->right, right, err));
        if (!take(w, ']'))
            return bad(w, "a pair of pieces", err);
    } else {
        strview both;
        NIB_TRY(take_string(w, &w->left, &both, err));
        const char *space = both.n ? memchr(both.p, ' ', both.n) : NULL;
        if (!space)
            return bad(w, "a pair of pieces", err);
        *left = (strview){both.p, (size_t)(space - both.p)};
        *right = (strview){space + 1, both.n - left->n - 1};
    }
    if (left->n == 0 || right->n == 0)
        return bad(w, "a pair of pieces", err);
    w->n++;
    return NIB_OK;
}
