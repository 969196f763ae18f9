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
    uint64_t declared, written; /* bytes of data */
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
    json_t *shape = json_array();
    bool fits = shape != NULL;
    for (int i = 0; fits && i < n_dims; i++)
        fits = mem_mul(n, dims[i], &n) && n <= INT64_MAX - w->declared &&
               json_array_append_new(shape, json_integer((json_int_t)dims[i])) == 0;
    json_t *entry = fits ? json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name, "shape", shape,
                                     "data_offsets", (json_int_t)w->declared, (json_int_t)(w->declared + n))
                         : NULL;
    if (!fits)
        json_decref(shape);
    if (json_object_get(w->header, name)) {
        fail(w, NIB_BAD_ARGUMENT, "declared twice: tensor", name);
        json_decref(entry);
    } else if (!entry || json_object_set_new(w->header, name, entry) != 0) {
        fail(w, NIB_NO_MEMORY, "no memory for tensor", name);
    } else {
        w->declared += n;
    }
}

nib_status safetensors_write_begin(safetensors_write *w, nib_error *err) {
    if (w->status != NIB_OK)
        return nib_fail(err, w->status, "%s", w->problem.text);
    char *text = json_dumps(w->header, JSON_COMPACT);
    if (!text)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the header", w->path);
    uint64_t n = strlen(text), pad = (8 - n % 8) % 8, total = n + pad;
    nib_status status = outfile_write(w->file, &total, sizeof total, err);
    if (status == NIB_OK)
        status = outfile_write(w->file, text, n, err);
    if (status == NIB_OK && pad)
        status = outfile_write(w->file, "        ", pad, err);
    json_text_free(text);
    return status;
}

nib_status safetensors_write_data(safetensors_write *w, const void *bytes, size_t n, nib_error *err) {
    if (n > w->declared - w->written)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: more bytes than the declared tensors take", w->path);
    NIB_TRY(outfile_write(w->file, bytes, n, err));
    w->written += n;
    return NIB_OK;
}

nib_status safetensors_write_commit(safetensors_write *w, uint64_t *file_bytes, nib_error *err) {
    if (w->written != w->declared) {
        nib_status status =
            nib_fail(err, NIB_BAD_ARGUMENT, "%s: %" PRIu64 " of %" PRIu64 " declared bytes were written",
                     w->path, w->written, w->declared);
        safetensors_write_abandon(w);
        return status;
    }
    if (file_bytes)
        *file_bytes = outfile_size(w->file);
    nib_status status = outfile_commit(w->file, err);
    release(w);
    return status;
}
