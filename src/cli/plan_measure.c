/* SPDX-License-Identifier: Apache-2.0
 *
 * See plan_measure.h.
 */
#include "cli/plan_measure.h"

#include <math.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/scratch.h"
#include "cli/tuned.h"
#include "convert/recipe.h"
#include "engine/loaded.h"
#include "eval/calibrate.h"

/* What is computed for every part: half of these tokens are scored. */
#define WINDOW     256
#define WINDOWS    3
#define TEXT_BYTES ((size_t)65536) /* they rarely take more of a text; if so, a longer part is taken */
#define BUILT_IN   "the built-in text"

/* By which a .gguf file may grow to begin the next tensor at a whole number of them. */
#define TENSOR_BYTES 32

/* The windows of no more of the text than they take. */
static nib_status cut_text(eval_text *out, const tokenizer *words, const char *text, size_t bytes,
                           int n_windows, const char *where, nib_error *err) {
    for (size_t room = TEXT_BYTES;; room *= 4) {
        size_t n = room < bytes ? room : bytes;
        while (n > 0 && n < bytes && ((unsigned char)text[n] & 0xC0) == 0x80)
            n--;
        const nib_status status = eval_text_open(out, words, text, n, WINDOW, n_windows, where, err);
        if (n == bytes || (status == NIB_OK && out->n_chunks == n_windows))
            return status;
        if (status == NIB_OK)
            eval_text_close(out);
        else if (status != NIB_BAD_ARGUMENT) /* that says that the text is short */
            return status;
    }
}

static nib_status read_chats(eval_text *out, const loaded *l, const char *path, const char *name,
                             int n_windows, nib_error *err) {
    calib_set set = {0};
    const size_t wanted = (size_t)n_windows * WINDOW;
    const tuned_text from = {.path = path, .name = name, .max_tokens = wanted, .chat_tokens = wanted};
    nib_status status = tuned_read_set(&set, l, &from, err);
    const size_t n = set.n_windows ? set.starts[set.n_windows] : 0;
    if (status == NIB_OK && n < PLAN_MIN_TOKENS)
        status =
            nib_fail(err, NIB_BAD_ARGUMENT, "%s: the conversations give %zu tokens; a plan takes %d at least",
                     name, n, PLAN_MIN_TOKENS);
    if (status == NIB_OK) {
        *out = (eval_text){.tokens = set.ids,
                           .n_ctx = WINDOW,
                           .n_chunks = (int)((n < wanted ? n : wanted) / WINDOW),
                           .bos = tokenizer_adds_bos(l->words) ? tokenizer_bos(l->words) : -1,
                           .n_text_tokens = n};
        set.ids = NULL;
    }
    calib_set_free(&set);
    return status;
}

/* What is computed: the first tokens of the calibration text. */
static nib_status open_windows(eval_text *out, const loaded *l, const plan_options *o, nib_error *err) {
    const size_t whole = o->max_tokens / WINDOW;
    const int n = whole < WINDOWS ? (int)whole : WINDOWS;
    mapfile map = {0};
    if (!o->calib)
        return cut_text(out, l->words, calibration_text, calibration_text_bytes, n, BUILT_IN, err);
    if (tuned_is_chats(o->calib))
        return read_chats(out, l, o->calib, o->calib_name, n, err);
    NIB_TRY(tuned_open_text(&map, o->calib, err));
    const nib_status status = cut_text(out, l->words, (const char *)map.bytes, map.size, n, o->calib, err);
    mapfile_close(&map);
    return status;
}

