/* SPDX-License-Identifier: Apache-2.0
 *
 * A Hugging Face directory with one safetensors file. What stands beside a weight STEM.weight:
 *
 *   NVFP4, ModelOpt            weight U8 [N, K/2], weight_scale E4M3 [N, K/16], weight_scale_2 F32 [],
 *                              input_scale F32 [] where the source has one
 *   NVFP4, compressed-tensors  weight_packed, weight_scale, weight_global_scale F32 [1] (divides),
 *                              input_global_scale F32 [1] (divides)
 *   MXFP4                      weight or weight_packed U8 [N, K/2], weight_scale U8 (E8M0) [N, K/32]
 *   FP8                        weight E4M3 [N, K], weight_scale F32 [] or [1], or per row as it came
 *
 * Tensors of wider elements come first, so that each lies aligned to its element, as torch asks.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/outdir.h"
#include "base/quote.h"
#include "export/export_parts.h"
#include "export/safetensors_write.h"

typedef enum part_kind { PART_ELEMENTS, PART_SCALES, PART_NUMBER, PART_ROW_SCALES } part_kind;

typedef struct part { /* one tensor of the file */
    part_kind kind;
    size_t item;
    const char *name;
    dtype dtype;
    int n_dims;
    size_t dims[TENSOR_MAX_DIMS];
    float number; /* PART_NUMBER */
} part;

typedef struct hf_writer {
    export_plan *plan;
    safetensors_write *out;
    part *parts;
    size_t n_parts;
    uint8_t *scales; /* of the item whose codes were just written */
    nib_error *err;
} hf_writer;

static bool is_fp4(dtype t) {
    return t == DT_NVFP4 || t == DT_MXFP4;
}

/* ---- what will be written ---- */

static part *add_part(hf_writer *w, part_kind kind, size_t item, const char *suffix, dtype type) {
    part *p = &w->parts[w->n_parts];
    const char *name = w->plan->items[item].name;
    size_t n = strlen(name);
    *p = (part){.kind = kind, .item = item, .name = name, .dtype = type};
    if (kind == PART_ELEMENTS) {
        p->n_dims = w->plan->items[item].n_dims;
        memcpy(p->dims, w->plan->items[item].dims, sizeof p->dims);
    }
    if (suffix) {
        if (n > 7 && strcmp(name + n - 7, ".weight") == 0)
            n -= 7;
        p->name = arena_format(w->plan->arena, "%.*s%s", (int)n, name, suffix);
    }
    if (!p->name)
        return NULL;
    w->n_parts++;
    return p;
}

static bool add_number(hf_writer *w, size_t item, const char *suffix, int n_dims, float number) {
    part *p = add_part(w, PART_NUMBER, item, suffix, DT_F32);
    if (!p)
        return false;
    p->n_dims = n_dims;
    p->dims[0] = 1;
    p->number = number;
    return true;
}

static nib_status no_memory(const hf_writer *w) {
    return nib_fail(w->err, NIB_NO_MEMORY, "%s: no memory to write it", w->plan->out_path);
}

static nib_status add_fp4(hf_writer *w, size_t i) {
    const export_item *item = &w->plan->items[i];
    bool ct = w->plan->out == OUT_COMPRESSED_TENSORS, nv = item->to == DT_NVFP4;
    part *elements = add_part(w, PART_ELEMENTS, i, ct ? ".weight_packed" : NULL, item->to);
    part *scales = elements ? add_part(w, PART_SCALES, i, ".weight_scale", nv ? DT_F8_E4M3 : DT_U8) : NULL;
    if (!scales)
        return no_memory(w);
    scales->n_dims = 2;
    scales->dims[0] = item->t->rows;
    scales->dims[1] = item->t->cols / (nv ? 16 : 32);
    if (!nv)
        return NIB_OK;
    bool ok = ct ? add_number(w, i, ".weight_global_scale", 1, item->scale_divisor)
                 : add_number(w, i, ".weight_scale_2", 0, item->tensor_scale);
    if (item->input_scale > 0 && ct)
        ok = ok && add_number(w, i, ".input_global_scale", 1, item->input_divisor);
    else if (item->input_scale > 0)
        ok = ok && add_number(w, i, ".input_scale", 0, item->input_scale);
    return ok ? NIB_OK : no_memory(w);
}

static nib_status add_fp8(hf_writer *w, size_t i) {
    const export_item *item = &w->plan->items[i];
    bool ct = w->plan->out == OUT_COMPRESSED_TENSORS;
    part *elements = add_part(w, PART_ELEMENTS, i, NULL, item->to);
    if (!elements)
        return no_memory(w);
    bool ok;
    if (item->row_scales) {
        part *rows = add_part(w, PART_ROW_SCALES, i, ".weight_scale", DT_F32);
        ok = rows != NULL;
        if (rows) {
            rows->n_dims = ct ? 2 : 1;
            rows->dims[0] = item->t->rows;
            rows->dims[1] = 1;
        }
    } else {
        ok = add_number(w, i, ".weight_scale", ct, item->tensor_scale);
    }
    if (item->input_scale > 0)
        ok = ok && add_number(w, i, ".input_scale", ct, item->input_scale);
    return ok ? NIB_OK : no_memory(w);
}

