/* SPDX-License-Identifier: Apache-2.0
 *
 * Stored tensors to nouns/tensor.h: scales that stand beside a tensor are folded into it, whatever convention
 * wrote them, and slots are named. What the formats look like is in store/names.h (suffixes) and here:
 *
 *   ModelOpt            weight U8 [N, K/2], weight_scale E4M3 [N, K/16], weight_scale_2 F32, input_scale F32
 *   compressed-tensors  weight_packed U8 [N, K/2], weight_scale E4M3 [N, K/16], weight_global_scale F32 and
 *                       input_global_scale F32, both divisors
 *   MXFP4 (either)      weight or weight_packed U8 [N, K/2], weight_scale U8 (E8M0) [N, K/32]
 *   FP8 (either)        weight E4M3 [N, K], weight_scale F32/BF16/F16 [] or [1] or [N] or [N, 1]
 *   FP8 in tiles        weight E4M3 [N, K], weight_scale or weight_scale_inv F32/BF16, one per 128 x 128:
 *                       [N/128, K/128] or [N/128, 1, K/128, 1], rounded up; it multiplies under either name
 *   MXFP8               weight E4M3 [N, K], weight_scale U8 (E8M0) [N, K/32]
 *   GGUF                X.weight of any type, X.scale F32 [1], X.input_scale F32 [1]
 *   a low-rank branch   svdquant_lora_a BF16 [R, K] and svdquant_lora_b BF16 [N, R], as ModelOpt names them
 *
 * What only looks like one of these is kept as stored, as a tensor of its own, and the network gets a note.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/quote.h"
#include "nouns/family.h"
#include "num/fp8.h"
#include "store/model_parts.h"
#include "store/names.h"

#define FP8_TILE 128

typedef struct folder {
    model_file *f;
    model_raw *raws;     /* in file order */
    model_raw **by_name; /* sorted, to find what stands beside */
    size_t n;
    nib_error *err;
} folder;

static int raw_compare(const void *a, const void *b) {
    return strcmp((*(const model_raw *const *)a)->name, (*(const model_raw *const *)b)->name);
}

static int text_compare(const char *name, strview stem, const char *suffix) {
    int order = strncmp(name, stem.p, stem.n); /* names hold no NUL, stem is part of one */
    return order ? order : strcmp(name + stem.n, suffix);
}

