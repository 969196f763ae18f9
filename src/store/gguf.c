/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF parser. See gguf.h for what it promises. The layout (all little-endian):
 *
 *   "GGUF", u32 version, u64 n_tensors, u64 n_keys,
 *   n_keys    x { string name; u32 type; value }            string = u64 n, n bytes
 *   n_tensors x { string name; u32 n_dims; u64 dims[n_dims]; u32 ggml_type; u64 offset }
 *   zero padding to the alignment; the data, each tensor at data + offset
 */
#include "store/gguf.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/quote.h"

#define MAX_KEYS      65536u
#define MAX_TENSORS   262144u
#define MAX_KEY_BYTES 65535u
#define MAX_NAME      255u
#define MAX_ALIGNMENT 65536u
#define IF_CUT        ": if it was cut short, download it again"
#define MIN_KEY_SPAN  14u /* bytes of the shortest key: length, one letter, type, one byte */
#define MIN_INFO_SPAN 25u /* bytes of the shortest tensor info */

typedef struct cursor {
    const unsigned char *p, *end;
    const char *where;
} cursor;

static size_t remaining(const cursor *c) {
    return (size_t)(c->end - c->p);
}

static nib_status take(cursor *c, void *dst, size_t n, const char *what, nib_error *err) {
    if (remaining(c) < n)
        return nib_fail(err, NIB_BAD_FILE, "%s: the file ends inside %s" IF_CUT, c->where, what);
    memcpy(dst, c->p, n); /* the host is little-endian, as the file is */
    c->p += n;
    return NIB_OK;
}

static nib_status take_text(cursor *c, strview *out, uint64_t limit, const char *what, nib_error *err) {
    uint64_t n = 0;
    NIB_TRY(take(c, &n, sizeof n, what, err));
    if (n > remaining(c))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: %s has a length of %" PRIu64 " where %zu bytes are left" IF_CUT, c->where, what,
                        n, remaining(c));
    if (n > limit)
        return nib_fail(err, NIB_BAD_FILE, "%s: %s has a length of %" PRIu64 ", more than %" PRIu64, c->where,
                        what, n, limit);
    *out = (strview){(const char *)c->p, (size_t)n};
    c->p += n;
    return NIB_OK;
}

static bool is_plain_ascii(strview v) {
    for (size_t i = 0; i < v.n; i++)
        if (v.p[i] < 0x20 || v.p[i] >= 0x7f)
            return false;
    return v.n > 0;
}

/* ---- types ---- */

static const struct {
    const char *name;
    uint8_t bytes; /* 0: not a scalar of fixed size */
} types[GGUF_TYPE_COUNT] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                            {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0},
                            {"u64", 8}, {"i64", 8}, {"f64", 8}};

const char *gguf_type_name(gguf_type type) {
    return (unsigned)type < GGUF_TYPE_COUNT ? types[type].name : "unknown";
}

