/* SPDX-License-Identifier: Apache-2.0
 *
 * Stream: the activations of all rows between two steps of a layer: memory, or past a limit an unnamed file
 * on disk, mapped.
 */
#ifndef TUNE_STREAM_H
#define TUNE_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct stream {
    float *at; /* zeroed */
    size_t bytes;
    bool on_disk;
} stream;

/* N floats; in a file beside PATH when ON_DISK. */
nib_status stream_open(stream *s, size_t n, bool on_disk, const char *path, nib_error *err);
/* Floats [first, first + n) are done with for now: those on disk leave memory. */
void stream_leave(const stream *s, size_t first, size_t n);
void stream_close(stream *s); /* safe on a zeroed stream */

#endif
