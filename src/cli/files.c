/* SPDX-License-Identifier: Apache-2.0
 *
 * Small files that flags name. Read as streams: a pipe may stand for a file.
 */
#include "cli/files.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/outfile.h"
#include "base/utf8.h"

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

nib_status files_check_text(const char *path, const char *text, size_t n, nib_error *err) {
    const char *nul = n ? memchr(text, 0, n) : NULL;
    const size_t sound = utf8_valid_prefix(text, nul ? (size_t)(nul - text) : n);
    return sound == n
               ? NIB_OK
               : nib_fail(err, NIB_BAD_FILE, "%s: expected a text in UTF-8; byte %zu is no part of one",
                          name_of(path), sound);
}

nib_status files_read_text(const char *path, char **out, size_t *n, nib_error *err) {
    NIB_TRY(files_read(path, out, n, err));
    const nib_status status = files_check_text(path, *out, *n, err);
    if (status != NIB_OK) {
        mem_free(*out);
        *out = NULL;
    }
    return status;
}

nib_status files_check_output(const char *out, const char *source, nib_error *err) {
    struct stat a, b;
    if (source && stat(out, &a) == 0 && stat(source, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: is what is read; write the output elsewhere", out);
    return NIB_OK;
}

nib_status files_try_output(const char *out, nib_error *err) {
    outfile *file;
    NIB_TRY(outfile_open(&file, out, err));
    outfile_abandon(file);
    return NIB_OK;
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
