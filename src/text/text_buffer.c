/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes that grow; see text_buffer.h.
 */
#include "text/text_buffer.h"

#include <string.h>

#include "base/mem.h"

nib_status text_buffer_append(text_buffer *b, const char *bytes, size_t n, nib_error *err) {
    if (n > b->capacity - b->n) {
        const size_t capacity = (b->capacity + n) * 2 + 64;
        char *grown = mem_resize(b->bytes, capacity, 1);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu bytes of text", b->n + n);
        b->bytes = grown;
        b->capacity = capacity;
    }
    if (n)
        memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
    return NIB_OK;
}

void text_buffer_free(text_buffer *b) {
    mem_free(b->bytes);
    memset(b, 0, sizeof *b);
}
