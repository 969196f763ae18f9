/* SPDX-License-Identifier: Apache-2.0
 *
 * What a character is to the pre-tokenizers' patterns: letter (\p{L}), number (\p{N}), white space (\s) or
 * something else; and the categories behind it. Tables of our own, so that ids do not depend on the Unicode
 * version of a library.
 */
#ifndef TEXT_CHAR_CLASS_H
#define TEXT_CHAR_CLASS_H

#include <stdbool.h>
#include <string.h>

#include "base/status.h"
#include "base/strview.h"

typedef enum char_class { CHAR_OTHER = 0, CHAR_LETTER, CHAR_NUMBER, CHAR_SPACE } char_class;

/* Whose tables: they follow different versions of Unicode. */
typedef enum class_source {
    CLASSES_LLAMA_CPP = 0, /* 15.1 */
    CLASSES_TOKENIZERS,    /* the patterns of the Python package tokenizers */
    CLASSES_DIGITS         /* the same where its Digits step comes first, which knows a few more numbers */
} class_source;

typedef struct char_classes {
    uint16_t page[0x110000 >> 8]; /* of 256 characters each */
    uint8_t (*cells)[256];
} char_classes;

nib_status char_classes_open(char_classes *c, class_source source, nib_error *err);
void char_classes_close(char_classes *c);

static inline char_class char_class_of(const char_classes *c, uint32_t code) {
    return code < 0x110000 ? (char_class)c->cells[c->page[code >> 8]][code & 255] : CHAR_OTHER;
}

/* Is NAME a category, the first letter of several ("L", "Lu", ...), or "Han"? */
bool char_class_known(strview name);

/* Calls SPAN for every run of characters that the known NAME means to SOURCE, in ascending order. */
typedef struct unicode_span {
    uint32_t first, last;
} unicode_span;
typedef nib_status char_class_sink(void *context, unicode_span span, nib_error *err);
nib_status char_class_spans(strview name, class_source source, char_class_sink *span, void *context,
                            nib_error *err);

/* ---- unicode_ranges.c, generated ---- */
typedef struct unicode_range {
    uint32_t first, last;
    char category[3]; /* "Lu" */
    bool is_new;      /* not in llama.cpp's tables */
} unicode_range;
extern const unicode_range unicode_ranges[]; /* ascending; what is in none is not assigned */
extern const size_t n_unicode_ranges;
extern const unicode_span unicode_han[]; /* these too */
extern const size_t n_unicode_han;
extern const unicode_span unicode_digits[]; /* numbers to Digits only */
extern const size_t n_unicode_digits;
extern const unicode_span nfc_strangers[];
extern const size_t n_nfc_strangers;

#endif
