/* SPDX-License-Identifier: Apache-2.0
 *
 * Methods: Python's of str, dict and list, and those of `loop`. A method that would change its value exists
 * but may not be called, as in transformers' sandbox.
 */
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_builtin.h"

/* ---- str ---- */

static nib_status strip(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return jinja_strip(r, self.text, b->v[0], true, true, out);
}

static nib_status lstrip(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return jinja_strip(r, self.text, b->v[0], true, false, out);
}

static nib_status rstrip(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return jinja_strip(r, self.text, b->v[0], false, true, out);
}

static nib_status upper(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return jinja_change_case(r, self.text, JINJA_UPPER, out);
}

static nib_status lower(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return jinja_change_case(r, self.text, JINJA_LOWER, out);
}

static nib_status capitalize(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return jinja_change_case(r, self.text, JINJA_CAPITALIZE, out);
}

static nib_status title(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return jinja_change_case(r, self.text, JINJA_TITLE, out);
}

static nib_status swapcase(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return jinja_change_case(r, self.text, JINJA_SWAP, out);
}

static bool has_affix(strview s, strview affix, bool at_end) {
    return affix.n <= s.n && memcmp(at_end ? s.p + s.n - affix.n : s.p, affix.p, affix.n) == 0;
}

/* One affix, or a tuple of which one is enough. */
static nib_status affix(jinja_run *r, jinja_value self, const jinja_bound *b, bool at_end, jinja_value *out) {
    const jinja_value *v = b->v[0];
    const jinja_text *text;
    *out = jinja_bool(false);
    if (v->kind != JINJA_TUPLE) {
        NIB_TRY(jinja_want_text(r, v, at_end ? "endswith first arg" : "startswith first arg", &text));
        *out = jinja_bool(has_affix(jinja_view(self.text), jinja_view(text), at_end));
        return NIB_OK;
    }
    for (size_t i = 0; i < v->list->n && !out->b; i++) {
        NIB_TRY(jinja_want_text(r, &v->list->items[i], "an affix", &text));
        *out = jinja_bool(has_affix(jinja_view(self.text), jinja_view(text), at_end));
    }
    return NIB_OK;
}

static nib_status startswith(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return affix(r, self, b, false, out);
}

static nib_status endswith(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return affix(r, self, b, true, out);
}

static nib_status without_affix(jinja_run *r, jinja_value self, const jinja_bound *b, bool at_end,
                                jinja_value *out) {
    const jinja_text *text;
    NIB_TRY(jinja_want_text(r, b->v[0], "the affix", &text));
    const size_t n = has_affix(jinja_view(self.text), jinja_view(text), at_end) ? text->n : 0;
    return jinja_cut(r, self.text, at_end ? 0 : n, at_end ? self.text->n - n : self.text->n, out);
}

static nib_status removeprefix(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return without_affix(r, self, b, false, out);
}

static nib_status removesuffix(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return without_affix(r, self, b, true, out);
}

static nib_status replace(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_text *old, *new_text;
    int64_t most = -1;
    NIB_TRY(jinja_want_text(r, b->v[0], "replace() argument 1", &old));
    NIB_TRY(jinja_want_text(r, b->v[1], "replace() argument 2", &new_text));
    if (b->v[2])
        NIB_TRY(jinja_want_int(r, b->v[2], "replace() argument 3", &most));
    return jinja_replace(r, self.text, old, new_text, most, out);
}

/* ---- split ---- */

static nib_status push_cut(jinja_run *r, const jinja_text *t, size_t from, size_t to, jinja_value list) {
    jinja_value part;
    NIB_TRY(jinja_cut(r, t, from, to, &part));
    return jinja_push(r, list, part);
}

/* At runs of white space; none of the parts is empty. */
static nib_status split_words(jinja_run *r, const jinja_text *t, int64_t most, jinja_value list) {
    const strview s = jinja_view(t);
    for (size_t i = jinja_space_after(s); i < s.n; most--) {
        size_t end = i;
        if (most == 0)
            return push_cut(r, t, i, s.n, list); /* with the space at its end */
        while (end < s.n) {
            unsigned bytes;
            if (jinja_is_space(utf8_read((const unsigned char *)s.p + end, &bytes)))
                break;
            end += bytes;
        }
        NIB_TRY(push_cut(r, t, i, end, list));
        i = end + jinja_space_after((strview){s.p + end, s.n - end});
    }
    return NIB_OK;
}