/* Every type ggml has defined, so that sizes can be counted; those nibble decodes have a dtype. */
static const struct {
    const char *name;
    uint16_t block, bytes;
    dtype dtype;
} ggml[] = {
    [0] = {"F32", 1, 4, DT_F32},
    [1] = {"F16", 1, 2, DT_F16},
    [2] = {"Q4_0", 32, 18, DT_Q4_0},
    [3] = {"Q4_1", 32, 20, DT_Q4_1},
    [6] = {"Q5_0", 32, 22, DT_Q5_0},
    [7] = {"Q5_1", 32, 24, DT_Q5_1},
    [8] = {"Q8_0", 32, 34, DT_Q8_0},
    [9] = {"Q8_1", 32, 36, DT_NONE},
    [10] = {"Q2_K", 256, 84, DT_Q2_K},
    [11] = {"Q3_K", 256, 110, DT_Q3_K},
    [12] = {"Q4_K", 256, 144, DT_Q4_K},
    [13] = {"Q5_K", 256, 176, DT_Q5_K},
    [14] = {"Q6_K", 256, 210, DT_Q6_K},
    [15] = {"Q8_K", 256, 292, DT_NONE},
    [16] = {"IQ2_XXS", 256, 66, DT_IQ2_XXS},
    [17] = {"IQ2_XS", 256, 74, DT_IQ2_XS},
    [18] = {"IQ3_XXS", 256, 98, DT_IQ3_XXS},
    [19] = {"IQ1_S", 256, 50, DT_IQ1_S},
    [20] = {"IQ4_NL", 32, 18, DT_IQ4_NL},
    [21] = {"IQ3_S", 256, 110, DT_IQ3_S},
    [22] = {"IQ2_S", 256, 82, DT_IQ2_S},
    [23] = {"IQ4_XS", 256, 136, DT_IQ4_XS},
    [24] = {"I8", 1, 1, DT_I8},
    [25] = {"I16", 1, 2, DT_I16},
    [26] = {"I32", 1, 4, DT_I32},
    [27] = {"I64", 1, 8, DT_I64},
    [28] = {"F64", 1, 8, DT_F64},
    [29] = {"IQ1_M", 256, 56, DT_IQ1_M},
    [30] = {"BF16", 1, 2, DT_BF16},
    [34] = {"TQ1_0", 256, 54, DT_TQ1_0},
    [35] = {"TQ2_0", 256, 66, DT_TQ2_0},
    [39] = {"MXFP4", 32, 17, DT_GGUF_MXFP4},
    [40] = {"NVFP4", 64, 36, DT_GGUF_NVFP4},
    [41] = {"Q1_0", 128, 18, DT_NONE},
};
#define N_GGML (sizeof ggml / sizeof ggml[0])

const char *gguf_ggml_name(uint32_t t) {
    return t < N_GGML ? ggml[t].name : NULL;
}

dtype gguf_dtype(uint32_t t) {
    return t < N_GGML ? ggml[t].dtype : DT_NONE;
}

bool gguf_ggml_type(dtype t, uint32_t *out) {
    for (uint32_t i = 0; i < N_GGML; i++) {
        if (t != DT_NONE && ggml[i].name && ggml[i].dtype == t) {
            *out = i;
            return true;
        }
    }
    return false;
}

/* ---- keys ---- */

static nib_status parse_array(cursor *c, gguf_key *key, nib_error *err) {
    uint32_t item = 0;
    NIB_TRY(take(c, &item, 4, "the type of an array", err));
    NIB_TRY(take(c, &key->n_items, 8, "the count of an array", err));
    if (item >= GGUF_TYPE_COUNT || item == GGUF_ARRAY)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: key %s is an array of element type %" PRIu32
                        ", expected a number or string type",
                        c->where, QUOTE(key->name), item);
    key->item_type = (gguf_type)item;
    key->bytes = c->p;
    size_t each = types[item].bytes ? types[item].bytes : 8; /* a string takes at least its length */
    if (key->n_items > remaining(c) / each)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: key %s is an array of %" PRIu64 " items where %zu bytes are left" IF_CUT,
                        c->where, QUOTE(key->name), key->n_items, remaining(c));
    if (item != GGUF_STRING) {
        c->p += key->n_items * each;
        return NIB_OK;
    }
    strview ignored;
    for (uint64_t i = 0; i < key->n_items; i++)
        NIB_TRY(take_text(c, &ignored, UINT32_MAX, "a string of an array", err));
    return NIB_OK;
}

