/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory of files that appears whole or not at all (see base/outfile.h): files are written inside
 * outdir_path, commit renames the directory. An existing final directory is replaced only if it is empty, or
 * it has a config.json and the file MARK, which its writer alone writes, and all its files are such as its
 * writer writes: whatever else lies there is not ours to remove.
 */
#ifndef BASE_OUTDIR_H
#define BASE_OUTDIR_H

#include <stdbool.h>

#include "base/status.h"

typedef struct outdir outdir;
typedef bool (*outdir_is_ours)(const char *name); /* may a file NAME of the old directory go? */
nib_status outdir_open(outdir **out, const char *path, outdir_is_ours is_ours, const char *mark,
                       nib_error *err);
const char *outdir_path(const outdir *d); /* of the temporary directory */
nib_status outdir_commit(outdir *d, nib_error *err);
void outdir_abandon(outdir *d);

#endif
