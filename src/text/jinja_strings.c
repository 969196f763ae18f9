/* SPDX-License-Identifier: Apache-2.0
 *
 * What filters and methods of texts share: case, strip, replace, join, lines. The marks of users' bytes go
 * where the bytes go.
 */
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_builtin.h"

/* ---- case ---- */

static bool is_cased(uint32_t code) {
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

/* One character in another case. Only the sharp s becomes two letters. */
static nib_status put_case(jinja_run *r, jinja_builder *b, uint32_t code, bool upper, bool user) {
    char bytes[4];
    if (upper && code == 0xDF)
        return jinja_build(r, b, "SS", 2, user);
    const utf8proc_int32_t c = (utf8proc_int32_t)code;
    const unsigned n = utf8_encode((uint32_t)(upper ? utf8proc_toupper(c) : utf8proc_tolower(c)), bytes);
    return jinja_build(r, b, bytes, n, user);
}

/* Whether the character of code CODE at the start of a word or not (FIRST: of the text) goes up. */
static bool goes_up(jinja_case to, uint32_t code, bool first, bool word_starts) {
    switch (to) {
    case JINJA_UPPER:
        return true;
    case JINJA_LOWER:
        return false;
    case JINJA_CAPITALIZE:
        return first;
    case JINJA_TITLE:
        return word_starts;
    case JINJA_SWAP:
        break;
    }
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_LL;
}

nib_status jinja_change_case(jinja_run *r, const jinja_text *t, jinja_case to, jinja_value *out) {
    jinja_builder b = {0};
    bool word_starts = true;
    for (size_t i = 0; i < t->n;) {
        unsigned bytes;
        const uint32_t code = utf8_read((const unsigned char *)t->p + i, &bytes);
        const bool user = t->marks ? t->marks[i] : t->user;
        NIB_TRY(put_case(r, &b, code, goes_up(to, code, i == 0, word_starts), user));
        word_starts = !is_cased(code);
        i += bytes;
    }
    return jinja_built(r, &b, out);
}

/* ---- strip, replace ---- */

nib_status jinja_strip(jinja_run *r, const jinja_text *t, const jinja_value *chars, bool left, bool right,
                       jinja_value *out) {
    const jinja_text *set = NULL;
    if (chars && chars->kind != JINJA_NONE)
        NIB_TRY(jinja_want_text(r, chars, "strip arg", &set));
    strview s = jinja_view(t);
    NIB_TRY(jinja_step(r, s.n / 256 * (set ? 1 + set->n / 4 : 1)));
    if (right)
        s.n = set ? jinja_chars_before(s, jinja_view(set)) : jinja_space_before(s);
    const size_t from = !left ? 0 : set ? jinja_chars_after(s, jinja_view(set)) : jinja_space_after(s);
    return jinja_cut(r, t, from, s.n, out);
}

static nib_status copy_part(jinja_run *r, jinja_builder *b, const jinja_text *t, size_t from, size_t to) {
    const jinja_text part = {t->p + from, to - from, t->marks ? t->marks + from : NULL, t->user, false, NULL};
    return jinja_build_text(r, b, &part);
}

/* An empty OLD stands before every character and at the end. */
static nib_status interleave(jinja_run *r, const jinja_text *t, const jinja_text *with, int64_t most,
                             jinja_value *out) {
    jinja_builder b = {0};
    size_t i = 0;
    for (; i <= t->n && most != 0; most--) {
        const size_t next = i < t->n ? i + utf8_lead_bytes((unsigned char)t->p[i]) : t->n + 1;
        NIB_TRY(jinja_build_text(r, &b, with));
        if (i < t->n)
            NIB_TRY(copy_part(r, &b, t, i, next));
        i = next;
    }
    if (i < t->n)
        NIB_TRY(copy_part(r, &b, t, i, t->n));
    return jinja_built(r, &b, out);
}

nib_status jinja_replace(jinja_run *r, const jinja_text *t, const jinja_text *old, const jinja_text *new_text,
                         int64_t most, jinja_value *out) {
    if (old->n == 0)
        return interleave(r, t, new_text, most, out);
    jinja_builder b = {0};
    size_t done = 0;
    NIB_TRY(jinja_step(r, t->n / 64));
    for (size_t at; most != 0 && (at = jinja_find(jinja_view(t), jinja_view(old), done)) <= t->n; most--) {
        NIB_TRY(copy_part(r, &b, t, done, at));
        NIB_TRY(jinja_build_text(r, &b, new_text));
        done = at + old->n;
    }
    NIB_TRY(copy_part(r, &b, t, done, t->n));
    return jinja_built(r, &b, out);
}

/* ---- join, lines ---- */

nib_status jinja_join(jinja_run *r, const jinja_text *with, const jinja_list *items, bool texts_only,
                      jinja_value *out) {
    jinja_builder b = {0};
    for (size_t i = 0; i < items->n; i++) {
        NIB_TRY(jinja_step(r, 1));
        if (texts_only && items->items[i].kind != JINJA_TEXT)
            return jinja_fail(r, "sequence item %zu: expected str instance, %s found", i,
                              jinja_type(items->items[i]));
        if (i)
            NIB_TRY(jinja_build_text(r, &b, with));
        NIB_TRY(jinja_print(r, &b, items->items[i]));
    }
    return jinja_built(r, &b, out);
}

/* Bytes of the line end at s.p[i]; 0: there is none. As str.splitlines has it. */
static size_t line_end(strview s, size_t i) {
    unsigned bytes;
    const uint32_t code = utf8_read((const unsigned char *)s.p + i, &bytes);
    if (code == '\r' && i + 1 < s.n && s.p[i + 1] == '\n')
        return 2;
    const bool ends = (code >= 10 && code <= 13) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
                      code == 0x2028 || code == 0x2029;
    return ends ? bytes : 0;
}

nib_status jinja_lines(jinja_run *r, const jinja_text *t, bool keep_ends, jinja_value *out) {
    const strview s = jinja_view(t);
    size_t from = 0;
    jinja_value line;
    NIB_TRY(jinja_new_list(r, JINJA_LIST, 0, out));
    for (size_t i = 0; i < s.n;) {
        const size_t end = line_end(s, i);
        if (!end) {
            i += utf8_lead_bytes((unsigned char)s.p[i]);
            continue;
        }
        NIB_TRY(jinja_cut(r, t, from, keep_ends ? i + end : i, &line));
        NIB_TRY(jinja_push(r, *out, line));
        from = i += end;
    }
    if (from == s.n)
        return NIB_OK;
    NIB_TRY(jinja_cut(r, t, from, s.n, &line));
    return jinja_push(r, *out, line);
}
