/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming GGUF writer. Keys are kept as ready bytes (type and value); the header is written at begin, when
 * every tensor's size and offset is known.
 */
#include "export/gguf_write.h"

#include <assert.h>
#include <inttypes.h>

#include "base/mem.h"
#include "base/outfile.h"
#include "base/quote.h"

#define ALIGNMENT 32u

typedef struct bytes {
    unsigned char *p;
    size_t n, capacity;
} bytes;

typedef struct written_key {
    char *name;
    bytes value; /* u32 type and what follows it */
} written_key;

typedef struct written_tensor {
    char *name;
    uint32_t ggml_type;
    int n_dims;
    uint64_t dims[GGUF_MAX_DIMS]; /* dims[0] contiguous, as in the file */
    size_t bytes;
} written_tensor;

struct gguf_write {
    outfile *file;
    char *path;
    written_key *keys;
    size_t n_keys, keys_capacity;
    size_t n_copied; /* gguf_write_copy's, before all others */
    written_tensor *tensors;
    size_t n_tensors, tensors_capacity;
    nib_status status; /* the first problem; sticks */
    nib_error problem;
    size_t current, done; /* the tensor being written, bytes of it written */
};

static size_t padding(size_t n) {
    return (ALIGNMENT - n % ALIGNMENT) % ALIGNMENT;
}

static void fail(gguf_write *w, nib_status status, const char *what, const char *name) {
    if (w->status == NIB_OK)
        w->status = nib_fail(&w->problem, status, "%s: %s %s", w->path, what, QUOTEZ(name));
}

/* Grows *LIST (elements of SIZE) so that one more fits. */
static bool reserve(void **list, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity)
        return true;
    size_t wanted = *capacity ? *capacity * 2 : 32;
    void *grown = mem_resize(*list, wanted, size);
    if (!grown)
        return false;
    *list = grown;
    *capacity = wanted;
    return true;
}