static nib_status split_at(jinja_run *r, const jinja_text *t, strview mark, int64_t most, jinja_value list) {
    const strview s = jinja_view(t);
    size_t done = 0;
    for (size_t at; most != 0 && (at = jinja_find(s, mark, done)) <= s.n; most--) {
        NIB_TRY(push_cut(r, t, done, at, list));
        done = at + mark.n;
    }
    return push_cut(r, t, done, s.n, list);
}

static size_t find_last(strview s, strview mark, size_t end) {
    for (size_t at = end >= mark.n ? end - mark.n + 1 : 0; at-- > 0;)
        if (memcmp(s.p + at, mark.p, mark.n) == 0)
            return at;
    return s.n + 1;
}

/* From the right: the parts come out backwards and are turned round. */
static nib_status split_from_right(jinja_run *r, const jinja_text *t, strview mark, int64_t most,
                                   jinja_value list) {
    const strview s = jinja_view(t);
    size_t end = s.n;
    for (size_t at; most != 0 && (at = find_last(s, mark, end)) <= s.n; most--) {
        NIB_TRY(push_cut(r, t, at + mark.n, end, list));
        end = at;
    }
    NIB_TRY(push_cut(r, t, 0, end, list));
    for (size_t i = 0, k = list.list->n - 1; i < k; i++, k--) {
        const jinja_value held = list.list->items[i];
        list.list->items[i] = list.list->items[k];
        list.list->items[k] = held;
    }
    return NIB_OK;
}

static nib_status any_split(jinja_run *r, jinja_value self, const jinja_bound *b, bool right,
                            jinja_value *out) {
    const jinja_text *mark = NULL;
    int64_t most = -1;
    if (b->v[0] && b->v[0]->kind != JINJA_NONE)
        NIB_TRY(jinja_want_text(r, b->v[0], "the separator", &mark));
    if (b->v[1])
        NIB_TRY(jinja_want_int(r, b->v[1], "maxsplit", &most));
    if (mark && mark->n == 0)
        return jinja_fail(r, "empty separator");
    if (!mark && right && most >= 0)
        return jinja_fail(r, "rsplit() at white space with maxsplit is not supported");
    NIB_TRY(jinja_step(r, self.text->n / 64 * (right && mark ? 1 + mark->n : 1)));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, 0, out));
    if (!mark)
        return split_words(r, self.text, most, *out);
    return right ? split_from_right(r, self.text, jinja_view(mark), most, *out)
                 : split_at(r, self.text, jinja_view(mark), most, *out);
}

static nib_status split(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return any_split(r, self, b, false, out);
}

static nib_status rsplit(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return any_split(r, self, b, true, out);
}

static nib_status splitlines(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return jinja_lines(r, self.text, b->v[0] && jinja_truth(*b->v[0]), out);
}

static nib_status any_partition(jinja_run *r, jinja_value self, const jinja_bound *b, bool right,
                                jinja_value *out) {
    const jinja_text *mark, *t = self.text;
    NIB_TRY(jinja_want_text(r, b->v[0], "the separator", &mark));
    if (mark->n == 0)
        return jinja_fail(r, "empty separator");
    NIB_TRY(jinja_step(r, t->n / 64 * (right ? 1 + mark->n : 1)));
    const size_t at = right ? find_last(jinja_view(t), jinja_view(mark), t->n)
                            : jinja_find(jinja_view(t), jinja_view(mark), 0);
    const size_t none = right ? 0 : t->n;
    NIB_TRY(jinja_new_list(r, JINJA_TUPLE, 3, out));
    NIB_TRY(push_cut(r, t, 0, at <= t->n ? at : none, *out));
    NIB_TRY(push_cut(r, t, at <= t->n ? at : none, at <= t->n ? at + mark->n : none, *out));
    return push_cut(r, t, at <= t->n ? at + mark->n : none, t->n, *out);
}

static nib_status partition(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return any_partition(r, self, b, false, out);
}

static nib_status rpartition(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return any_partition(r, self, b, true, out);
}

/* ---- looking into a str ---- */

