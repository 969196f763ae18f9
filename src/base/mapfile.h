/* SPDX-License-Identifier: Apache-2.0
 *
 * A file mapped read-only.
 */
#ifndef BASE_MAPFILE_H
#define BASE_MAPFILE_H

#include "base/status.h"

typedef struct mapfile {
    const unsigned char *bytes;
    size_t size;
} mapfile;

nib_status mapfile_open(mapfile *out, const char *path,
                        nib_error *err); /* a directory or an empty file is an error */
void mapfile_close(mapfile *m);          /* safe on a zeroed mapfile */
/* The pages wholly inside [p, p + n) leave resident memory (they can be read again). What does not lie in an
 * open map (memory of the caller's own) stays as it is. */
void mapfile_forget(const void *p, size_t n);
/* DST [n] becomes [p, p + n) of an open map, read from its file and not through the map: where the file has
 * been cut short that is NIB_BAD_FILE, not a signal. What lies in no open map is copied. */
nib_status mapfile_read(void *dst, const void *p, size_t n, nib_error *err);

#endif
