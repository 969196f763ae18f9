/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes that grow: where normalized text is written. Private to the text room.
 */
#ifndef TEXT_TEXT_BUFFER_H
#define TEXT_TEXT_BUFFER_H

#include "base/status.h"

typedef struct text_buffer {
    char *bytes;
    size_t n, capacity;
} text_buffer; /* zero-initialize */

nib_status text_buffer_append(text_buffer *b, const char *bytes, size_t n, nib_error *err);
void text_buffer_free(text_buffer *b);

#endif
