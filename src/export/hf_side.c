/* SPDX-License-Identifier: Apache-2.0
 *
 * The small files beside a directory's tensors: how one is written, whole or not at all.
 */
#include <stdio.h>
#include <string.h>

#include "base/outfile.h"
#include "export/export_parts.h"

nib_status hf_side_write_text(const char *directory, const char *name, const void *bytes, size_t n,
                              nib_error *err) {
    char path[4096];
    outfile *f;
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: the name is too long", directory);
    NIB_TRY(outfile_open(&f, path, err));
    nib_status status = outfile_write(f, bytes, n, err);
    if (status == NIB_OK)
        return outfile_commit(f, err);
    outfile_abandon(f);
    return status;
}

nib_status hf_side_write_json(const char *directory, const char *name, const json_t *root, nib_error *err) {
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text)
        return nib_fail(err, NIB_NO_MEMORY, "%s/%s: no memory to write it", directory, name);
    nib_status status = hf_side_write_text(directory, name, text, strlen(text), err);
    json_text_free(text);
    return status;
}