static nib_status parse_key(cursor *c, gguf_key *key, uint64_t index, nib_error *err) {
    uint32_t type = 0;
    NIB_TRY(take_text(c, &key->name, MAX_KEY_BYTES, "the name of a key", err));
    if (!is_plain_ascii(key->name))
        return nib_fail(err, NIB_BAD_FILE, "%s: the name of key %" PRIu64 " is empty or not plain ASCII",
                        c->where, index);
    NIB_TRY(take(c, &type, 4, "the type of a key", err));
    if (type >= GGUF_TYPE_COUNT)
        return nib_fail(err, NIB_BAD_FILE, "%s: key %s has value type %" PRIu32 ", expected 0 to 12",
                        c->where, QUOTE(key->name), type);
    key->type = (gguf_type)type;
    key->bytes = c->p;
    if (type == GGUF_ARRAY) {
        NIB_TRY(parse_array(c, key, err));
    } else if (type == GGUF_STRING) {
        strview ignored;
        NIB_TRY(take_text(c, &ignored, UINT32_MAX, "a string value", err));
    } else {
        if (remaining(c) < types[type].bytes)
            return nib_fail(err, NIB_BAD_FILE, "%s: the file ends inside the value of key %s" IF_CUT,
                            c->where, QUOTE(key->name));
        if (type == GGUF_BOOL && *c->p > 1)
            return nib_fail(err, NIB_BAD_FILE, "%s: key %s is a bool of value %d, expected 0 or 1", c->where,
                            QUOTE(key->name), *c->p);
        c->p += types[type].bytes;
    }
    key->n_bytes = (size_t)(c->p - key->bytes);
    return NIB_OK;
}

static int view_compare(strview a, strview b) {
    int order = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int key_compare(const void *a, const void *b) {
    return view_compare((*(const gguf_key *const *)a)->name, (*(const gguf_key *const *)b)->name);
}

static int tensor_compare(const void *a, const void *b) {
    return strcmp((*(const gguf_tensor *const *)a)->name, (*(const gguf_tensor *const *)b)->name);
}

static nib_status parse_keys(gguf *g, cursor *c, uint64_t n, nib_error *err) {
    if (n > MAX_KEYS && n <= remaining(c) / MIN_KEY_SPAN)
        return nib_fail(err, NIB_BAD_FILE, "%s: %" PRIu64 " metadata keys, more than %u", g->where, n,
                        MAX_KEYS);
    if (n > remaining(c) / MIN_KEY_SPAN)
        return nib_fail(err, NIB_BAD_FILE, "%s: %" PRIu64 " metadata keys do not fit into the file" IF_CUT,
                        g->where, n);
    gguf_key *keys = arena_alloc(&g->arena, (size_t)n, sizeof *keys);
    const gguf_key **by_name = arena_alloc(&g->arena, (size_t)n, sizeof *by_name);
    if (n && (!keys || !by_name))
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %" PRIu64 " keys", g->where, n);
    g->keys = keys;
    g->keys_by_name = by_name;
    for (uint64_t i = 0; i < n; i++) {
        NIB_TRY(parse_key(c, &keys[i], i, err));
        by_name[i] = &keys[i];
        g->n_keys = (size_t)i + 1;
    }
    if (n > 1)
        qsort(by_name, (size_t)n, sizeof *by_name, key_compare);
    for (uint64_t i = 1; i < n; i++)
        if (strview_equal(by_name[i - 1]->name, by_name[i]->name))
            return nib_fail(err, NIB_BAD_FILE, "%s: key %s is there twice", g->where,
                            QUOTE(by_name[i]->name));
    return NIB_OK;
}

const gguf_key *gguf_find(const gguf *g, const char *name) {
    strview wanted = strview_of(name);
    size_t low = 0, high = g->n_keys;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = view_compare(g->keys_by_name[middle]->name, wanted);
        if (order == 0)
            return g->keys_by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- tensors ---- */

static nib_status parse_info(gguf *g, cursor *c, gguf_tensor *t, uint64_t *offset, uint64_t index,
                             nib_error *err) {
    strview name;
    uint32_t n_dims = 0;
    NIB_TRY(take_text(c, &name, MAX_NAME, "the name of a tensor", err));
    if (!is_plain_ascii(name))
        return nib_fail(err, NIB_BAD_FILE, "%s: the name of tensor %" PRIu64 " is empty or not plain ASCII",
                        g->where, index);
    t->name = arena_text(&g->arena, name.p, name.n);
    if (!t->name)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a tensor's name", g->where);
    NIB_TRY(take(c, &n_dims, 4, "a tensor's dimensions", err));
    if (n_dims > GGUF_MAX_DIMS)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has %" PRIu32 " dimensions, expected at most %d",
                        g->where, QUOTE(name), n_dims, GGUF_MAX_DIMS);
    t->n_dims = (int)n_dims;
    for (uint32_t i = 0; i < n_dims; i++)
        NIB_TRY(take(c, &t->dims[i], 8, "a tensor's dimensions", err));
    NIB_TRY(take(c, &t->ggml_type, 4, "a tensor's type", err));
    return take(c, offset, 8, "a tensor's offset", err);
}

/* Bytes of T from its type and dimensions, wrap-checked. */
static nib_status size_tensor(const gguf *g, gguf_tensor *t, nib_error *err) {
    if (!gguf_ggml_name(t->ggml_type))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: tensor %s has ggml type %" PRIu32 ", which nibble does not know", g->where,
                        QUOTEZ(t->name), t->ggml_type);
    t->dtype = ggml[t->ggml_type].dtype;
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0)
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has a dimension of 0", g->where,
                            QUOTEZ(t->name));
        if (t->dims[i] > INT64_MAX || !mem_mul(n, (size_t)t->dims[i], &n) || n > INT64_MAX)
            return nib_fail(err, NIB_BAD_FILE, "%s: the dimensions of tensor %s multiply past 2^63", g->where,
                            QUOTEZ(t->name));
    }
    size_t block = ggml[t->ggml_type].block, row = t->n_dims ? (size_t)t->dims[0] : 1;
    if (row % block)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: tensor %s has rows of %zu elements, no multiple of %zu as %s asks for", g->where,
                        QUOTEZ(t->name), row, block, ggml[t->ggml_type].name);
    if (!mem_mul(n / block, ggml[t->ggml_type].bytes, &t->bytes))
        return nib_fail(err, NIB_BAD_FILE, "%s: the size of tensor %s wraps", g->where, QUOTEZ(t->name));
    return NIB_OK;
}

