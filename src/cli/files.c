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

nib_status files_read_json(const char *path, json_t **out, nib_error *err) {
    const bool standard = strcmp(path, "-") == 0;
    const char *name = standard ? "standard input" : path;
    FILE *file = standard ? stdin : fopen(path, "rb");
    if (!file)
        return nib_fail(err, NIB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    char *text;
    size_t n;
    nib_status status = files_read_stream(file, name, &text, &n, err);
    if (status == NIB_OK)
        status = json_read(out, text, n, name, err);
    mem_free(text);
    if (!standard)
        fclose(file);
    return status;
}

bool files_is_template(const char *path) {
    static const char ending[] = ".jinja";
    const size_t n = strlen(path), k = sizeof ending - 1;
    return n > k && strcmp(path + n - k, ending) == 0;
}
