/* SPDX-License-Identifier: Apache-2.0
 *
 * A JSON side file of a model directory (config.json, an index), read whole. Bounded: the file's size, and
 * the number of values it may hold for its size, so that a small hostile file cannot become a large tree.
 */
#ifndef STORE_JSON_FILE_H
#define STORE_JSON_FILE_H

#include "base/json.h"

/* *out is NULL and the status OK when PATH does not exist; freed with json_decref. The root is an object. */
nib_status json_file_read(json_t **out, const char *path, size_t max_bytes, nib_error *err);

/* The bound alone, for JSON inside another file: at most one comma outside strings per BYTES_EACH bytes. */
nib_status json_file_bound(const void *bytes, size_t n, size_t bytes_each, const char *where, nib_error *err);

#endif
