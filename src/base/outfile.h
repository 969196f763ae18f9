/* SPDX-License-Identifier: Apache-2.0
 *
 * Output that appears whole or not at all: written under a temporary name beside the final one, synced and
 * renamed by commit. Write errors (a full disk) stick and are reported by commit in words.
 */
#ifndef BASE_OUTFILE_H
#define BASE_OUTFILE_H

#include "base/status.h"

typedef struct outfile outfile;

nib_status outfile_open(outfile **out, const char *path, nib_error *err);
nib_status outfile_write(outfile *f, const void *bytes, size_t n, nib_error *err); /* appends */
/* Replaces N bytes at OFFSET, all of which were written before. */
nib_status outfile_rewrite(outfile *f, uint64_t offset, const void *bytes, size_t n, nib_error *err);
uint64_t outfile_size(const outfile *f);
nib_status outfile_commit(outfile *f, nib_error *err); /* frees F whatever happens */
void outfile_abandon(outfile *f);                      /* removes the temporary file; NULL is fine */

#endif
