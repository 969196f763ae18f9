/* SPDX-License-Identifier: Apache-2.0
 *
 * See buf.h.
 */
#include "serve/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

static bool make_room(buf *b, size_t n) {
    size_t needed;
    if (b->failed || !mem_add(b->n + 1, n, &needed)) {
        b->failed = true;
        return false;
    }
    if (needed <= b->capacity)
        return true;
    size_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < needed)
        capacity = capacity > needed / 2 ? needed : capacity * 2;
    char *grown = mem_resize(b->bytes, capacity, 1);
    if (!grown) {
        b->failed = true;
        return false;
    }
    b->bytes = grown;
    b->capacity = capacity;
    return true;
}

void buf_add(buf *b, const void *bytes, size_t n) {
    if (!make_room(b, n))
        return;
    if (n > 0)
        memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
    b->bytes[b->n] = 0;
}

void buf_text(buf *b, const char *text) {
    buf_add(b, text, strlen(text));
}

void buf_print(buf *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    if (n >= 0 && make_room(b, (size_t)n)) {
        vsnprintf(b->bytes + b->n, (size_t)n + 1, format, again);
        b->n += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

static int add_chunk(const char *bytes, size_t n, void *b) {
    buf_add(b, bytes, n);
    return ((buf *)b)->failed ? -1 : 0;
}

void buf_json(buf *b, json_t *json) {
    if (!json ||
        json_dump_callback(json, add_chunk, b, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)))
        b->failed = true;
    json_decref(json);
}

void buf_json_text(buf *b, const char *text, size_t n) {
    size_t plain = 0;
    if (utf8_valid_prefix(text, n) != n) {
        b->failed = true; /* this answer ends, the others go on */
        return;
    }
    buf_add(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_add(b, text + plain, i - plain);
        plain = i + 1;
        if (c == '\n')
            buf_add(b, "\\n", 2);
        else if (c < 0x20)
            buf_print(b, "\\u%04X", (unsigned)c);
        else
            buf_add(b, c == '"' ? "\\\"" : "\\\\", 2);
    }
    buf_add(b, text + plain, n - plain);
    buf_add(b, "\"", 1);
}

void buf_base64(buf *b, const void *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i += 3) {
        const size_t left = n - i;
        const unsigned group = (unsigned)p[i] << 16 | (left > 1 ? (unsigned)p[i + 1] << 8 : 0) |
                               (left > 2 ? (unsigned)p[i + 2] : 0);
        const char four[4] = {digits[group >> 18], digits[group >> 12 & 63],
                              left > 1 ? digits[group >> 6 & 63] : '=', left > 2 ? digits[group & 63] : '='};
        buf_add(b, four, sizeof four);
    }
}

void buf_clear(buf *b) {
    b->n = 0;
}

void buf_free(buf *b) {
    mem_free(b->bytes);
    *b = (buf){0};
}