static bool append(bytes *b, const void *p, size_t n) {
    size_t total;
    if (!mem_add(b->n, n, &total))
        return false;
    if (total > b->capacity) {
        size_t wanted = total + total / 2 + 16;
        unsigned char *grown = mem_resize(b->p, wanted, 1);
        if (!grown)
            return false;
        b->p = grown;
        b->capacity = wanted;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n = total;
    return true;
}

static bool append_u32(bytes *b, uint32_t v) {
    return append(b, &v, sizeof v);
}

static bool append_u64(bytes *b, uint64_t v) {
    return append(b, &v, sizeof v);
}

static bool append_text(bytes *b, strview v) {
    return append_u64(b, v.n) && append(b, v.p, v.n);
}

nib_status gguf_write_open(gguf_write **out, const char *path, nib_error *err) {
    gguf_write *w = mem_array(1, sizeof *w);
    char *copy = mem_copy_text(path, strlen(path));
    *out = NULL;
    if (!w || !copy) {
        mem_free(w);
        mem_free(copy);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a writer", path);
    }
    w->path = copy;
    nib_status status = outfile_open(&w->file, path, err);
    if (status != NIB_OK)
        gguf_write_abandon(w);
    else
        *out = w;
    return status;
}

static void release(gguf_write *w) {
    for (size_t i = 0; i < w->n_keys; i++) {
        mem_free(w->keys[i].name);
        mem_free(w->keys[i].value.p);
    }
    for (size_t i = 0; i < w->n_tensors; i++)
        mem_free(w->tensors[i].name);
    mem_free(w->keys);
    mem_free(w->tensors);
    mem_free(w->path);
    mem_free(w);
}

void gguf_write_abandon(gguf_write *w) {
    if (!w)
        return;
    outfile_abandon(w->file);
    release(w);
}

/* ---- keys ---- */

/* The value of a new key NAME at the end; NULL when memory is out. */
static bytes *add_key(gguf_write *w, strview name) {
    char *copy = mem_copy_text(name.p, name.n);
    if (!copy || !reserve((void **)&w->keys, w->n_keys, &w->keys_capacity, sizeof *w->keys)) {
        mem_free(copy);
        return NULL;
    }
    w->keys[w->n_keys] = (written_key){.name = copy};
    return &w->keys[w->n_keys++].value;
}

/* The emptied value of NAME, a new key when it is not there; NULL when memory is out. */
static bytes *value_of(gguf_write *w, strview name) {
    for (size_t i = 0; i < w->n_keys; i++) {
        if (strview_is(name, w->keys[i].name)) {
            w->keys[i].value.n = 0;
            return &w->keys[i].value;
        }
    }
    return add_key(w, name);
}

static size_t scalar_bytes(gguf_type type) {
    static const uint8_t sizes[GGUF_TYPE_COUNT] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    return sizes[type];
}

void gguf_write_scalar(gguf_write *w, const char *key, gguf_type type, const void *value) {
    assert(scalar_bytes(type));
    bytes *b = value_of(w, strview_of(key));
    if (!b || !append_u32(b, type) || !append(b, value, scalar_bytes(type)))
        fail(w, NIB_NO_MEMORY, "no memory for key", key);
}

void gguf_write_u32(gguf_write *w, const char *key, uint32_t value) {
    gguf_write_scalar(w, key, GGUF_U32, &value);
}

void gguf_write_i32(gguf_write *w, const char *key, int32_t value) {
    gguf_write_scalar(w, key, GGUF_I32, &value);
}

void gguf_write_u64(gguf_write *w, const char *key, uint64_t value) {
    gguf_write_scalar(w, key, GGUF_U64, &value);
}

void gguf_write_f32(gguf_write *w, const char *key, float value) {
    gguf_write_scalar(w, key, GGUF_F32, &value);
}

void gguf_write_bool(gguf_write *w, const char *key, bool value) {
    uint8_t byte = value;
    gguf_write_scalar(w, key, GGUF_BOOL, &byte);
}

void gguf_write_text(gguf_write *w, const char *key, strview value) {
    bytes *b = value_of(w, strview_of(key));
    if (!b || !append_u32(b, GGUF_STRING) || !append_text(b, value))
        fail(w, NIB_NO_MEMORY, "no memory for key", key);
}

void gguf_write_array(gguf_write *w, const char *key, gguf_type item_type, const void *items, size_t n) {
    assert(scalar_bytes(item_type));
    size_t size;
    bytes *b = value_of(w, strview_of(key));
    if (!b || !mem_mul(n, scalar_bytes(item_type), &size) || !append_u32(b, GGUF_ARRAY) ||
        !append_u32(b, item_type) || !append_u64(b, n) || !append(b, items, size))
        fail(w, NIB_NO_MEMORY, "no memory for key", key);
}

void gguf_write_texts(gguf_write *w, const char *key, const strview *items, size_t n) {
    bytes *b = value_of(w, strview_of(key));
    bool fits = b && append_u32(b, GGUF_ARRAY) && append_u32(b, GGUF_STRING) && append_u64(b, n);
    for (size_t i = 0; fits && i < n; i++)
        fits = append_text(b, items[i]);
    if (!fits)
        fail(w, NIB_NO_MEMORY, "no memory for key", key);
}

void gguf_write_copy(gguf_write *w, const gguf_key *key) {
    assert(w->n_keys == w->n_copied);
    bytes *b = add_key(w, key->name);
    bool fits = b && append_u32(b, key->type);
    w->n_copied += b != NULL;
    if (fits && key->type == GGUF_ARRAY)
        fits = append_u32(b, key->item_type) && append_u64(b, key->n_items);
    if (!fits || !append(b, key->bytes, key->n_bytes))
        fail(w, NIB_NO_MEMORY, "no memory for key", "copied");
}

void gguf_write_drop(gguf_write *w, const char *key) {
    for (size_t i = 0; i < w->n_keys; i++) {
        if (strcmp(w->keys[i].name, key) == 0) {
            mem_free(w->keys[i].name);
            mem_free(w->keys[i].value.p);
            memmove(&w->keys[i], &w->keys[i + 1], (w->n_keys - i - 1) * sizeof *w->keys);
            w->n_keys--;
            return;
        }
    }
}

/* ---- tensors ---- */

void gguf_write_tensor(gguf_write *w, const char *name, dtype type, int n_dims, const size_t *dims) {
    written_tensor t = {.n_dims = n_dims};
    size_t n = 1, row = n_dims > 0 ? dims[n_dims - 1] : 1;
    if (!gguf_ggml_type(type, &t.ggml_type)) {
        fail(w, NIB_UNSUPPORTED, "GGUF has no type for tensor", name);
        return;
    }
    if (n_dims < 0 || n_dims > GGUF_MAX_DIMS || strlen(name) > 63) {
        fail(w, NIB_UNSUPPORTED, "GGUF allows 4 dimensions and names of 63 bytes, not tensor", name);
        return;
    }
    for (int i = 0; i < n_dims; i++) {
        t.dims[n_dims - 1 - i] = dims[i];
        if (!mem_mul(n, dims[i], &n))
            fail(w, NIB_BAD_ARGUMENT, "dimensions wrap in tensor", name);
    }
    if (row % dtype_get(type)->block || !dtype_bytes(type, n, &t.bytes)) {
        fail(w, NIB_BAD_ARGUMENT, "rows are no whole number of blocks in tensor", name);
        return;
    }
    t.name = mem_copy_text(name, strlen(name));
    if (!t.name || !reserve((void **)&w->tensors, w->n_tensors, &w->tensors_capacity, sizeof *w->tensors)) {
        mem_free(t.name);
        fail(w, NIB_NO_MEMORY, "no memory for tensor", name);
        return;
    }
    w->tensors[w->n_tensors++] = t;
}

static bool build_header(const gguf_write *w, bytes *b) {
    bool fits =
        append(b, "GGUF", 4) && append_u32(b, 3) && append_u64(b, w->n_tensors) && append_u64(b, w->n_keys);
    for (size_t i = 0; fits && i < w->n_keys; i++)
        fits =
            append_text(b, strview_of(w->keys[i].name)) && append(b, w->keys[i].value.p, w->keys[i].value.n);
    uint64_t offset = 0;
    for (size_t i = 0; fits && i < w->n_tensors; i++) {
        const written_tensor *t = &w->tensors[i];
        fits = append_text(b, strview_of(t->name)) && append_u32(b, (uint32_t)t->n_dims) &&
               append(b, t->dims, (size_t)t->n_dims * 8) && append_u32(b, t->ggml_type) &&
               append_u64(b, offset);
        offset += t->bytes + padding(t->bytes);
    }
    static const unsigned char zeros[ALIGNMENT];
    return fits && append(b, zeros, padding(b->n));
}

nib_status gguf_write_begin(gguf_write *w, nib_error *err) {
    gguf_write_drop(w, "general.alignment"); /* the default is what is written */
    if (w->status != NIB_OK)
        return nib_fail(err, w->status, "%s", w->problem.text);
    bytes header = {0};
    nib_status status = build_header(w, &header)
                            ? outfile_write(w->file, header.p, header.n, err)
                            : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the header", w->path);
    mem_free(header.p);
    return status;
}

/* Steps over finished tensors, writing the padding behind each. */
static nib_status advance(gguf_write *w, nib_error *err) {
    static const unsigned char zeros[ALIGNMENT];
    while (w->current < w->n_tensors && w->done == w->tensors[w->current].bytes) {
        size_t pad = padding(w->done);
        if (pad)
            NIB_TRY(outfile_write(w->file, zeros, pad, err));
        w->current++;
        w->done = 0;
    }
    return NIB_OK;
}

nib_status gguf_write_data(gguf_write *w, const void *data, size_t n, nib_error *err) {
    const unsigned char *p = data;
    while (n) {
        NIB_TRY(advance(w, err));
        if (w->current == w->n_tensors)
            return nib_fail(err, NIB_BAD_ARGUMENT, "%s: %zu bytes more than the declared tensors take",
                            w->path, n);
        size_t left = w->tensors[w->current].bytes - w->done, part = n < left ? n : left;
        NIB_TRY(outfile_write(w->file, p, part, err));
        w->done += part;
        p += part;
        n -= part;
    }
    return advance(w, err);
}

nib_status gguf_write_commit(gguf_write *w, uint64_t *file_bytes, nib_error *err) {
    nib_status status = advance(w, err);
    if (status == NIB_OK && w->current != w->n_tensors)
        status = nib_fail(err, NIB_BAD_ARGUMENT, "%s: the bytes of tensor %s were not written", w->path,
                          w->tensors[w->current].name);
    if (status != NIB_OK) {
        gguf_write_abandon(w);
        return status;
    }
    if (file_bytes)
        *file_bytes = outfile_size(w->file);
    status = outfile_commit(w->file, err);
    release(w);
    return status;
}
