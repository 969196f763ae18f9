/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory of files that appears whole or not at all (see base/outfile.h): files are written inside
 * outdir_path, commit renames the directory. An existing final directory is replaced only if it is empty or a
 * model: it holds config.json, and no directories.
 */
#ifndef BASE_OUTDIR_H
#define BASE_OUTDIR_H

#include "base/status.h"

typedef struct outdir outdir;
nib_status outdir_open(outdir **out, const char *path, nib_error *err);
const char *outdir_path(const outdir *d); /* of the temporary directory */
nib_status outdir_commit(outdir *d, nib_error *err);
void outdir_abandon(outdir *d);

#endif
