/* SPDX-License-Identifier: Apache-2.0
 *
 * What a tokenizer does to text before it cuts it: repair of UTF-8, normal form C, U+2581 for spaces.
 * All of them append to a buffer. Private to the text room.
 */
#ifndef TEXT_NORMALIZE_H
#define TEXT_NORMALIZE_H

#include "text/text_buffer.h"

#define SPACE_MARK "\xE2\x96\x81" /* U+2581, SentencePiece's space */

/* Valid UTF-8: U+FFFD for every maximal invalid part, as Python's errors="replace" does it. */
nib_status normalize_repair(text_buffer *out, const char *text, size_t n, nib_error *err);

/* llama.cpp's: U+FFFD for every byte that begins no character; overlong forms become their short ones. */
nib_status normalize_repair_lenient(text_buffer *out, const char *text, size_t n, nib_error *err);

/* Normal form C of valid UTF-8, equal to that of the package tokenizers (whose tables are old: newer
 * combining characters neither move nor compose). Linear in time, runs of combining marks included. */
nib_status normalize_nfc(text_buffer *out, const char *text, size_t n, nib_error *err);

/* ' ' -> U+2581 */
nib_status normalize_spaces(text_buffer *out, const char *text, size_t n, nib_error *err);

#endif