/* The raw tensor STEM SUFFIX, not used yet. */
static model_raw *beside(const folder *d, strview stem, const char *suffix) {
    size_t low = 0, high = d->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = text_compare(d->by_name[middle]->name, stem, suffix);
        if (order == 0)
            return d->by_name[middle]->used ? NULL : d->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static size_t n_elements(const model_raw *r) {
    size_t n = 1;
    for (int i = 0; i < r->n_dims; i++)
        n *= r->dims[i]; /* the reader has checked the product */
    return n;
}

static bool is_float(dtype t) {
    return t == DT_F32 || t == DT_F16 || t == DT_BF16;
}

/* A single finite number >= 0 of a float type. */
static nib_status read_scalar(const folder *d, model_raw *r, float *out) {
    if (!is_float(r->dtype) || n_elements(r) != 1)
        return nib_fail(d->err, NIB_BAD_FILE, "%s: tensor %s is no single floating-point number", r->where,
                        QUOTEZ(r->name));
    dtype_decode(r->dtype, r->data, out, 1);
    if (!isfinite(*out) || *out < 0)
        return nib_fail(d->err, NIB_BAD_FILE, "%s: scale %s is %g, expected a finite number >= 0", r->where,
                        QUOTEZ(r->name), (double)*out);
    r->used = true;
    return NIB_OK;
}

static nib_status read_divisor(const folder *d, model_raw *r, float *out) {
    NIB_TRY(read_scalar(d, r, out));
    *out = 1 / *out;
    if (!isfinite(*out))
        return nib_fail(d->err, NIB_BAD_FILE, "%s: scale %s divides and is 0", r->where, QUOTEZ(r->name));
    return NIB_OK;
}

/* FP32 copy of a scale per row. */
static nib_status read_rows(const folder *d, model_raw *r, tensor *t) {
    float *rows = arena_alloc(&d->f->owned->arena, t->rows, sizeof *rows);
    if (!rows)
        return nib_fail(d->err, NIB_NO_MEMORY, "%s: no memory for the scales %s", r->where, r->name);
    dtype_decode(r->dtype, r->data, rows, t->rows);
    for (size_t i = 0; i < t->rows; i++)
        if (!isfinite(rows[i]) || rows[i] < 0)
            return nib_fail(d->err, NIB_BAD_FILE, "%s: scale %zu of %s is %g, expected a finite number >= 0",
                            r->where, i, QUOTEZ(r->name), (double)rows[i]);
    t->row_scales = rows;
    r->used = true;
    return NIB_OK;
}

static bool is_matrix_of(const model_raw *r, size_t rows, size_t cols) {
    return r->n_dims == 2 && r->dims[0] == rows && r->dims[1] == cols;
}

/* No block scale is a NaN: in E4M3 the byte 0x7f under any sign, in E8M0 0xff. A value of the block, or of
 * its product, would be none either. PER_ROW of them a row. */
static nib_status check_block_scales(const folder *d, const model_raw *r, const model_raw *scales,
                                     size_t per_row, uint8_t nan) {
    const uint8_t *p = scales->data, mask = nan == 0x7f ? 0x7f : 0xff;
    bool any = false;
    for (size_t i = 0; i < scales->bytes; i++)
        any |= (p[i] & mask) == nan;
    for (size_t i = 0; any && i < scales->bytes; i++)
        if ((p[i] & mask) == nan)
            return nib_fail(d->err, NIB_BAD_FILE,
                            "%s: tensor %s: the scale of block %zu in row %zu is no number", r->where,
                            QUOTEZ(r->name), i % per_row, i / per_row);
    return NIB_OK;
}

/* ---- the conventions ---- */

/* U8 codes beside block scales: NVFP4 or MXFP4. *folded says whether it was one. */
static nib_status fold_codes(const folder *d, model_raw *r, strview stem, bool packed, tensor *t,
                             bool *folded) {
    *folded = false;
    model_raw *scales = beside(d, stem, ".weight_scale");
    if (r->dtype != DT_U8 || r->n_dims != 2 || !scales)
        return NIB_OK;
    size_t rows = r->dims[0], cols = r->dims[1] * 2; /* half of it is in memory: cannot wrap */
    bool nvfp4 = scales->dtype == DT_F8_E4M3;
    size_t block = nvfp4 ? 16 : 32;
    if (!nvfp4 && scales->dtype != DT_U8)
        return NIB_OK;
    if (cols % block || !is_matrix_of(scales, rows, cols / block))
        return nib_fail(d->err, NIB_BAD_FILE,
                        "%s: block scales %s do not match the shape [%zu, %zu] in blocks of %zu", r->where,
                        QUOTEZ(scales->name), rows, cols, block);
    t->dtype = nvfp4 ? DT_NVFP4 : DT_MXFP4;
    t->rows = rows;
    t->cols = cols;
    t->block_scales = scales->data;
    scales->used = true;
    NIB_TRY(check_block_scales(d, r, scales, cols / block, nvfp4 ? 0x7f : 0xff));
    *folded = true;
    d->f->convention = packed ? QUANT_COMPRESSED_TENSORS : QUANT_MODELOPT;
    if (!nvfp4)
        return NIB_OK;
    model_raw *global = beside(d, stem, packed ? ".weight_global_scale" : ".weight_scale_2");
    if (!global)
        return nib_fail(d->err, NIB_BAD_FILE, "%s: %s has no %s beside it", r->where, QUOTEZ(r->name),
                        packed ? "weight_global_scale" : "weight_scale_2");
    model_raw *input = beside(d, stem, packed ? ".input_global_scale" : ".input_scale");
    NIB_TRY(packed ? read_divisor(d, global, &t->tensor_scale) : read_scalar(d, global, &t->tensor_scale));
    if (input)
        NIB_TRY(packed ? read_divisor(d, input, &t->input_scale) : read_scalar(d, input, &t->input_scale));
    return NIB_OK;
}

/* One FP32 scale per tile of ROWS x COLS elements, of the stored scales R. */
static nib_status read_tiles(const folder *d, model_raw *r, tensor *t, size_t rows, size_t cols) {
    size_t n = n_elements(r);
    float *tiles = arena_alloc(&d->f->owned->arena, n, sizeof *tiles);
    if (!tiles)
        return nib_fail(d->err, NIB_NO_MEMORY, "%s: no memory for the scales %s", r->where, r->name);
    if (r->dtype == DT_U8) /* E8M0 */
        for (size_t i = 0; i < n; i++)
            tiles[i] = e8m0_to_f32(((const uint8_t *)r->data)[i]);
    else
        dtype_decode(r->dtype, r->data, tiles, n);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(tiles[i]) || tiles[i] < 0)
            return nib_fail(d->err, NIB_BAD_FILE, "%s: scale %zu of %s is %g, expected a finite number >= 0",
                            r->where, i, QUOTEZ(r->name), (double)tiles[i]);
    t->tile_scales = tiles;
    t->tile_rows = rows;
    t->tile_cols = cols;
    r->used = true;
    return NIB_OK;
}

