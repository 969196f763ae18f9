/* SPDX-License-Identifier: Apache-2.0
 *
 * A GGUF file. An NVFP4 tensor X.weight has its tensor scale beside it as X.scale, F32 [1], which llama.cpp
 * multiplies the product with; X.input_scale is carried where the source has one. Metadata is the source's,
 * or made from hparams and words; file_type and quantization_version are ours.
 */
#include <stdio.h>
#include <string.h>

#include "quant/gguf_side.h"
#include "store/quote.h"

#define FILE_TYPE_BF16  32 /* llama.cpp's numbers for "mostly" */
#define FILE_TYPE_MXFP4 38
#define FILE_TYPE_NVFP4 39

typedef struct gguf_writer {
    convert_run *run;
    gguf_write *out;
    nib_error *err;
} gguf_writer;

/* ---- scales beside a tensor ---- */

static bool has_scale(const recipe_item *item) {
    return item->action != RECIPE_CAST && (item->to == DT_GGUF_NVFP4 || convert_tensor_scale(item) != 1.0f);
}

/* llama.cpp refuses a tied embedding in NVFP4 with a scale beside it; at 1 it says nothing. */
static bool writes_scale(const recipe_item *item) {
    return has_scale(item) && !(item->slot == SLOT_EMBED && convert_tensor_scale(item) == 1.0f);
}

static bool writes_input_scale(const recipe_item *item) {
    return has_scale(item) && item->t->input_scale > 0;
}

static void beside_name(const recipe_item *item, const char *suffix, char out[256]) {
    size_t n = strlen(item->name);
    if (n > 7 && strcmp(item->name + n - 7, ".weight") == 0)
        n -= 7;
    snprintf(out, 256, "%.*s%s", (int)n, item->name, suffix);
}

static void declare_beside(gguf_writer *w, const recipe_item *item, const char *suffix) {
    static const size_t one[1] = {1};
    char name[256];
    beside_name(item, suffix, name);
    gguf_write_tensor(w->out, name, DT_F32, 1, one);
}

/* ---- Llama 3's frequencies, which config.json says in words and GGUF as numbers ---- */

static bool makes_rope_freqs(const convert_run *run) {
    return !run->recipe.from_gguf && run->in->hp.rope.kind == ROPE_LLAMA3;
}

/* ---- the file ---- */

static void copy_keys(gguf_writer *w) {
    const gguf *g = w->run->in->gguf;
    for (size_t i = 0; i < g->n_keys; i++) {
        strview name = g->keys[i].name;
        bool split = name.n > 6 && memcmp(name.p, "split.", 6) == 0;
        if (!split && !strview_is(name, "general.alignment"))
            gguf_write_copy(w->out, &g->keys[i]);
    }
}

static nib_status write_keys(gguf_writer *w) {
    static const uint32_t types[] = {
        [QF_NVFP4] = FILE_TYPE_NVFP4, [QF_MXFP4] = FILE_TYPE_MXFP4, [QF_BF16] = FILE_TYPE_BF16};
    if (w->run->recipe.from_gguf) {
        copy_keys(w);
    } else {
        NIB_TRY(gguf_keys_write(w->run, w->out, w->err));
        NIB_TRY(gguf_words_write(w->run, w->out, w->err));
    }
    gguf_write_u32(w->out, "general.file_type", types[w->run->o->format]);
    gguf_write_u32(w->out, "general.quantization_version", 2);
    return NIB_OK;
}

static void declare(gguf_writer *w) {
    const recipe *r = &w->run->recipe;
    size_t dims[TENSOR_MAX_DIMS], half = (size_t)w->run->in->hp.head_dim / 2;
    for (size_t i = 0; i < r->n; i++) {
        const recipe_item *item = &r->items[i];
        int n_dims = convert_dims(item, dims);
        gguf_write_tensor(w->out, item->name, item->to, n_dims, dims);
        if (writes_scale(item))
            declare_beside(w, item, ".scale");
        if (writes_input_scale(item))
            declare_beside(w, item, ".input_scale");
    }
    if (makes_rope_freqs(w->run))
        gguf_write_tensor(w->out, "rope_freqs.weight", DT_F32, 1, &half);
}

static nib_status sink_write(void *context, const void *bytes, size_t n, nib_error *err) {
    return gguf_write_data(context, bytes, n, err);
}

static nib_status write_item(gguf_writer *w, size_t i) {
    const recipe_item *item = &w->run->recipe.items[i];
    encode_job job = convert_job(w->run, i);
    size_t bytes = 0;
    float scale = convert_tensor_scale(item);
    NIB_TRY(encode_run(&job, (encode_sink){sink_write, w->out}, NULL, &w->run->errors[i], w->err));
    if (dtype_bytes(item->to, item->t->rows * item->t->cols, &bytes))
        w->run->bytes_after[i] = bytes + (writes_scale(item) ? sizeof scale : 0);
    if (writes_scale(item))
        NIB_TRY(gguf_write_data(w->out, &scale, sizeof scale, w->err));
    if (writes_input_scale(item))
        NIB_TRY(gguf_write_data(w->out, &item->t->input_scale, sizeof(float), w->err));
    return NIB_OK;
}

static nib_status write_all(gguf_writer *w) {
    NIB_TRY(write_keys(w));
    declare(w);
    NIB_TRY(gguf_write_begin(w->out, w->err));
    for (size_t i = 0; i < w->run->recipe.n; i++)
        NIB_TRY(write_item(w, i));
    for (int32_t i = 0; makes_rope_freqs(w->run) && i < w->run->in->hp.head_dim / 2; i++) {
        float divisor = (float)rope_llama3_divisor(&w->run->in->hp.rope, w->run->in->hp.head_dim, i);
        NIB_TRY(gguf_write_data(w->out, &divisor, sizeof divisor, w->err));
    }
    return NIB_OK;
}

nib_status write_gguf_model(convert_run *run, nib_error *err) {
    gguf_writer w = {.run = run, .err = err};
    NIB_TRY(gguf_write_open(&w.out, run->out_path, err));
    nib_status status = write_all(&w);
    if (status == NIB_OK)
        return gguf_write_commit(w.out, &run->file_bytes, err);
    gguf_write_abandon(w.out);
    return status;
}
