/* SPDX-License-Identifier: Apache-2.0
 *
 * See stops.h.
 */
#include "engine/stops.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

static nib_status check(const char *const *texts, size_t n, size_t *bytes, nib_error *err) {
    *bytes = 0;
    if (n > STOPS_MAX)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu stop texts; at most %d can be given", n, STOPS_MAX);
    if (n > 0 && !texts)
        return nib_fail(err, NIB_BAD_ARGUMENT, "stop_texts is NULL; expected %zu of them", n);
    for (size_t i = 0; i < n; i++) {
        size_t length = texts[i] ? strnlen(texts[i], STOPS_MAX_BYTES + 1) : 0;
        if (length < 1 || length > STOPS_MAX_BYTES || utf8_valid_prefix(texts[i], length) != length)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "stop text %zu is empty, longer than %d bytes or not UTF-8; expected a text", i,
                            STOPS_MAX_BYTES);
        *bytes += length;
    }
    return NIB_OK;
}

/* How much of TEXT is matched when BYTE comes after MATCHED of it (less than all). */
static size_t step(strview text, const uint16_t *borders, size_t matched, char byte) {
    while (matched > 0 && text.p[matched] != byte)
        matched = borders[matched - 1];
    return matched + (text.p[matched] == byte);
}

static void find_borders(strview text, uint16_t *borders) {
    borders[0] = 0;
    for (size_t k = 1; k < text.n; k++)
        borders[k] = (uint16_t)step(text, borders, borders[k - 1], text.p[k]);
}

nib_status stops_open(stop_texts *out, const char *const *texts, size_t n, nib_error *err) {
    size_t bytes;
    *out = (stop_texts){0};
    NIB_TRY(check(texts, n, &bytes, err));
    if (n == 0)
        return NIB_OK;
    strview *views = mem_alloc(n * (sizeof *views + sizeof *out->borders) + bytes * (sizeof(uint16_t) + 1));
    if (!views)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu stop texts", n);
    out->borders = (const uint16_t **)(views + n);
    uint16_t *borders = (uint16_t *)(out->borders + n);
    char *at = (char *)(borders + bytes);
    for (size_t i = 0; i < n; i++) {
        const size_t length = strlen(texts[i]);
        memcpy(at, texts[i], length);
        views[i] = (strview){at, length};
        find_borders(views[i], borders);
        out->borders[i] = borders;
        at += length;
        borders += length;
        out->longest = length > out->longest ? length : out->longest;
    }
    out->texts = views;
    out->n = n;
    return NIB_OK;
}

void stops_close(stop_texts *s) {
    mem_free(s->texts);
    *s = (stop_texts){0};
}

int stops_feed(const stop_texts *s, uint16_t *matched, const char *bytes, size_t n, size_t *end) {
    int found = -1;
    for (size_t i = 0; i < s->n; i++) {
        const strview text = s->texts[i];
        size_t k = matched[i], at = 0;
        while (at < n && k < text.n)
            k = step(text, s->borders[i], k, bytes[at++]);
        matched[i] = (uint16_t)k;
        /* Of those that begin at the same byte the first in the list. */
        if (k == text.n && (found < 0 || at + s->texts[found].n < *end + text.n)) {
            found = (int)i;
            *end = at;
        }
    }
    return found;
}

size_t stops_begun(const stop_texts *s, const uint16_t *matched) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n; i++)
        longest = matched[i] > longest ? matched[i] : longest;
    return longest;
}
