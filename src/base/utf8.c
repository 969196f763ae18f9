/* SPDX-License-Identifier: Apache-2.0
 *
 * UTF-8 decoding; see utf8.h for the three kinds.
 */
#include "base/utf8.h"

#include <string.h>

/* The range of the second byte after LEAD, which is what rules out overlong forms, surrogates and codes past
 * U+10FFFF; false when LEAD begins no character of several bytes. */
static bool second_range(unsigned char lead, unsigned char *low, unsigned char *high) {
    if (lead < 0xC2 || lead > 0xF4)
        return false;
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return true;
}

unsigned utf8_decode(const unsigned char *p, size_t n, uint32_t *code, unsigned *bad) {
    *bad = 1;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    unsigned char low, high;
    if (!second_range(p[0], &low, &high) || n < 2 || p[1] < low || p[1] > high)
        return 0;
    const unsigned need = utf8_lead_bytes(p[0]);
    for (unsigned i = 2; i < need; i++)
        if (i >= n || (p[i] & 0xC0) != 0x80) {
            *bad = i;
            return 0;
        }
    unsigned bytes;
    *code = utf8_read(p, &bytes);
    return bytes;
}

bool utf8_is_partial(const unsigned char *p, size_t n) {
    unsigned char low, high;
    if (n == 0 || !second_range(p[0], &low, &high) || n >= utf8_lead_bytes(p[0]))
        return false;
    if (n >= 2 && (p[1] < low || p[1] > high))
        return false;
    return n < 3 || (p[2] & 0xC0) == 0x80;
}

size_t utf8_valid_prefix(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        if (p[i] < 0x80) {
            uint64_t word;
            while (i + 8 <= n && (memcpy(&word, p + i, 8), (word & UINT64_C(0x8080808080808080)) == 0))
                i += 8;
            while (i < n && p[i] < 0x80)
                i++;
            continue;
        }
        uint32_t code;
        unsigned bad;
        const unsigned bytes = utf8_decode(p + i, n - i, &code, &bad);
        if (!bytes)
            return i;
        i += bytes;
    }
    return n;
}

unsigned utf8_decode_lenient(const unsigned char *p, size_t n, uint32_t *code) {
    if (p[0] >= 0x80 && (p[0] < 0xC0 || p[0] >= 0xF8))
        return 0;
    const unsigned need = utf8_lead_bytes(p[0]);
    if (need > n)
        return 0;
    for (unsigned i = 1; i < need; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    unsigned bytes;
    *code = utf8_read(p, &bytes);
    return *code < 0x110000 ? bytes : 0; /* past the end of Unicode llama.cpp aborts; we replace */
}

unsigned utf8_encode(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}
