/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming decoder: bytes of pieces in, whole UTF-8 characters out. At most the three bytes of a character's
 * start are held back between calls.
 */
#include "base/utf8.h"
#include "text/tokenizer_parts.h"

/* Gives out what of held is decided; AT_END: all of it. Returns the bytes written. */
static size_t drain(detokenizer *d, bool at_end, char *out) {
    size_t written = 0, i = 0;
    while (i < d->n_held) {
        if (!at_end && utf8_is_partial(d->held + i, d->n_held - i))
            break;
        uint32_t code;
        unsigned bad;
        const unsigned bytes = utf8_decode(d->held + i, d->n_held - i, &code, &bad);
        if (bytes)
            memcpy(out + written, d->held + i, bytes);
        else
            memcpy(out + written, UTF8_REPLACEMENT, 3);
        written += bytes ? bytes : 3;
        i += bytes ? bytes : bad;
    }
    d->n_held -= i;
    memmove(d->held, d->held + i, d->n_held);
    return written;
}

size_t detokenizer_push(const tokenizer *t, detokenizer *d, int32_t id, bool with_control, char *out) {
    strview text = tokenizer_piece(t, id, with_control);
    if (!d->started && text.n > 0 && !tokenizer_is_control(t, id)) {
        d->started = true;
        if (t->strip_space && text.p[0] == ' ') {
            text.p++;
            text.n--;
        }
    }
    size_t written = 0;
    for (size_t i = 0; i < text.n; i++) {
        d->held[d->n_held++] = (unsigned char)text.p[i];
        written += drain(d, false, out + written);
    }
    return written;
}

size_t detokenizer_flush(detokenizer *d, char *out) {
    return drain(d, true, out);
}
