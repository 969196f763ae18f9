/* SPDX-License-Identifier: Apache-2.0
 *
 * Small files that flags name. Read as streams: a pipe may stand for a file.
 */
#include "cli/files.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

nib_status files_read_stream(FILE *stream, const char *name, char **out, size_t *n, nib_error *err) {
    size_t capacity = 0;
    *out = NULL;
    *n = 0;
    do {
        if (*n == capacity) {
            capacity = capacity ? 2 * capacity : 65536;
            char *grown = mem_resize(*out, capacity, 1);
            if (!grown) {
                mem_free(*out);
                *out = NULL;
                return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu bytes of text", name, capacity);
            }
            *out = grown;
        }
        *n += fread(*out + *n, 1, capacity - *n, stream);
    } while (!feof(stream) && !ferror(stream));
    if (!ferror(stream))
        return NIB_OK;
    mem_free(*out);
    *out = NULL;
    return nib_fail(err, NIB_IO, "%s: cannot be read: %s", name, strerror(errno));
}

static const char *name_of(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

nib_status files_read(const char *path, char **out, size_t *n, nib_error *err) {
    if (strcmp(path, "-") == 0)
        return files_read_stream(stdin, name_of(path), out, n, err);
    FILE *file = fopen(path, "rb");
    if (!file)
        return nib_fail(err, NIB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    const nib_status status = files_read_stream(file, path, out, n, err);
    fclose(file);
    return status;
}

nib_status files_read_json(const char *path, json_t **out, nib_error *err) {
    char *text;
    size_t n;
    NIB_TRY(files_read(path, &text, &n, err));
    const nib_status status = json_read(out, text, n, name_of(path), err);
    mem_free(text);
    return status;
}

bool files_is_template(const char *path) {
    static const char ending[] = ".jinja";
    const size_t n = strlen(path), k = sizeof ending - 1;
    return n > k && strcmp(path + n - k, ending) == 0;
}