/* R has one number per tile of 128 x 128 elements of T, as [R, C], [R, 1, C, 1] or the like. */
static bool is_tiled(const model_raw *r, const tensor *t) {
    size_t shape[TENSOR_MAX_DIMS] = {0}, rows = (t->rows + FP8_TILE - 1) / FP8_TILE,
           cols = (t->cols + FP8_TILE - 1) / FP8_TILE;
    int n = 0;
    for (int i = 0; i < r->n_dims; i++)
        if (r->dims[i] != 1 || (r->n_dims == 2 && i < 2))
            shape[n++] = r->dims[i];
    bool flat = n_elements(r) == rows * cols && (rows == 1 || cols == 1);
    return is_float(r->dtype) && r->n_dims >= 2 && (flat || (n == 2 && shape[0] == rows && shape[1] == cols));
}

static nib_status fold_fp8(const folder *d, model_raw *r, strview stem, tensor *t) {
    model_raw *scale = beside(d, stem, ".weight_scale"), *input = beside(d, stem, ".input_scale");
    if (!scale)
        scale =
            beside(d, stem, ".weight_scale_inv"); /* of block-quantized files; it multiplies all the same */
    if (!input)
        input = beside(d, stem, ".activation_scale"); /* as transformers calls it */
    bool mx =
        scale && scale->dtype == DT_U8 && t->cols % 32 == 0 && is_matrix_of(scale, t->rows, t->cols / 32);
    if (!scale || (!mx && !is_float(scale->dtype)))
        return model_note_words(d->f, d->err, "%s: FP8 tensor %s has no weight_scale beside it", r->where,
                                QUOTEZ(r->name));
    bool per_row = !mx && n_elements(scale) == t->rows && t->rows > 1 &&
                   (scale->n_dims == 1 || is_matrix_of(scale, t->rows, 1));
    bool tiled = !mx && !per_row && n_elements(scale) != 1 && is_tiled(scale, t);
    if (n_elements(scale) != 1 && !per_row && !mx && !tiled)
        return model_note_words(
            d->f, d->err,
            "%s: %s holds neither one scale nor one per row, per 32 columns (E8M0) or per "
            "tile of 128 x 128",
            r->where, QUOTEZ(scale->name));
    if (mx)
        NIB_TRY(read_tiles(d, scale, t, 1, 32));
    else if (tiled)
        NIB_TRY(read_tiles(d, scale, t, FP8_TILE, FP8_TILE));
    else
        NIB_TRY(per_row ? read_rows(d, scale, t) : read_scalar(d, scale, &t->tensor_scale));
    if (input)
        NIB_TRY(read_scalar(d, input, &t->input_scale));
    if (d->f->convention == QUANT_NONE)
        d->f->convention = QUANT_MODELOPT;
    return NIB_OK;
}

static nib_status fold_hf(const folder *d, model_raw *r, tensor *t, strview *plain_name) {
    strview stem;
    bool folded = false;
    names_companion c = names_hf_companion(strview_of(r->name), &stem);
    if (c == COMPANION_WEIGHT_PACKED) {
        NIB_TRY(fold_codes(d, r, stem, true, t, &folded));
        if (folded) { /* known by the name of the weight it is */
            char *name = arena_format(&d->f->owned->arena, "%.*s.weight", (int)stem.n, stem.p);
            if (!name)
                return nib_fail(d->err, NIB_NO_MEMORY, "%s: no memory for a name", r->where);
            *plain_name = strview_of(name);
        }
    } else if (c == COMPANION_NONE && r->dtype == DT_U8 && stem.n < strlen(r->name)) {
        NIB_TRY(fold_codes(d, r, stem, false, t, &folded));
    } else if (c == COMPANION_NONE && (r->dtype == DT_F8_E4M3 || r->dtype == DT_F8_E5M2)) {
        NIB_TRY(fold_fp8(d, r, stem, t));
    }
    return NIB_OK;
}

static nib_status fold_gguf(const folder *d, model_raw *r, tensor *t) {
    strview stem;
    if (names_gguf_companion(strview_of(r->name), &stem) != COMPANION_NONE || stem.n == strlen(r->name))
        return NIB_OK;
    model_raw *scale = beside(d, stem, ".scale"), *input = beside(d, stem, ".input_scale");
    if (!scale)
        scale = beside(d, stem, ".weight.scale");
    if (r->n_dims > 2)
        return NIB_OK; /* experts: a scale for each, carried as they are */
    if (scale)
        NIB_TRY(read_scalar(d, scale, &t->tensor_scale));
    if (input)
        NIB_TRY(read_scalar(d, input, &t->input_scale));
    return NIB_OK;
}

