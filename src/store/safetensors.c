/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors parser. See safetensors.h for what it promises. The layout: u64 n (little-endian), n bytes of
 * JSON {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [from, to]}, ...}, then the data that the
 * offsets count from. "__metadata__" holds strings and is skipped.
 * Codes of four bits (F4) are presented as the bytes they fill, half as many to a row.
 */
#include "store/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/quote.h"
#include "store/json_file.h"

#define MAX_NAME        1024u
#define BYTES_PER_COMMA 4u /* the densest sound entry: eight one-digit dimensions */

static const struct {
    const char *name;
    uint16_t bits;
    dtype dtype;
} dtypes[] = {{"F32", 32, DT_F32},        {"F16", 16, DT_F16},        {"BF16", 16, DT_BF16},
              {"F8_E4M3", 8, DT_F8_E4M3}, {"F8_E5M2", 8, DT_F8_E5M2}, {"U8", 8, DT_U8},
              {"F8_E8M0", 8, DT_U8},      {"I8", 8, DT_I8},           {"I16", 16, DT_I16},
              {"I32", 32, DT_I32},        {"I64", 64, DT_I64},        {"F64", 64, DT_F64},
              {"BOOL", 8, DT_BOOL},       {"U16", 16, DT_NONE},       {"U32", 32, DT_NONE},
              {"U64", 64, DT_NONE},       {"F4", 4, DT_U8},           {"F6_E2M3", 6, DT_NONE},
              {"F6_E3M2", 6, DT_NONE},    {"C64", 64, DT_NONE},       {"F8_E4M3FNUZ", 8, DT_NONE},
              {"F8_E5M2FNUZ", 8, DT_NONE}};
#define N_DTYPES (sizeof dtypes / sizeof dtypes[0])

const char *safetensors_dtype_name(dtype t) {
    if (t == DT_NVFP4 || t == DT_MXFP4)
        return "U8";
    for (size_t i = 0; i < N_DTYPES; i++)
        if (t != DT_NONE && dtypes[i].dtype == t)
            return dtypes[i].name;
    return NULL;
}

static bool name_is_sound(const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return n > 0 && n <= MAX_NAME;
}

static bool read_count(const json_t *value, size_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

static nib_status parse_shape(const char *where, safetensors_tensor *t, const json_t *shape, size_t *elements,
                              nib_error *err) {
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_MAX_DIMS)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has no shape of at most %d dimensions", where,
                        QUOTEZ(t->name), SAFETENSORS_MAX_DIMS);
    bool empty = false;
    t->n_dims = (int)json_array_size(shape);
    *elements = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (!read_count(json_array_get(shape, (size_t)i), &t->dims[i]))
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has a dimension that is no count", where,
                            QUOTEZ(t->name));
        empty |= t->dims[i] == 0; /* the others are bounded as if it were 1 */
        if (!mem_mul(*elements, t->dims[i] ? t->dims[i] : 1, elements) || *elements > INT64_MAX / 64)
            return nib_fail(err, NIB_BAD_FILE, "%s: the dimensions of tensor %s multiply past 2^57", where,
                            QUOTEZ(t->name));
    }
    if (empty)
        *elements = 0;
    return NIB_OK;
}

static nib_status parse_dtype(safetensors *s, safetensors_tensor *t, const json_t *value, size_t *bits,
                              nib_error *err) {
    const char *name = json_string_value(value);
    for (size_t i = 0; name && i < N_DTYPES; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            t->dtype_name = dtypes[i].name;
            t->dtype = dtypes[i].dtype;
            *bits = dtypes[i].bits;
            return NIB_OK;
        }
    }
    if (name)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: tensor %s has dtype %s, which nibble does not know",
                        s->where, QUOTEZ(t->name), QUOTEZ(name));
    return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has no dtype", s->where, QUOTEZ(t->name));
}

static nib_status parse_offsets(const char *where, safetensors_tensor *t, const json_t *offsets,
                                const unsigned char *data, size_t data_bytes, size_t elements, size_t bits,
                                nib_error *err) {
    size_t from = 0, to = 0;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !read_count(json_array_get(offsets, 0), &from) || !read_count(json_array_get(offsets, 1), &to) ||
        from > to)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has no data_offsets [from, to]", where,
                        QUOTEZ(t->name));
    if (to > data_bytes)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: tensor %s ends at %zu, the file holds %zu data bytes: if it was cut short, "
                        "download it again",
                        where, QUOTEZ(t->name), to, data_bytes);
    if (elements * bits % 8 || elements * bits / 8 != to - from)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s takes %zu bytes, its shape and dtype ask for %zu",
                        where, QUOTEZ(t->name), to - from, elements * bits / 8);
    t->data = data + from;
    t->bytes = to - from;
    return NIB_OK;
}

/* Two codes to a byte. */
static nib_status pair_codes(const char *where, safetensors_tensor *t, nib_error *err) {
    size_t *last = &t->dims[t->n_dims - 1];
    if (t->n_dims == 0 || *last % 2)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: tensor %s has 4-bit codes that do not fill whole bytes of a row", where,
                        QUOTEZ(t->name));
    *last /= 2;
    return NIB_OK;
}

