/* SPDX-License-Identifier: Apache-2.0
 *
 * UTF-8, three ways: strict (what the standard allows), llama.cpp's (any lead byte with its continuation
 * bytes, overlong forms and surrogates included) and by lead byte alone (its SentencePiece symbols).
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Bytes of the valid character at P (n >= 1 bytes are there) and its code; 0 when there is none: then *bad is
 * how many bytes one U+FFFD stands for (the longest start of a valid character, at least 1). */
unsigned utf8_decode(const unsigned char *p, size_t n, uint32_t *code, unsigned *bad);

/* True when the bytes at P are the start of a valid character that needs more than N bytes (n <= 3). */
bool utf8_is_partial(const unsigned char *p, size_t n);

/* Bytes of the leading valid part of TEXT; n when all of it is valid. */
size_t utf8_valid_prefix(const char *text, size_t n);

/* llama.cpp's decoding: bytes and code, or 0 where it puts one U+FFFD for one byte. */
unsigned utf8_decode_lenient(const unsigned char *p, size_t n, uint32_t *code);

unsigned utf8_encode(uint32_t code, char out[4]);

/* Bytes of a character by its lead byte alone; at least 1. */
static inline unsigned utf8_lead_bytes(unsigned char lead) {
    return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The code of a character known to be whole (strict or lenient), and its bytes. */
static inline uint32_t utf8_read(const unsigned char *p, unsigned *bytes) {
    if (p[0] < 0x80) {
        *bytes = 1;
        return p[0];
    }
    if (p[0] < 0xE0) {
        *bytes = 2;
        return (uint32_t)(p[0] & 31) << 6 | (p[1] & 63);
    }
    if (p[0] < 0xF0) {
        *bytes = 3;
        return (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
    }
    *bytes = 4;
    return (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 63) << 12 | (uint32_t)(p[2] & 63) << 6 |
           (p[3] & 63);
}

#endif