/* Sorted by address, so that neighbours can be compared; empty tensors overlap nothing. */
static int data_compare(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static nib_status check_tensors(gguf *g, const gguf_tensor **order, nib_error *err) {
    size_t n = g->n_tensors;
    if (n > 1)
        qsort(order, n, sizeof *order, data_compare);
    for (size_t i = 1; i < n; i++)
        if (order[i - 1]->bytes > (size_t)((const char *)order[i]->data - (const char *)order[i - 1]->data) &&
            order[i]->bytes)
            return nib_fail(err, NIB_BAD_FILE, "%s: tensors %s and %s overlap", g->where,
                            QUOTEZ(order[i - 1]->name), QUOTEZ(order[i]->name));
    if (n > 1)
        qsort(order, n, sizeof *order, tensor_compare);
    for (size_t i = 1; i < n; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s is there twice", g->where,
                            QUOTEZ(order[i]->name));
    g->tensors_by_name = order;
    return NIB_OK;
}

static nib_status place_tensor(const gguf *g, gguf_tensor *t, uint64_t offset, const unsigned char *data,
                               size_t data_bytes, nib_error *err) {
    if (offset % g->alignment)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: tensor %s starts at %" PRIu64 ", no multiple of the alignment %" PRIu32,
                        g->where, QUOTEZ(t->name), offset, g->alignment);
    if (offset > data_bytes || t->bytes > data_bytes - offset)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: tensor %s (%zu bytes at %" PRIu64 ") leaves the file's %zu data bytes" IF_CUT,
                        g->where, QUOTEZ(t->name), t->bytes, offset, data_bytes);
    t->data = data + offset;
    return NIB_OK;
}