static nib_status measure(plan *p, const loaded *l, const plan_options *o, nib_error *err) {
    eval_text windows;
    scratch kept = {0};
    char *base = NULL;
    NIB_TRY(open_windows(&windows, l, o, err));
    p->text = o->calib ? o->calib_name : BUILT_IN;
    p->n_tokens = windows.n_chunks * windows.n_ctx;
    nib_status status = scratch_open(&kept, o->out, err);
    if (status == NIB_OK && !(base = scratch_path(&kept, "base.kld")))
        status = nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", o->out);
    if (status == NIB_OK) {
        const sensitivity_options s = {.heed = o->heed && o->heed->mean_squares ? o->heed : NULL,
                                       .text = &windows,
                                       .base = base,
                                       .apart = o->apart,
                                       .to_gguf = o->convert->out == OUT_GGUF,
                                       .eval = {.threads = o->convert->threads,
                                                .progress = ui_bar_progress(o->bar),
                                                .stop = &cli_interrupted}};
        status = sensitivity_measure(&p->found, l->model, l->file, &s, err);
    }
    mem_free(base);
    scratch_close(&kept);
    eval_text_close(&windows);
    ui_bar_clear(o->bar);
    return status;
}

nib_status plan_measure(plan *out, const model_file *file, const plan_options *o, nib_error *err) {
    const model_limits limits = eval_limits(WINDOW, NIB_KV_FP32);
    const nib_options compute = {
        .threads = o->convert->threads, .activations = NIB_ACTIVATIONS_F32, .kv_cache = NIB_KV_FP32};
    const loaded_needs needs = {.max_rows = limits.max_rows,
                                .max_out = limits.max_out,
                                .max_len = limits.n_pages[0] * KV_PAGE_TOKENS,
                                .n_kv_pages = limits.n_pages[0]};
    loaded *l = NULL;
    nib_status status = loaded_open(&l, o->in, &compute, &needs, err);
    if (status == NIB_OK)
        status = measure(out, l, o, err);
    for (size_t i = 0; i < out->found.n; i++) /* of a file opened again to those of FILE */
        for (int j = 0; j < out->found.parts[i].n; j++)
            out->found.parts[i].matrices[j] =
                &file->tensors[out->found.parts[i].matrices[j] - l->file->tensors];
    loaded_close(l);
    return status;
}

/* Bits that no plan gives: above NVFP4's, with all linear layers in BF16 or as they are stored. */
static double most_bits(const model_file *file, const plan_options *o) {
    const bool keeps = o->convert->out == OUT_GGUF && file->format == FORMAT_GGUF;
    double bits = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const tensor *t = &file->tensors[i];
        const double n = (double)t->rows * (double)t->cols, stored = 8 * (double)tensor_total_bytes(t);
        if (place_is_linear(t->place.slot) && t->place.expert == PLACE_NO_EXPERT)
            bits += (keeps && stored < 16 * n ? stored : 16 * n) - PLAN_MIN_BITS * n;
    }
    return bits;
}

nib_status plan_measure_spare(double *bits, const model_file *file, const plan_options *o, nib_error *err) {
    convert_options plain = *o->convert;
    convert_report written = {0};
    scratch kept;
    size_t n_linear = 0;
    plain.method = QM_RTN;
    plain.choose = NULL;
    plain.fp8_exact = false;
    plain.progress = ui_bar_progress(o->bar);
    plain.interrupted = &cli_interrupted;
    NIB_TRY(scratch_open(&kept, o->out, err));
    char *trial = scratch_path(&kept, "trial");
    const nib_status status = trial ? convert(file, trial, &plain, &written, err)
                                    : nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", o->out);
    mem_free(trial);
    scratch_close(&kept);
    ui_bar_clear(o->bar);
    NIB_TRY(status);
    if (written.bytes_after > o->size_bytes)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: takes %llu bytes with all linear layers in NVFP4; --size is %llu", o->out,
                        (unsigned long long)written.bytes_after, (unsigned long long)o->size_bytes);
    for (size_t i = 0; i < file->n_tensors && plain.out == OUT_GGUF; i++)
        n_linear += place_is_linear(file->tensors[i].place.slot);
    *bits = 8 * fmax(0, (double)(o->size_bytes - written.bytes_after) - TENSOR_BYTES * (double)n_linear);
    if (*bits >= most_bits(file, o))
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "%s: has room for all linear layers in BF16, or as they are stored, within --size %llu: there "
            "is nothing to choose; take --format bf16 or the source",
            o->out, (unsigned long long)o->size_bytes);
    return NIB_OK;
}