static nib_status parse_tensor(safetensors *s, safetensors_tensor *t, const char *name, const json_t *entry,
                               const unsigned char *data, size_t data_bytes, nib_error *err) {
    if (!name_is_sound(name))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: the tensor name \"%s\" is empty, too long or holds control characters", s->where,
                        QUOTEZ(name));
    t->name = arena_text(&s->arena, name, strlen(name));
    if (!t->name)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a tensor's name", s->where);
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s is no {dtype, shape, data_offsets}", s->where,
                        QUOTEZ(name));
    size_t elements = 0, bits = 0;
    NIB_TRY(parse_dtype(s, t, json_object_get(entry, "dtype"), &bits, err));
    NIB_TRY(parse_shape(s->where, t, json_object_get(entry, "shape"), &elements, err));
    NIB_TRY(parse_offsets(s->where, t, json_object_get(entry, "data_offsets"), data, data_bytes, elements,
                          bits, err));
    if (bits == 4)
        NIB_TRY(pair_codes(s->where, t, err));
    return NIB_OK;
}

/* The strings that stand beside the tensors. */
static nib_status check_metadata(const char *where, const json_t *metadata, nib_error *err) {
    const char *key;
    json_t *value;
    bool sound = json_is_object(metadata);
    json_object_foreach((json_t *)metadata, key, value) {
        sound = sound && json_is_string(value);
    }
    return sound ? NIB_OK : nib_fail(err, NIB_BAD_FILE, "%s: __metadata__ is no object of texts", where);
}

static int data_compare(const void *a, const void *b) {
    const safetensors_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q)
        return (p > q) - (p < q);
    return x->bytes != y->bytes ? (x->bytes > y->bytes) - (x->bytes < y->bytes) : strcmp(x->name, y->name);
}

/* The format asks for no overlap and no gap. */
static nib_status check_cover(const safetensors *s, const unsigned char *data, size_t data_bytes,
                              nib_error *err) {
    const unsigned char *at = data;
    for (size_t i = 0; i < s->n_tensors; i++) {
        const safetensors_tensor *t = &s->tensors[i];
        if ((const unsigned char *)t->data != at)
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: tensor %s starts at %zu, expected %zu: tensors overlap or leave a gap",
                            s->where, QUOTEZ(t->name), (size_t)((const unsigned char *)t->data - data),
                            (size_t)(at - data));
        at += t->bytes;
    }
    if ((size_t)(at - data) != data_bytes)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensors cover %zu of %zu data bytes", s->where,
                        (size_t)(at - data), data_bytes);
    return NIB_OK;
}

static nib_status parse_root(safetensors *s, json_t *root, const unsigned char *data, size_t data_bytes,
                             nib_error *err) {
    if (!json_is_object(root))
        return nib_fail(err, NIB_BAD_FILE, "%s: the header is no JSON object", s->where);
    size_t n = json_object_size(root);
    safetensors_tensor *tensors = arena_alloc(&s->arena, n, sizeof *tensors);
    if (n && !tensors)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", s->where, n);
    s->tensors = tensors;
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            NIB_TRY(check_metadata(s->where, entry, err));
            continue;
        }
        NIB_TRY(parse_tensor(s, &tensors[s->n_tensors], name, entry, data, data_bytes, err));
        s->n_tensors++;
    }
    if (s->n_tensors > 1)
        qsort(tensors, s->n_tensors, sizeof *tensors, data_compare);
    return check_cover(s, data, data_bytes, err);
}

nib_status safetensors_parse(safetensors *out, const void *bytes, size_t size, const char *where,
                             nib_error *err) {
    mapfile map = out->map; /* safetensors_open has set it */
    memset(out, 0, sizeof *out);
    out->map = map;
    out->where = arena_text(&out->arena, where, strlen(where));
    if (!out->where)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", where);
    uint64_t header;
    if (size < sizeof header)
        return nib_fail(err, NIB_BAD_FILE, "%s: %zu bytes are no safetensors file", where, size);
    memcpy(&header, bytes, sizeof header);
    if (header > size - 8)
        return nib_fail(err, NIB_BAD_FILE, "%s: a header of %" PRIu64 " bytes in a file of %zu", where,
                        header, size);
    if (header > SAFETENSORS_MAX_HEADER)
        return nib_fail(err, NIB_BAD_FILE, "%s: a header of %" PRIu64 " bytes, expected at most %u", where,
                        header, SAFETENSORS_MAX_HEADER);
    const unsigned char *text = (const unsigned char *)bytes + 8, *data = text + header;
    NIB_TRY(json_file_bound(text, (size_t)header, BYTES_PER_COMMA, where, err));
    json_t *root;
    NIB_TRY(json_read(&root, text, (size_t)header, where, err));
    nib_status status = parse_root(out, root, data, size - 8 - (size_t)header, err);
    json_decref(root);
    return status;
}

nib_status safetensors_open(safetensors *out, const char *path, nib_error *err) {
    memset(out, 0, sizeof *out);
    NIB_TRY(mapfile_open(&out->map, path, err));
    return safetensors_parse(out, out->map.bytes, out->map.size, path, err);
}

void safetensors_close(safetensors *s) {
    arena_free(&s->arena);
    mapfile_close(&s->map);
    memset(s, 0, sizeof *s);
}