/* HALF of a low-rank branch is BF16 [ROWS, COLS]. */
static nib_status check_half(const folder *d, const model_raw *half, size_t rows, size_t cols) {
    if (half->n_dims != 2)
        return nib_fail(d->err, NIB_BAD_FILE, "%s: %s has %d dimensions, expected BF16 [%zu, %zu]",
                        half->where, QUOTEZ(half->name), half->n_dims, rows, cols);
    if (half->dtype != DT_BF16 || !is_matrix_of(half, rows, cols))
        return nib_fail(d->err, NIB_BAD_FILE, "%s: %s is %s [%zu, %zu], expected BF16 [%zu, %zu]",
                        half->where, QUOTEZ(half->name), half->format_name, half->dims[0], half->dims[1],
                        rows, cols);
    if ((uintptr_t)half->data % 2)
        return nib_fail(d->err, NIB_BAD_FILE,
                        "%s: %s begins at an odd place in the file, expected an even one", half->where,
                        QUOTEZ(half->name));
    return NIB_OK;
}

/* The low-rank branch beside the matrix T. */
static nib_status fold_branch(const folder *d, const model_raw *r, strview stem, tensor *t) {
    model_raw *down = beside(d, stem, NAMES_BRANCH_DOWN), *up = beside(d, stem, NAMES_BRANCH_UP);
    if (!down && !up)
        return NIB_OK;
    if (!down || !up)
        return nib_fail(d->err, NIB_BAD_FILE, "%s: %s has no %s beside it", r->where,
                        QUOTEZ((down ? down : up)->name), (down ? NAMES_BRANCH_UP : NAMES_BRANCH_DOWN) + 1);
    if (t->n_dims != 2 || t->rows == 1)
        return nib_fail(d->err, NIB_BAD_FILE, "%s: %s has a low-rank branch beside it and is no matrix",
                        r->where, QUOTEZ(r->name));
    const size_t rank = down->n_dims == 2 && down->dims[0] > 0 ? down->dims[0] : 1;
    NIB_TRY(check_half(d, down, rank, t->cols));
    if (rank > t->rows || rank > t->cols)
        return nib_fail(d->err, NIB_BAD_FILE,
                        "%s: %s has a rank of %zu, expected no more than the smaller side of [%zu, %zu]",
                        down->where, QUOTEZ(down->name), rank, t->rows, t->cols);
    NIB_TRY(check_half(d, up, t->rows, rank));
    down->used = up->used = true;
    t->branch = (tensor_branch){rank, down->data, up->data, 1};
    return NIB_OK;
}

/* ---- one tensor ---- */

/* A name that is no slot: may the network be computed without it? */
static nib_status note_unknown(const folder *d, const model_raw *r, strview name) {
    bool is_gguf = d->f->format == FORMAT_GGUF;
    strview stem;
    if (d->f->hp.family == FAMILY_NONE)
        return NIB_OK; /* noted already */
    if (!is_gguf && (names_hf_is_tower(name) || names_hf_companion(name, &stem) == COMPANION_KV_SCALE))
        return NIB_OK;
    if (!is_gguf && name.n > 9 && memcmp(name.p + name.n - 9, ".inv_freq", 9) == 0)
        return NIB_OK; /* a stored RoPE table of older checkpoints */
    if (!is_gguf && !names_hf_in_layer(name))
        return NIB_OK;
    return model_note_words(d->f, d->err, "%s: tensor %s is not part of a %s network as nibble computes it",
                            r->where, QUOTEZ(r->name), family_name(d->f->hp.family));
}

static nib_status fill_tensor(const folder *d, model_raw *r, tensor *t) {
    bool is_gguf = d->f->format == FORMAT_GGUF;
    strview name = strview_of(r->name);
    *t = (tensor){.name = r->name,
                  .place = place_of(SLOT_NONE, PLACE_NO_LAYER),
                  .dtype = r->dtype,
                  .rows = 1,
                  .cols = 1,
                  .n_dims = r->n_dims,
                  .data = r->data,
                  .bytes = r->bytes,
                  .tensor_scale = 1};
    memcpy(t->dims, r->dims, sizeof t->dims);
    for (int i = 0; i + 1 < r->n_dims; i++)
        t->rows *= r->dims[i];
    if (r->n_dims)
        t->cols = r->dims[r->n_dims - 1];
    NIB_TRY(is_gguf ? fold_gguf(d, r, t) : fold_hf(d, r, t, &name));
    strview stem;
    if ((is_gguf ? names_gguf_companion(name, &stem) : names_hf_companion(name, &stem)) == COMPANION_NONE)
        NIB_TRY(fold_branch(d, r, stem, t));
    bool known = is_gguf ? names_from_gguf(d->f->hp.family, name, &t->place)
                         : names_from_hf(d->f->hp.family, name, &t->place);
    return known ? NIB_OK : note_unknown(d, r, name);
}