static nib_status find_any(jinja_run *r, jinja_value self, const jinja_bound *b, bool last, bool must,
                           jinja_value *out) {
    const jinja_text *part;
    NIB_TRY(jinja_want_text(r, b->v[0], "what is looked for", &part));
    const strview s = jinja_view(self.text);
    NIB_TRY(jinja_step(r, s.n / 64 * (last ? 1 + part->n : 1)));
    const size_t at = last ? find_last(s, jinja_view(part), s.n) : jinja_find(s, jinja_view(part), 0);
    if (at > s.n && must)
        return jinja_fail(r, "substring not found");
    *out = jinja_int(at > s.n ? -1 : (int64_t)jinja_characters((strview){s.p, at}));
    return NIB_OK;
}

static nib_status find(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return find_any(r, self, b, false, false, out);
}

static nib_status rfind(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return find_any(r, self, b, true, false, out);
}

static nib_status text_index(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return find_any(r, self, b, false, true, out);
}

static nib_status text_count(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_text *part;
    NIB_TRY(jinja_want_text(r, b->v[0], "what is counted", &part));
    const strview s = jinja_view(self.text);
    NIB_TRY(jinja_step(r, s.n / 64));
    int64_t n = 0;
    for (size_t at = 0; part->n && (at = jinja_find(s, jinja_view(part), at)) <= s.n; at += part->n)
        n++;
    *out = jinja_int(part->n ? n : (int64_t)jinja_characters(s) + 1);
    return NIB_OK;
}

/* Whether all characters are of the categories from FIRST to LAST, and there is one. */
static nib_status all_of(jinja_run *r, jinja_value self, bool (*holds)(uint32_t), jinja_value *out) {
    const jinja_text *t = self.text;
    bool all = t->n > 0;
    NIB_TRY(jinja_step(r, t->n / 64));
    for (size_t i = 0; i < t->n && all;) {
        unsigned bytes;
        all = holds(utf8_read((const unsigned char *)t->p + i, &bytes));
        i += bytes;
    }
    *out = jinja_bool(all);
    return NIB_OK;
}

static bool is_letter(uint32_t code) {
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_decimal(uint32_t code) {
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_ND;
}

static bool is_letter_or_decimal(uint32_t code) {
    return is_letter(code) || is_decimal(code);
}

static nib_status isalpha_(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return all_of(r, self, is_letter, out);
}

static nib_status isdigit_(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return all_of(r, self, is_decimal, out);
}

static nib_status isalnum_(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return all_of(r, self, is_letter_or_decimal, out);
}

static nib_status isspace_(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return all_of(r, self, jinja_is_space, out);
}

static nib_status text_join(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_list *items;
    NIB_TRY(jinja_items(r, *b->v[0], &items));
    return jinja_join(r, self.text, items, true, out);
}

static nib_status text_format(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    return jinja_brace_format(r, self.text, b->all, out);
}

const jinja_builtin jinja_text_methods[] = {
    {"strip", strip, "chars", 0},
    {"lstrip", lstrip, "chars", 0},
    {"rstrip", rstrip, "chars", 0},
    {"upper", upper, "", 0},
    {"lower", lower, "", 0},
    {"capitalize", capitalize, "", 0},
    {"title", title, "", 0},
    {"swapcase", swapcase, "", 0},
    {"startswith", startswith, "prefix", 1},
    {"endswith", endswith, "suffix", 1},
    {"removeprefix", removeprefix, "prefix", 1},
    {"removesuffix", removesuffix, "suffix", 1},
    {"replace", replace, "old new count", 2},
    {"split", split, "sep maxsplit", 0},
    {"rsplit", rsplit, "sep maxsplit", 0},
    {"splitlines", splitlines, "keepends", 0},
    {"partition", partition, "sep", 1},
    {"rpartition", rpartition, "sep", 1},
    {"find", find, "sub", 1},
    {"rfind", rfind, "sub", 1},
    {"index", text_index, "sub", 1},
    {"count", text_count, "sub", 1},
    {"isalpha", isalpha_, "", 0},
    {"isdigit", isdigit_, "", 0},
    {"isalnum", isalnum_, "", 0},
    {"isspace", isspace_, "", 0},
    {"join", text_join, "iterable", 1},
    {"format", text_format, NULL, 0},
    {NULL, NULL, NULL, 0},
};
