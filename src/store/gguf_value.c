/* SPDX-License-Identifier: Apache-2.0
 *
 * Checked reads of GGUF metadata values: the declared type is compared before any byte is read, ranges are
 * compared before any narrowing. Part of gguf.h.
 */
#include <assert.h>
#include <inttypes.h>
#include <math.h>

#include "base/quote.h"
#include "store/gguf.h"

static nib_status look_up(const gguf *g, const char *name, const gguf_key **key, bool *found,
                          nib_error *err) {
    *key = gguf_find(g, name);
    if (found)
        *found = *key != NULL;
    if (!*key && !found)
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s is missing", g->where, name);
    return NIB_OK;
}

static nib_status wrong_type(const gguf *g, const gguf_key *key, const char *expected, nib_error *err) {
    return nib_fail(err, NIB_BAD_FILE, "%s: key %s is of type %s, expected %s", g->where, QUOTE(key->name),
                    gguf_type_name(key->type), expected);
}

static bool is_int(gguf_type t) {
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

/* One integer; false when it is above INT64_MAX. */
static bool read_int(gguf_type type, const unsigned char *p, int64_t *out) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    switch (type) {
    case GGUF_BOOL:
    case GGUF_U8:
        *out = *p;
        return true;
    case GGUF_I8:
        memcpy(&v, p, 1);
        *out = v.i8;
        return true;
    case GGUF_U16:
        memcpy(&v, p, 2);
        *out = v.u16;
        return true;
    case GGUF_I16:
        memcpy(&v, p, 2);
        *out = v.i16;
        return true;
    case GGUF_U32:
        memcpy(&v, p, 4);
        *out = v.u32;
        return true;
    case GGUF_I32:
        memcpy(&v, p, 4);
        *out = v.i32;
        return true;
    case GGUF_I64:
        memcpy(&v, p, 8);
        *out = v.i64;
        return true;
    case GGUF_U64:
        memcpy(&v, p, 8);
        *out = v.u64 > INT64_MAX ? INT64_MAX : (int64_t)v.u64;
        return v.u64 <= INT64_MAX;
    default:
        assert(!"an integer type");
        return false;
    }
}

static double read_float(gguf_type type, const unsigned char *p) {
    if (type == GGUF_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    double d;
    assert(type == GGUF_F64);
    memcpy(&d, p, sizeof d);
    return d;
}

nib_status gguf_get_int(const gguf *g, const char *name, int64_t min, int64_t max, int64_t *out, bool *found,
                        nib_error *err) {
    const gguf_key *key;
    NIB_TRY(look_up(g, name, &key, found, err));
    if (!key)
        return NIB_OK;
    if (!is_int(key->type))
        return wrong_type(g, key, "an integer", err);
    int64_t value;
    if (!read_int(key->type, key->bytes, &value) || value < min || value > max)
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s is out of bounds, expected %" PRId64 " to %" PRId64,
                        g->where, name, min, max);
    *out = value;
    return NIB_OK;
}

nib_status gguf_get_float(const gguf *g, const char *name, float *out, bool *found, nib_error *err) {
    const gguf_key *key;
    NIB_TRY(look_up(g, name, &key, found, err));
    if (!key)
        return NIB_OK;
    if (key->type != GGUF_F32 && key->type != GGUF_F64)
        return wrong_type(g, key, "f32 or f64", err);
    float value = (float)read_float(key->type, key->bytes);
    if (!isfinite(value))
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s is not a finite number", g->where, name);
    *out = value;
    return NIB_OK;
}

nib_status gguf_get_bool(const gguf *g, const char *name, bool *out, bool *found, nib_error *err) {
    const gguf_key *key;
    NIB_TRY(look_up(g, name, &key, found, err));
    if (!key)
        return NIB_OK;
    if (key->type != GGUF_BOOL)
        return wrong_type(g, key, "bool", err);
    *out = *key->bytes != 0;
    return NIB_OK;
}

nib_status gguf_get_text(const gguf *g, const char *name, strview *out, bool *found, nib_error *err) {
    const gguf_key *key;
    NIB_TRY(look_up(g, name, &key, found, err));
    if (!key)
        return NIB_OK;
    if (key->type != GGUF_STRING)
        return wrong_type(g, key, "string", err);
    *out = (strview){(const char *)key->bytes + 8, key->n_bytes - 8};
    return NIB_OK;
}

static const unsigned char *item_at(const gguf_key *key, uint64_t i) {
    assert(key->type == GGUF_ARRAY && i < key->n_items && key->item_type != GGUF_STRING);
    return key->bytes + key->n_bytes / key->n_items * i; /* items of one size */
}

int64_t gguf_item_int(const gguf_key *key, uint64_t i) {
    int64_t value = 0;
    read_int(key->item_type, item_at(key, i), &value); /* above INT64_MAX: saturated */
    return value;
}

double gguf_item_float(const gguf_key *key, uint64_t i) {
    return read_float(key->item_type, item_at(key, i));
}

void gguf_item_texts(const gguf_key *key, strview *out) {
    assert(key->type == GGUF_ARRAY && key->item_type == GGUF_STRING);
    const unsigned char *p = key->bytes;
    for (uint64_t i = 0; i < key->n_items; i++) {
        uint64_t n;
        memcpy(&n, p, sizeof n);
        out[i] = (strview){(const char *)p + 8, (size_t)n};
        p += 8 + n;
    }
}
