/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalization. utf8proc decomposes and composes; the canonical ordering between is our own, because
 * utf8proc's takes quadratic time on long runs of combining marks.
 */
#include "text/normalize.h"

#include <utf8proc.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/char_class.h"

nib_status normalize_repair(text_buffer *out, const char *text, size_t n, nib_error *err) {
    while (n > 0) {
        const size_t good = utf8_valid_prefix(text, n);
        NIB_TRY(text_buffer_append(out, text, good, err));
        text += good;
        n -= good;
        if (n > 0) {
            uint32_t code;
            unsigned bad;
            utf8_decode((const unsigned char *)text, n, &code, &bad);
            NIB_TRY(text_buffer_append(out, UTF8_REPLACEMENT, 3, err));
            text += bad;
            n -= bad;
        }
    }
    return NIB_OK;
}

nib_status normalize_repair_lenient(text_buffer *out, const char *text, size_t n, nib_error *err) {
    while (n > 0) {
        const size_t good = utf8_valid_prefix(text, n);
        NIB_TRY(text_buffer_append(out, text, good, err));
        text += good;
        n -= good;
        if (n > 0) {
            uint32_t code;
            char bytes[4];
            const unsigned used = utf8_decode_lenient((const unsigned char *)text, n, &code);
            const unsigned length = utf8_encode(used ? code : 0xFFFD, bytes);
            NIB_TRY(text_buffer_append(out, bytes, length, err));
            text += used ? used : 1;
            n -= used ? used : 1;
        }
    }
    return NIB_OK;
}

nib_status normalize_spaces(text_buffer *out, const char *text, size_t n, nib_error *err) {
    while (n > 0) {
        const char *space = memchr(text, ' ', n);
        const size_t before = space ? (size_t)(space - text) : n;
        NIB_TRY(text_buffer_append(out, text, before, err));
        text += before;
        n -= before;
        if (n > 0) {
            NIB_TRY(text_buffer_append(out, SPACE_MARK, 3, err));
            text++;
            n--;
        }
    }
    return NIB_OK;
}

/* ---- normal form C ---- */

static bool is_stranger(uint32_t code) {
    size_t low = 0, high = n_nfc_strangers;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (nfc_strangers[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n_nfc_strangers && nfc_strangers[low].first <= code;
}

/* Bytes of the leading part that normal form C certainly leaves alone: characters below U+0300, less the last
 * one when a character above follows (a mark may join it). */
static size_t plain_prefix(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && (unsigned char)text[i] < 0xCC)
        i++;
    if (i < n && i > 0) {
        i--;
        while (i > 0 && ((unsigned char)text[i] & 0xC0) == 0x80)
            i--;
    }
    return i;
}

static int combining_class(int32_t code) {
    return (int)utf8proc_get_property(code)->combining_class;
}

/* Stable sort by combining class of the marks codes[0 .. n), all classes > 0. */
static void sort_marks(int32_t *codes, size_t n, int32_t *scratch) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            const int32_t code = codes[i];
            const int class = combining_class(code);
            size_t j = i;
            for (; j > 0 && combining_class(codes[j - 1]) > class; j--)
                codes[j] = codes[j - 1];
            codes[j] = code;
        }
        return;
    }
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[combining_class(codes[i]) + 1]++;
    for (size_t k = 1; k < 257; k++)
        start[k] += start[k - 1];
    for (size_t i = 0; i < n; i++)
        scratch[start[combining_class(codes[i])]++] = codes[i];
    memcpy(codes, scratch, n * sizeof *codes);
}

static void order_marks(int32_t *codes, size_t n, int32_t *scratch) {
    for (size_t i = 0; i < n;) {
        if (combining_class(codes[i]) == 0) {
            i++;
            continue;
        }
        size_t j = i + 1;
        while (j < n && combining_class(codes[j]) != 0)
            j++;
        if (j - i > 1)
            sort_marks(codes + i, j - i, scratch);
        i = j;
    }
}

/* codes holds room for twice what the text may decompose to: the second half is scratch. */
static nib_status compose(text_buffer *out, int32_t *codes, size_t n, int32_t *scratch, nib_error *err) {
    order_marks(codes, n, scratch);
    const utf8proc_ssize_t m =
        utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < m; i++) {
        char bytes[4];
        NIB_TRY(text_buffer_append(out, bytes, utf8_encode((uint32_t)codes[i], bytes), err));
    }
    return NIB_OK;
}

#define MOST_PARTS 4 /* of one character's canonical decomposition */

static nib_status nfc_slow(text_buffer *out, const char *text, size_t n, nib_error *err) {
    size_t characters = 0, room, bytes_needed;
    for (size_t i = 0; i < n; i++)
        characters += ((unsigned char)text[i] & 0xC0) != 0x80;
    int32_t *codes = NULL;
    if (mem_mul(characters, MOST_PARTS, &room) && mem_mul(room, 2 * sizeof *codes, &bytes_needed))
        codes = mem_alloc(bytes_needed);
    if (!codes)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to normalize %zu bytes of text", n);
    nib_status status = NIB_OK;
    size_t filled = 0;
    for (size_t i = 0; i < n && status == NIB_OK;) {
        unsigned bytes;
        const uint32_t code = utf8_read((const unsigned char *)text + i, &bytes);
        if (is_stranger(code)) {
            status = compose(out, codes, filled, codes + room, err);
            filled = 0;
            if (status == NIB_OK)
                status = text_buffer_append(out, text + i, bytes, err);
        } else {
            int last = 0;
            const utf8proc_ssize_t parts =
                utf8proc_decompose_char((utf8proc_int32_t)code, codes + filled, MOST_PARTS,
                                        UTF8PROC_STABLE | UTF8PROC_COMPOSE, &last);
            if (parts < 0 || parts > MOST_PARTS)
                codes[filled++] = (int32_t)code;
            else
                filled += (size_t)parts;
        }
        i += bytes;
    }
    if (status == NIB_OK)
        status = compose(out, codes, filled, codes + room, err);
    mem_free(codes);
    return status;
}

nib_status normalize_nfc(text_buffer *out, const char *text, size_t n, nib_error *err) {
    while (n > 0) {
        const size_t plain = plain_prefix(text, n);
        NIB_TRY(text_buffer_append(out, text, plain, err));
        text += plain;
        n -= plain;
        if (n == 0)
            return NIB_OK;
        /* the slow part ends before two plain characters: the second begins a new composition */
        size_t slow = 0;
        for (size_t run = 0; slow < n && run < 2; slow++)
            run = (unsigned char)text[slow] < 0x80 ? run + 1 : 0;
        if (slow < n)
            slow--;
        NIB_TRY(nfc_slow(out, text, slow, err));
        text += slow;
        n -= slow;
    }
    return NIB_OK;
}
