/* SPDX-License-Identifier: Apache-2.0
 *
 * A GGUF file. An NVFP4 tensor X.weight has its tensor scale beside it as X.scale, F32 [1], which llama.cpp
 * multiplies the product with; X.input_scale is carried where the source has one. Metadata is the source's,
 * or made from hparams and words; file_type and quantization_version are ours.
 */
#include <stdio.h>
#include <string.h>

#include "base/quote.h"
#include "export/export_parts.h"

#define FILE_TYPE_Q8_0  7 /* llama.cpp's numbers for "mostly" */
#define FILE_TYPE_Q5_0  8
#define FILE_TYPE_BF16  32
#define FILE_TYPE_MXFP4 38
#define FILE_TYPE_NVFP4 39

typedef struct gguf_writer {
    export_plan *plan;
    gguf_write *out;
    nib_error *err;
} gguf_writer;

/* ---- scales beside a tensor ---- */

static bool has_scale(const export_item *item) {
    return item->to == DT_GGUF_NVFP4 || item->tensor_scale != 1.0f;
}

/* llama.cpp refuses a tied embedding in NVFP4 with a scale beside it; at 1 it says nothing. */
static bool writes_scale(const export_item *item) {
    return has_scale(item) && !(item->slot == SLOT_EMBED && item->tensor_scale == 1.0f);
}

static bool writes_input_scale(const export_item *item) {
    return has_scale(item) && item->input_scale > 0;
}

static void beside_name(const export_item *item, const char *suffix, char out[256]) {
    size_t n = strlen(item->name);
    if (n > 7 && strcmp(item->name + n - 7, ".weight") == 0)
        n -= 7;
    snprintf(out, 256, "%.*s%s", (int)n, item->name, suffix);
}

static void declare_beside(gguf_writer *w, const export_item *item, const char *suffix) {
    static const size_t one[1] = {1};
    char name[256];
    beside_name(item, suffix, name);
    gguf_write_tensor(w->out, name, DT_F32, 1, one);
}

/* ---- Llama 3's frequencies, which config.json says in words and GGUF as numbers ---- */

static bool makes_rope_freqs(const export_plan *plan) {
    return !plan->in->gguf && plan->in->hp.rope.kind == ROPE_LLAMA3;
}

/* ---- the file ---- */

static void copy_keys(gguf_writer *w) {
    const gguf *g = w->plan->in->gguf;
    for (size_t i = 0; i < g->n_keys; i++) {
        strview name = g->keys[i].name;
        bool split = name.n > 6 && memcmp(name.p, "split.", 6) == 0;
        if (!split && !strview_is(name, "general.alignment"))
            gguf_write_copy(w->out, &g->keys[i]);
    }
}

/* Of what most weights of the linear layers become; where none becomes one of these, of what was asked. */
static uint32_t file_type(const export_plan *plan) {
    static const struct {
        dtype asked, written;
        uint32_t type;
    } types[] = {{DT_NVFP4, DT_GGUF_NVFP4, FILE_TYPE_NVFP4},
                 {DT_MXFP4, DT_GGUF_MXFP4, FILE_TYPE_MXFP4},
                 {DT_Q5_0, DT_Q5_0, FILE_TYPE_Q5_0},
                 {DT_Q8_0, DT_Q8_0, FILE_TYPE_Q8_0},
                 {DT_BF16, DT_BF16, FILE_TYPE_BF16}};
    enum { N_TYPES = sizeof types / sizeof *types };
    uint64_t weights[N_TYPES] = {0}, most = 0;
    uint32_t type = FILE_TYPE_BF16;
    for (size_t k = 0; k < N_TYPES; k++) {
        for (size_t i = 0; i < plan->n; i++)
            if (place_is_linear(plan->items[i].slot) && plan->items[i].to == types[k].written)
                weights[k] += (uint64_t)plan->items[i].t->rows * plan->items[i].t->cols;
        if (weights[k] > most || (most == 0 && types[k].asked == plan->format))
            type = types[k].type;
        most = weights[k] > most ? weights[k] : most;
    }
    return type;
}

static nib_status write_keys(gguf_writer *w) {
    if (w->plan->in->gguf) {
        copy_keys(w);
    } else {
        NIB_TRY(gguf_keys_write(w->plan, w->out, w->err));
        NIB_TRY(gguf_words_write(w->plan, w->out, w->err));
    }
    gguf_write_u32(w->out, "general.file_type", file_type(w->plan));
    gguf_write_u32(w->out, "general.quantization_version", 2);
    return NIB_OK;
}

static void declare(gguf_writer *w) {
    size_t half = (size_t)w->plan->in->hp.rope_dim / 2;
    for (size_t i = 0; i < w->plan->n; i++) {
        const export_item *item = &w->plan->items[i];
        gguf_write_tensor(w->out, item->name, item->to, item->n_dims, item->dims);
        if (writes_scale(item))
            declare_beside(w, item, ".scale");
        if (writes_input_scale(item))
            declare_beside(w, item, ".input_scale");
    }
    if (makes_rope_freqs(w->plan))
        gguf_write_tensor(w->out, "rope_freqs.weight", DT_F32, 1, &half);
}

static nib_status sink_write(void *context, const void *bytes, size_t n, nib_error *err) {
    return gguf_write_data(context, bytes, n, err);
}

static nib_status write_item(gguf_writer *w, size_t i) {
    export_plan *plan = w->plan;
    const export_item *item = &plan->items[i];
    size_t bytes = 0;
    NIB_TRY(plan->encode(plan->context, i, (export_sink){sink_write, w->out}, NULL, w->err));
    if (dtype_bytes(item->to, item->t->rows * item->t->cols, &bytes))
        plan->bytes_after[i] = bytes + (writes_scale(item) ? sizeof item->tensor_scale : 0);
    if (writes_scale(item))
        NIB_TRY(gguf_write_data(w->out, &item->tensor_scale, sizeof item->tensor_scale, w->err));
    if (writes_input_scale(item))
        NIB_TRY(gguf_write_data(w->out, &item->input_scale, sizeof item->input_scale, w->err));
    return NIB_OK;
}

static nib_status write_all(gguf_writer *w) {
    NIB_TRY(write_keys(w));
    declare(w);
    NIB_TRY(gguf_write_begin(w->out, w->err));
    for (size_t i = 0; i < w->plan->n; i++)
        NIB_TRY(write_item(w, i));
    for (int32_t i = 0; makes_rope_freqs(w->plan) && i < w->plan->in->hp.rope_dim / 2; i++) {
        float divisor = (float)rope_llama3_divisor(&w->plan->in->hp.rope, w->plan->in->hp.rope_dim, i);
        NIB_TRY(gguf_write_data(w->out, &divisor, sizeof divisor, w->err));
    }
    return NIB_OK;
}

nib_status export_gguf(export_plan *plan, nib_error *err) {
    gguf_writer w = {.plan = plan, .err = err};
    NIB_TRY(gguf_write_open(&w.out, plan->out_path, err));
    nib_status status = write_all(&w);
    if (status == NIB_OK)
        return gguf_write_commit(w.out, &plan->file_bytes, err);
    gguf_write_abandon(w.out);
    return status;
}
