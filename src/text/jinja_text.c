/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts of a template: building, cutting, counting characters. Marks cost nothing while a text is all the
 * template's or all a user's.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/utf8.h"
#include "text/jinja_value.h"

nib_status jinja_fail(jinja_run *r, const char *format, ...) {
    char words[sizeof r->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return nib_fail(r->err, NIB_BAD_ARGUMENT, "%s", words);
}

nib_status jinja_step(jinja_run *r, uint64_t n) {
    if (n > r->steps_left) {
        r->steps_left = 0; /* whoever drops this status fails at the next step */
        return jinja_fail(r, "the chat template takes too many steps");
    }
    r->steps_left -= n;
    return NIB_OK;
}

nib_status jinja_alloc(jinja_run *r, size_t n, size_t size, void *out) {
    void **p = out;
    *p = NULL;
    if (size && n > r->bytes_left / size)
        return jinja_fail(r, "the chat template takes too much memory");
    r->bytes_left -= n * size;
    *p = arena_alloc(&r->memory, n ? n : 1, size ? size : 1);
    return *p ? NIB_OK : nib_fail(r->err, NIB_NO_MEMORY, "no memory for the chat template");
}

/* ---- building ---- */

nib_status jinja_reserve(jinja_run *r, jinja_builder *b, size_t n) {
    if (b->capacity - b->n >= n)
        return NIB_OK;
    const size_t wanted = b->n + n, capacity = b->capacity == 0 ? wanted + 32 : wanted * 2;
    char *p;
    NIB_TRY(jinja_alloc(r, capacity, 1, &p));
    if (b->n)
        memcpy(p, b->p, b->n);
    if (b->marks) {
        unsigned char *marks;
        NIB_TRY(jinja_alloc(r, capacity, 1, &marks));
        memcpy(marks, b->marks, b->n);
        b->marks = marks;
    }
    b->p = p;
    b->capacity = capacity;
    return NIB_OK;
}

static nib_status append(jinja_run *r, jinja_builder *b, const char *p, size_t n, const unsigned char *marks,
                         bool user) {
    if (n == 0)
        return NIB_OK;
    NIB_TRY(jinja_reserve(r, b, n));
    if (b->n == 0 && !marks)
        b->user = user;
    if (!b->marks && (marks || user != b->user)) {
        NIB_TRY(jinja_alloc(r, b->capacity, 1, &b->marks));
        memset(b->marks, b->user, b->n);
    }
    memcpy(b->p + b->n, p, n);
    if (b->marks && marks)
        memcpy(b->marks + b->n, marks, n);
    else if (b->marks)
        memset(b->marks + b->n, user, n);
    b->n += n;
    return NIB_OK;
}

nib_status jinja_build(jinja_run *r, jinja_builder *b, const char *p, size_t n, bool user) {
    return append(r, b, p, n, NULL, user);
}

nib_status jinja_build_text(jinja_run *r, jinja_builder *b, const jinja_text *t) {
    return append(r, b, t->p, t->n, t->marks, t->user);
}

nib_status jinja_build_words(jinja_run *r, jinja_builder *b, const char *words) {
    return append(r, b, words, strlen(words), NULL, false);
}

/* Memory in which a text was built; `used` bytes are some text's. */
typedef struct jinja_buffer {
    char *p;
    size_t used, capacity;
} jinja_buffer;

nib_status jinja_resume(jinja_run *r, jinja_builder *b, const jinja_text *t, size_t more) {
    jinja_buffer *buffer = t->buffer;
    *b = (jinja_builder){0};
    if (buffer && buffer->used == t->n) { /* nothing has been put behind it yet */
        buffer->used = SIZE_MAX;
        *b = (jinja_builder){buffer->p, (unsigned char *)t->marks, t->n, buffer->capacity, t->user};
        return NIB_OK;
    }
    NIB_TRY(jinja_reserve(r, b, t->n + more));
    return jinja_build_text(r, b, t);
}

static nib_status text_value(jinja_run *r, jinja_text text, jinja_value *out) {
    jinja_text *t;
    NIB_TRY(jinja_alloc(r, 1, sizeof *t, &t));
    *t = text;
    *out = (jinja_value){.kind = JINJA_TEXT, .text = t};
    return NIB_OK;
}

nib_status jinja_built(jinja_run *r, jinja_builder *b, jinja_value *out) {
    jinja_buffer *buffer = NULL;
    if (b->capacity > b->n) {
        NIB_TRY(jinja_alloc(r, 1, sizeof *buffer, &buffer));
        *buffer = (jinja_buffer){b->p, b->n, b->capacity};
    }
    return text_value(r, (jinja_text){b->p ? b->p : "", b->n, b->marks, b->user, false, buffer}, out);
}

nib_status jinja_new_text(jinja_run *r, const char *p, size_t n, bool user, jinja_value *out) {
    char *copy;
    NIB_TRY(jinja_alloc(r, n, 1, &copy));
    if (n)
        memcpy(copy, p, n);
    return text_value(r, (jinja_text){copy, n, NULL, user, false, NULL}, out);
}

nib_status jinja_cut(jinja_run *r, const jinja_text *t, size_t from, size_t to, jinja_value *out) {
    const unsigned char *marks = t->marks ? t->marks + from : NULL;
    return text_value(r, (jinja_text){t->p + from, to - from, marks, t->user, t->safe, NULL}, out);
}

/* ---- characters ---- */

bool jinja_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

size_t jinja_characters(strview s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

size_t jinja_offset(strview s, size_t k) {
    size_t i = 0;
    for (; i < s.n; i++)
        if (((unsigned char)s.p[i] & 0xC0) != 0x80 && k-- == 0)
            break;
    return i;
}

size_t jinja_last_character(strview s) {
    size_t at = s.n - 1;
    while (at > 0 && ((unsigned char)s.p[at] & 0xC0) == 0x80)
        at--;
    return at;
}

size_t jinja_space_after(strview s) {
    size_t at = 0;
    while (at < s.n) {
        unsigned bytes;
        if (!jinja_is_space(utf8_read((const unsigned char *)s.p + at, &bytes)))
            break;
        at += bytes;
    }
    return at;
}

size_t jinja_space_before(strview s) {
    while (s.n > 0) {
        const size_t at = jinja_last_character(s);
        unsigned bytes;
        if (!jinja_is_space(utf8_read((const unsigned char *)s.p + at, &bytes)))
            break;
        s.n = at;
    }
    return s.n;
}

static bool is_among(strview chars, const char *p, size_t n) {
    for (size_t i = 0; i < chars.n;) {
        const size_t bytes = utf8_lead_bytes((unsigned char)chars.p[i]);
        if (bytes == n && memcmp(chars.p + i, p, n) == 0)
            return true;
        i += bytes;
    }
    return false;
}

size_t jinja_chars_after(strview s, strview chars) {
    size_t at = 0;
    while (at < s.n) {
        const size_t bytes = utf8_lead_bytes((unsigned char)s.p[at]);
        if (!is_among(chars, s.p + at, bytes))
            break;
        at += bytes;
    }
    return at;
}

size_t jinja_chars_before(strview s, strview chars) {
    while (s.n > 0) {
        const size_t at = jinja_last_character(s);
        if (!is_among(chars, s.p + at, s.n - at))
            break;
        s.n = at;
    }
    return s.n;
}

size_t jinja_find(strview s, strview part, size_t from) {
    if (part.n == 0)
        return from;
    const char *at = from < s.n ? memmem(s.p + from, s.n - from, part.p, part.n) : NULL;
    return at ? (size_t)(at - s.p) : s.n + 1;
}