static bool is_companion(const model_file *f, const model_raw *r) {
    strview stem;
    names_companion c = f->format == FORMAT_GGUF ? names_gguf_companion(strview_of(r->name), &stem)
                                                 : names_hf_companion(strview_of(r->name), &stem);
    return c != COMPANION_NONE && c != COMPANION_WEIGHT_PACKED;
}

/* In file order. Weights first, so that what belongs to them is marked; what is left of companions stands for
 * itself. */
static nib_status fold_all(folder *d, tensor *tensors, const char **format_names) {
    model_file *f = d->f;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < d->n; i++) {
            model_raw *r = &d->raws[i];
            if (r->used || is_companion(f, r) != (pass == 1))
                continue;
            tensor *t = &tensors[f->n_tensors];
            NIB_TRY(fill_tensor(d, r, t));
            format_names[f->n_tensors++] = t->dtype == r->dtype ? r->format_name : dtype_get(t->dtype)->name;
        }
    }
    return NIB_OK;
}

/* ---- the head ---- */

static tensor *at_slot(const model_file *f, tensor *tensors, slot s) {
    for (size_t i = 0; i < f->n_tensors; i++)
        if (tensors[i].place.slot == s)
            return &tensors[i];
    return NULL;
}

static bool same_values(const tensor *a, const tensor *b) {
    return a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols && a->bytes == b->bytes &&
           !a->branch.rank && !b->branch.rank && !a->block_scales && !b->block_scales && !a->row_scales &&
           !b->row_scales && a->tensor_scale == b->tensor_scale && memcmp(a->data, b->data, a->bytes) == 0;
}

/* config.json ties the head to the embedding, and yet a head is stored: what is stored counts, as in
 * transformers 5. The same values twice are one tensor; a head alone is the embedding. */
static nib_status settle_head(const folder *d, tensor *tensors) {
    model_file *f = d->f;
    tensor *head = at_slot(f, tensors, SLOT_HEAD), *embed = at_slot(f, tensors, SLOT_EMBED);
    if (f->hp.family == FAMILY_NONE || !f->hp.tied || !head)
        return NIB_OK;
    if (!embed) {
        head->place.slot = SLOT_EMBED;
        return NIB_OK;
    }
    if (same_values(head, embed)) {
        head->place.slot = SLOT_NONE;
        return NIB_OK;
    }
    f->hp.tied = false;
    return model_add_note(
        f, d->err,
        "%s: config.json ties the head to the embedding, and %s is stored with other values: "
        "nibble computes with what is stored",
        f->path, QUOTEZ(head->name));
}

/* The list is FOLDER's until model_fold returns. */
static nib_status sort_names(folder *d) {
    for (size_t i = 0; i < d->n; i++)
        d->by_name[i] = &d->raws[i];
    if (d->n > 1)
        qsort(d->by_name, d->n, sizeof *d->by_name, raw_compare);
    for (size_t i = 1; i < d->n; i++)
        if (strcmp(d->by_name[i - 1]->name, d->by_name[i]->name) == 0)
            return nib_fail(d->err, NIB_BAD_FILE, "%s: tensor %s is there twice, also in %s",
                            d->by_name[i]->where, QUOTEZ(d->by_name[i]->name), d->by_name[i - 1]->where);
    return NIB_OK;
}

nib_status model_fold(model_file *f, model_raw *raws, size_t n, nib_error *err) {
    tensor *tensors = arena_alloc(&f->owned->arena, n, sizeof *tensors);
    f->owned->format_names = arena_alloc(&f->owned->arena, n, sizeof *f->owned->format_names);
    folder d = {f, raws, mem_array(n, sizeof *d.by_name), n, err};
    if (!d.by_name || (n && (!tensors || !f->owned->format_names))) {
        mem_free(d.by_name);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", f->path, n);
    }
    f->tensors = tensors;
    nib_status status = sort_names(&d);
    if (status == NIB_OK)
        status = fold_all(&d, tensors, f->owned->format_names);
    if (status == NIB_OK && f->format == FORMAT_SAFETENSORS)
        status = settle_head(&d, tensors);
    mem_free(d.by_name);
    return status == NIB_OK ? model_index(f, err) : status;
}