static nib_status parse_tensors(gguf *g, cursor *c, const unsigned char *start, uint64_t n, nib_error *err) {
    if (n > MAX_TENSORS && n <= remaining(c) / MIN_INFO_SPAN)
        return nib_fail(err, NIB_BAD_FILE, "%s: %" PRIu64 " tensors, more than %u", g->where, n, MAX_TENSORS);
    if (n > remaining(c) / MIN_INFO_SPAN)
        return nib_fail(err, NIB_BAD_FILE, "%s: %" PRIu64 " tensors do not fit into the file" IF_CUT,
                        g->where, n);
    gguf_tensor *tensors = arena_alloc(&g->arena, (size_t)n, sizeof *tensors);
    const gguf_tensor **order = arena_alloc(&g->arena, (size_t)n, sizeof *order);
    uint64_t *offsets = arena_alloc(&g->arena, (size_t)n, sizeof *offsets);
    if (n && (!tensors || !order || !offsets))
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %" PRIu64 " tensors", g->where, n);
    for (uint64_t i = 0; i < n; i++) {
        NIB_TRY(parse_info(g, c, &tensors[i], &offsets[i], i, err));
        NIB_TRY(size_tensor(g, &tensors[i], err));
        order[i] = &tensors[i];
    }
    size_t header = (size_t)(c->p - start);
    size_t padded = (header + g->alignment - 1) / g->alignment * g->alignment;
    size_t total = (size_t)(c->end - start);
    if (padded > total)
        padded = total; /* a file without data may end at its header */
    for (uint64_t i = 0; i < n; i++)
        NIB_TRY(place_tensor(g, &tensors[i], offsets[i], start + padded, total - padded, err));
    g->tensors = tensors;
    g->n_tensors = (size_t)n;
    return check_tensors(g, order, err);
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    size_t low = 0, high = g->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(g->tensors_by_name[middle]->name, name);
        if (order == 0)
            return g->tensors_by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- whole files ---- */

static nib_status parse_alignment(gguf *g, nib_error *err) {
    g->alignment = 32;
    const gguf_key *key = gguf_find(g, "general.alignment");
    if (!key)
        return NIB_OK;
    if (key->type != GGUF_U32)
        return nib_fail(err, NIB_BAD_FILE, "%s: general.alignment is of type %s, expected u32", g->where,
                        gguf_type_name(key->type));
    memcpy(&g->alignment, key->bytes, 4);
    if (g->alignment < 8 || g->alignment > MAX_ALIGNMENT || (g->alignment & (g->alignment - 1)))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: general.alignment is %" PRIu32 ", expected a power of two from 8 to %u",
                        g->where, g->alignment, MAX_ALIGNMENT);
    return NIB_OK;
}

static nib_status parse_header(cursor *c, uint32_t *version, uint64_t *n_tensors, uint64_t *n_keys,
                               nib_error *err) {
    char magic[4] = {0};
    NIB_TRY(take(c, magic, 4, "the magic bytes", err));
    if (memcmp(magic, "GGUF", 4) != 0)
        return nib_fail(err, NIB_BAD_FILE, "%s: not a GGUF file (it starts with \"%s\")", c->where,
                        QUOTE(((strview){magic, 4})));
    NIB_TRY(take(c, version, 4, "the version", err));
    if (*version == 0x03000000u || *version == 0x02000000u)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: a big-endian GGUF file, nibble reads little-endian ones",
                        c->where);
    if (*version != 2 && *version != 3)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: GGUF version %" PRIu32 ", nibble reads 2 and 3", c->where,
                        *version);
    NIB_TRY(take(c, n_tensors, 8, "the tensor count", err));
    return take(c, n_keys, 8, "the key count", err);
}

nib_status gguf_parse(gguf *out, const void *bytes, size_t size, const char *where, nib_error *err) {
    mapfile map = out->map; /* gguf_open has set it */
    memset(out, 0, sizeof *out);
    out->map = map;
    out->where = arena_text(&out->arena, where, strlen(where));
    if (!out->where)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", where);
    cursor c = {bytes, (const unsigned char *)bytes + size, out->where};
    uint64_t n_tensors = 0, n_keys = 0;
    NIB_TRY(parse_header(&c, &out->version, &n_tensors, &n_keys, err));
    NIB_TRY(parse_keys(out, &c, n_keys, err));
    NIB_TRY(parse_alignment(out, err));
    return parse_tensors(out, &c, bytes, n_tensors, err);
}

nib_status gguf_open(gguf *out, const char *path, nib_error *err) {
    memset(out, 0, sizeof *out);
    NIB_TRY(mapfile_open(&out->map, path, err));
    return gguf_parse(out, out->map.bytes, out->map.size, path, err);
}

void gguf_close(gguf *g) {
    arena_free(&g->arena);
    mapfile_close(&g->map);
    memset(g, 0, sizeof *g);
}
