/* SPDX-License-Identifier: Apache-2.0
 *
 * Stops: the texts at which an answer ends, looked for as it comes. A byte costs a step or two for each text,
 * whatever the texts are (Knuth, Morris, Pratt): clients choose them, and the engine's thread looks.
 */
#ifndef ENGINE_STOPS_H
#define ENGINE_STOPS_H

#include "base/status.h"
#include "base/strview.h"

#define STOPS_MAX       64
#define STOPS_MAX_BYTES 1024

/* Copies of a request's stop texts. */
typedef struct stop_texts {
    size_t n;
    strview *texts; /* [n] in one piece of memory with what follows */
    /* Of text i, [its length]: entry k is how many bytes at the end of its first k + 1 it begins with itself.
     */
    const uint16_t **borders;
    size_t longest;
} stop_texts;

/* Refused: an empty text, one that is not UTF-8, too many or too long. */
nib_status stops_open(stop_texts *out, const char *const *texts, size_t n, nib_error *err);
void stops_close(stop_texts *s); /* safe on a zeroed struct */

/* BYTES [n] come. MATCHED [s->n] (zeros at first) says of each text how much of it the bytes so far end with,
 * and is moved on. Returns the text that is complete now, of several the one that begins first, and in *END
 * how many of BYTES had come by its end; -1: none is. Nothing may follow one. */
int stops_feed(const stop_texts *s, uint16_t *matched, const char *bytes, size_t n, size_t *end);

/* Bytes at the end with which a text begins. */
size_t stops_begun(const stop_texts *s, const uint16_t *matched);

#endif
