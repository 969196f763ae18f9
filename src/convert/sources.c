/* SPDX-License-Identifier: Apache-2.0
 *
 * See sources.h.
 */
#include "convert/sources.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Is OUT the file PATH, or a directory above it? Replacing it would remove the file. A link is looked for in
 * both places: where it lies and where it leads. */
static bool would_remove(const char *out, const char *path) {
    char real[PATH_MAX], copy[PATH_MAX];
    if (same_file(path, out))
        return true;
    int n = snprintf(copy, sizeof copy, "%s", path);
    if (n < 0 || (size_t)n >= sizeof copy)
        return false; /* no system call takes such a path: it was never read */
    const char *starts[] = {path, dirname(copy)};
    for (int i = 0; i < 2; i++) {
        if (!realpath(starts[i], real))
            continue;
        for (char *slash; (slash = strrchr(real, '/'));) {
            if (same_file(real, out))
                return true;
            *slash = '\0';
        }
        if (same_file("/", out))
            return true;
    }
    return false;
}

static nib_status refuse_source(const char *out, const char *source, nib_error *err) {
    if (!would_remove(out, source))
        return NIB_OK;
    if (same_file(source, out))
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: is the source; write the output elsewhere", out);
    return nib_fail(err, NIB_BAD_ARGUMENT, "%s: holds the source %s; write the output elsewhere", out,
                    source);
}

nib_status sources_check(const model_file *in, const char *out, const convert_options *o, nib_error *err) {
    char path[PATH_MAX];
    const char *name;
    NIB_TRY(refuse_source(out, in->path, err));
    for (int i = 0; i < in->n_files; i++)
        NIB_TRY(refuse_source(out, model_file_part(in, i), err));
    for (size_t i = 0; in->directory && (name = export_side_name(i)); i++) {
        int n = snprintf(path, sizeof path, "%s/%s", in->directory, name);
        if (n > 0 && (size_t)n < sizeof path)
            NIB_TRY(refuse_source(out, path, err));
    }
    for (size_t i = 0; i < sizeof o->also_read / sizeof *o->also_read; i++)
        if (o->also_read[i])
            NIB_TRY(refuse_source(out, o->also_read[i], err));
    return NIB_OK;
}