static nib_status list_parts(hf_writer *w) {
    w->parts = mem_array(4 * w->plan->n, sizeof *w->parts);
    if (!w->parts)
        return no_memory(w);
    for (size_t i = 0; i < w->plan->n; i++) {
        const export_item *item = &w->plan->items[i];
        if (is_fp4(item->to) && !item->plain) {
            NIB_TRY(add_fp4(w, i));
        } else if (item->to == DT_F8_E4M3 && !item->plain) {
            NIB_TRY(add_fp8(w, i));
        } else {
            part *p = add_part(w, PART_ELEMENTS, i, NULL, item->to);
            if (!p)
                return no_memory(w);
        }
    }
    return NIB_OK;
}

/* ---- writing ---- */

static nib_status sink_write(void *context, const void *bytes, size_t n, nib_error *err) {
    return safetensors_write_data(context, bytes, n, err);
}

static nib_status write_elements(hf_writer *w, const part *p) {
    const export_item *item = &w->plan->items[p->item];
    mem_free(w->scales);
    w->scales = NULL;
    if (is_fp4(item->to) && !item->plain) {
        w->scales = mem_array(item->t->rows, item->t->cols / (item->to == DT_NVFP4 ? 16 : 32));
        if (!w->scales)
            return no_memory(w);
    }
    size_t bytes = 1;
    for (int d = 0; d < p->n_dims; d++)
        bytes *= p->dims[d];
    w->plan->bytes_after[p->item] += is_fp4(p->dtype) ? bytes : bytes * dtype_get(p->dtype)->block_bytes;
    return w->plan->encode(w->plan->context, p->item, (export_sink){sink_write, w->out}, w->scales, w->err);
}

static nib_status write_part(hf_writer *w, const part *p) {
    const export_item *item = &w->plan->items[p->item];
    uint64_t *bytes = &w->plan->bytes_after[p->item];
    switch (p->kind) {
    case PART_ELEMENTS:
        return write_elements(w, p);
    case PART_SCALES: /* its elements came just before */
        *bytes += p->dims[0] * p->dims[1];
        return safetensors_write_data(w->out, w->scales, p->dims[0] * p->dims[1], w->err);
    case PART_NUMBER:
        *bytes += sizeof p->number;
        return safetensors_write_data(w->out, &p->number, sizeof p->number, w->err);
    case PART_ROW_SCALES:
        *bytes += item->t->rows * sizeof(float);
        return safetensors_write_data(w->out, item->row_scales, item->t->rows * sizeof(float), w->err);
    }
    return NIB_OK;
}

static bool is_in_pass(const part *p, size_t width) {
    return (is_fp4(p->dtype) ? 1 : dtype_get(p->dtype)->block_bytes) == width;
}

static nib_status write_tensors(hf_writer *w) {
    static const size_t widths[] = {8, 4, 2, 1};
    NIB_TRY(list_parts(w));
    for (size_t pass = 0; pass < 4; pass++)
        for (size_t i = 0; i < w->n_parts; i++) {
            const part *p = &w->parts[i];
            if (is_in_pass(p, widths[pass]))
                safetensors_write_tensor(w->out, p->name, is_fp4(p->dtype) ? DT_U8 : p->dtype, p->n_dims,
                                         p->dims);
        }
    NIB_TRY(safetensors_write_begin(w->out, w->err));
    for (size_t pass = 0; pass < 4; pass++)
        for (size_t i = 0; i < w->n_parts; i++)
            if (is_in_pass(&w->parts[i], widths[pass]))
                NIB_TRY(write_part(w, &w->parts[i]));
    return NIB_OK;
}

static nib_status write_file(export_plan *plan, const char *path, nib_error *err) {
    hf_writer w = {.plan = plan, .err = err};
    NIB_TRY(safetensors_write_open(&w.out, path, err));
    nib_status status = write_tensors(&w);
    mem_free(w.parts);
    mem_free(w.scales);
    if (status == NIB_OK)
        return safetensors_write_commit(w.out, &plan->file_bytes, err);
    safetensors_write_abandon(w.out);
    return status;
}

nib_status export_hf(export_plan *plan, nib_error *err) {
    outdir *dir;
    char path[4096];
    NIB_TRY(outdir_open(&dir, plan->out_path, hf_side_is_ours, HF_SIDE_MARK, err));
    int n = snprintf(path, sizeof path, "%s/model.safetensors", outdir_path(dir));
    nib_status status = NIB_OK;
    if (n < 0 || (size_t)n >= sizeof path)
        status = nib_fail(err, NIB_BAD_ARGUMENT, "%s: the name is too long", plan->out_path);
    if (status == NIB_OK)
        status = hf_config_write(plan, outdir_path(dir), err); /* what can be refused comes first */
    if (status == NIB_OK)
        status = hf_words_write(plan, outdir_path(dir), err);
    if (status == NIB_OK)
        status = write_file(plan, path, err);
    if (status == NIB_OK)
        return outdir_commit(dir, err);
    outdir_abandon(dir);
    return status;
}
