/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded JSON side files. A parsed value takes about 40 bytes and more, a hostile one needs two in the file
 * ("0,"): counting commas first keeps the tree in proportion.
 */
#include "store/json_file.h"

#include <sys/stat.h>

#include "base/mapfile.h"

#define SPARE_COMMAS    4096u
#define BYTES_PER_VALUE 10u /* of configuration files: mostly strings */

nib_status json_file_bound(const void *bytes, size_t n, size_t bytes_each, const char *where,
                           nib_error *err) {
    const char *p = bytes;
    size_t commas = 0;
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        if (inside) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                inside = false;
        } else if (p[i] == '"') {
            inside = true;
        } else {
            commas += p[i] == ',';
        }
    }
    if (commas > SPARE_COMMAS + n / bytes_each)
        return nib_fail(err, NIB_BAD_FILE, "%s: %zu JSON values in %zu bytes is more than such a file holds",
                        where, commas + 1, n);
    return NIB_OK;
}

static nib_status read_map(json_t **out, const mapfile *map, const char *path, size_t max_bytes,
                           nib_error *err) {
    if (map->size > max_bytes)
        return nib_fail(err, NIB_BAD_FILE, "%s: %zu bytes, expected at most %zu", path, map->size, max_bytes);
    NIB_TRY(json_file_bound(map->bytes, map->size, BYTES_PER_VALUE, path, err));
    NIB_TRY(json_read(out, map->bytes, map->size, path, err));
    if (json_is_object(*out))
        return NIB_OK;
    json_decref(*out);
    *out = NULL;
    return nib_fail(err, NIB_BAD_FILE, "%s: expected a JSON object", path);
}

nib_status json_file_read(json_t **out, const char *path, size_t max_bytes, nib_error *err) {
    *out = NULL;
    struct stat st;
    if (stat(path, &st) != 0)
        return NIB_OK;
    mapfile map;
    NIB_TRY(mapfile_open(&map, path, err));
    nib_status status = read_map(out, &map, path, max_bytes, err);
    mapfile_close(&map);
    return status;
}
