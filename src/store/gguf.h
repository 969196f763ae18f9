/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF v2 and v3, one file, parsed and checked: every count, length, offset and name has been compared with
 * the file's size before anything is handed out, keys and tensor names are unique, tensors lie inside the
 * file and do not overlap. Values are read in place; nothing is cast before its declared type was compared.
 *
 * Callers: model_file (tensors, hyper-parameters, words), quant/convert (carries metadata over), inspect.
 * Split files: model_file opens each part with gguf_open; metadata lies in part 0.
 */
#ifndef STORE_GGUF_H
#define STORE_GGUF_H

#include "base/arena.h"
#include "base/mapfile.h"
#include "base/strview.h"
#include "num/dtype.h"

typedef enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
} gguf_type;

/* One metadata value. BYTES points into the file and is unaligned: a scalar's bytes, a string's length and
 * bytes, or an array's first element (its element type and count are item_type and n_items). */
typedef struct gguf_key {
    strview name;
    gguf_type type;
    gguf_type item_type; /* GGUF_ARRAY only; never GGUF_ARRAY itself */
    uint64_t n_items;    /* GGUF_ARRAY only */
    const unsigned char *bytes;
    size_t n_bytes;
} gguf_key;

#define GGUF_MAX_DIMS 4

typedef struct gguf_tensor {
    const char *name;
    uint32_t ggml_type;
    dtype dtype; /* DT_NONE: a ggml type that nibble counts but cannot decode (gguf_ggml_name names it) */
    int n_dims;  /* 0: a scalar */
    uint64_t dims[GGUF_MAX_DIMS]; /* as in the file: dims[0] is contiguous */
    const void *data;
    size_t bytes;
} gguf_tensor;

typedef struct gguf {
    const char *where; /* the file's name, for sentences */
    uint32_t version;
    uint32_t alignment;
    const gguf_key *keys;
    size_t n_keys;
    const gguf_tensor *tensors;
    size_t n_tensors;
    const gguf_key **keys_by_name; /* sorted, for gguf_find */
    const gguf_tensor **tensors_by_name;
    mapfile map; /* zero when parsed from the caller's memory */
    arena arena;
} gguf;

/* Maps and parses PATH. OUT is closed with gguf_close, also after a failure. */
nib_status gguf_open(gguf *out, const char *path, nib_error *err);
/* Parses SIZE bytes that outlive OUT; WHERE names them in sentences (copied). */
nib_status gguf_parse(gguf *out, const void *bytes, size_t size, const char *where, nib_error *err);
void gguf_close(gguf *g); /* safe on a zeroed or failed gguf */

const gguf_key *gguf_find(const gguf *g, const char *name); /* NULL: no such key */
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* Checked reads of a key: the value when the key is there and fits, *found = false and OK when it is not
 * there, NIB_BAD_FILE in words when its type or range is another. FOUND may be NULL: then a missing key is
 * an error too. gguf_get_int takes any integer type, gguf_get_float F32 and F64 (finite values only). */
nib_status gguf_get_int(const gguf *g, const char *name, int64_t min, int64_t max, int64_t *out, bool *found,
                        nib_error *err);
nib_status gguf_get_float(const gguf *g, const char *name, float *out, bool *found, nib_error *err);
nib_status gguf_get_bool(const gguf *g, const char *name, bool *out, bool *found, nib_error *err);
nib_status gguf_get_text(const gguf *g, const char *name, strview *out, bool *found, nib_error *err);

/* Item I of an array key of an integer, bool or float item type (caller has checked item_type and n_items).
 */
int64_t gguf_item_int(const gguf_key *key, uint64_t i);
double gguf_item_float(const gguf_key *key, uint64_t i);

/* All strings of an array key, in order: OUT has key->n_items entries (item_type must be GGUF_STRING). */
void gguf_item_texts(const gguf_key *key, strview *out);

const char *gguf_type_name(gguf_type type);        /* "u32", "string", ... */
const char *gguf_ggml_name(uint32_t ggml_type);    /* "Q4_K", "IQ2_XXS", ...; NULL: unknown */
dtype gguf_dtype(uint32_t ggml_type);              /* DT_NONE: none of nibble's */
bool gguf_ggml_type(dtype t, uint32_t *ggml_type); /* false: GGUF has no such type */

#endif
