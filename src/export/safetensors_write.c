/* SPDX-License-Identifier: Apache-2.0
 *
 * Streaming safetensors writer. Tensors lie in the order declared; the header is padded with spaces to a
 * multiple of 8, so the data starts aligned.
 */
#include "export/safetensors_write.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/quote.h"
#include "store/safetensors.h"

struct safetensors_write {
    outfile *file;
    char *path;
    json_t *header;
    uint64_t header_bytes;      /* its padding included */
    uint64_t declared, written; /* bytes of data; declared: without REST */
    char *rest;                 /* the name of the tensor that takes what follows; NULL: none */
    nib_status status;          /* the first problem; sticks */
    nib_error problem;
};

nib_status safetensors_write_open(safetensors_write **out, const char *path, nib_error *err) {
    *out = NULL;
    safetensors_write *w = mem_array(1, sizeof *w);
    if (!w)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a writer", path);
    w->path = mem_copy_text(path, strlen(path));
    w->header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    nib_status status = w->path && w->header
                            ? outfile_open(&w->file, path, err)
                            : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a writer", path);
    if (status != NIB_OK)
        safetensors_write_abandon(w);
    else
        *out = w;
    return status;
}

static void release(safetensors_write *w) {
    json_decref(w->header);
    mem_free(w->path);
    mem_free(w->rest);
    mem_free(w);
}

void safetensors_write_abandon(safetensors_write *w) {
    if (!w)
        return;
    outfile_abandon(w->file);
    release(w);
}

static void fail(safetensors_write *w, nib_status status, const char *what, const char *name) {
    if (w->status == NIB_OK)
        w->status = nib_fail(&w->problem, status, "%s: %s %s", w->path, what, QUOTEZ(name));
}

/* The tensor begins where those declared before end, and ends at END. */
static bool set_entry(safetensors_write *w, const char *name, const char *dtype_name, int n_dims,
                      const size_t *dims, uint64_t end) {
    json_t *shape = json_array();
    bool fits = shape != NULL;
    for (int i = 0; fits && i < n_dims; i++)
        fits = json_array_append_new(shape, json_integer((json_int_t)dims[i])) == 0;
    json_t *entry = fits ? json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name, "shape", shape,
                                     "data_offsets", (json_int_t)w->declared, (json_int_t)end)
                         : NULL;
    if (!fits)
        json_decref(shape);
    return entry && json_object_set_new(w->header, name, entry) == 0;
}

void safetensors_write_tensor(safetensors_write *w, const char *name, dtype type, int n_dims,
                              const size_t *dims) {
    const char *dtype_name = safetensors_dtype_name(type);
    if (!dtype_name) {
        fail(w, NIB_UNSUPPORTED, "safetensors has no dtype for tensor", name);
        return;
    }
    assert(n_dims >= 0 && n_dims <= SAFETENSORS_MAX_DIMS);
    size_t n = dtype_get(type)->block_bytes;
    if (type == DT_NVFP4 || type == DT_MXFP4)
        n = 1; /* the shape is that of the bytes: [rows, cols / 2] */
    if (w->declared % n) {
        fail(w, NIB_UNSUPPORTED,
             "PyTorch asks for offsets that are multiples of the element size; misplaced tensor", name);
        return;
    }
    for (int i = 0; i < n_dims; i++)
        if (!mem_mul(n, dims[i], &n) || n > INT64_MAX - w->declared) {
            fail(w, NIB_UNSUPPORTED, "past 2^63 bytes reaches tensor", name);
            return;
        }
    if (json_object_get(w->header, name))
        fail(w, NIB_BAD_ARGUMENT, "declared twice: tensor", name);
    else if (!set_entry(w, name, dtype_name, n_dims, dims, w->declared + n))
        fail(w, NIB_NO_MEMORY, "no memory for tensor", name);
    else
        w->declared += n;
}

void safetensors_write_rest(safetensors_write *w, const char *name) {
    assert(!w->rest);
    w->rest = mem_copy_text(name, strlen(name));
    if (!w->rest)
        fail(w, NIB_NO_MEMORY, "no memory for tensor", name);
    else if (json_object_get(w->header, name))
        fail(w, NIB_BAD_ARGUMENT, "declared twice: tensor", name);
}

/* The header's text, REST with N bytes. Freed with json_text_free; NULL: no memory. */
static char *header_text(safetensors_write *w, uint64_t n) {
    if (w->rest && !set_entry(w, w->rest, "U8", 1, (size_t[]){n}, w->declared + n))
        return NULL;
    return json_dumps(w->header, JSON_COMPACT);
}

nib_status safetensors_write_begin(safetensors_write *w, nib_error *err) {
    if (w->status != NIB_OK)
        return nib_fail(err, w->status, "%s", w->problem.text);
    char *text = header_text(w, INT64_MAX - w->declared); /* as long as it may become */
    if (!text)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the header", w->path);
    uint64_t n = strlen(text), pad = (8 - n % 8) % 8;
    w->header_bytes = n + pad;
    nib_status status = outfile_write(w->file, &w->header_bytes, sizeof w->header_bytes, err);
    if (status == NIB_OK)
        status = outfile_write(w->file, text, n, err);
    if (status == NIB_OK && pad)
        status = outfile_write(w->file, "        ", pad, err);
    json_text_free(text);
    return status;
}

nib_status safetensors_write_data(safetensors_write *w, const void *bytes, size_t n, nib_error *err) {
    if (!w->rest && n > w->declared - w->written)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: more bytes than the declared tensors take", w->path);
    NIB_TRY(outfile_write(w->file, bytes, n, err));
    w->written += n;
    return NIB_OK;
}

/* How many bytes REST has is known now; spaces fill what that leaves of the header. */
static nib_status finish_header(safetensors_write *w, nib_error *err) {
    char *text = header_text(w, w->written - w->declared), *padded = mem_alloc(w->header_bytes);
    nib_status status = NIB_OK;
    if (!text || !padded) {
        status = nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the header", w->path);
    } else {
        memset(padded, ' ', w->header_bytes);
        memcpy(padded, text, strlen(text));
        status = outfile_rewrite(w->file, sizeof w->header_bytes, padded, w->header_bytes, err);
    }
    json_text_free(text);
    mem_free(padded);
    return status;
}

nib_status safetensors_write_commit(safetensors_write *w, uint64_t *file_bytes, nib_error *err) {
    nib_status status = NIB_OK;
    if (w->written < w->declared)
        status = nib_fail(err, NIB_BAD_ARGUMENT, "%s: %" PRIu64 " of %" PRIu64 " declared bytes were written",
                          w->path, w->written, w->declared);
    else if (w->rest)
        status = finish_header(w, err);
    if (status != NIB_OK) {
        safetensors_write_abandon(w);
        return status;
    }
    if (file_bytes)
        *file_bytes = outfile_size(w->file);
    status = outfile_commit(w->file, err);
    release(w);
    return status;
}
