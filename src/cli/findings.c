/* SPDX-License-Identifier: Apache-2.0
 *
 * See findings.h.
 */
#include "cli/findings.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cpu/cpu.h"
#include "engine/backends.h"
#include "engine/loaded.h"
#include "store/gguf.h"

static bool is_quantized(const tensor *t) {
    return t->dtype == DT_NONE || dtype_is_quantized(t->dtype);
}

static findings_group *group_of(findings *r, const tensor *t, const char *format) {
    for (size_t i = 0; i < r->n_groups; i++)
        if (r->groups[i].slot == t->place.slot && strcmp(r->groups[i].format, format) == 0 &&
            r->groups[i].rank == t->branch.rank)
            return &r->groups[i];
    findings_group *grown = mem_resize(r->groups, r->n_groups + 1, sizeof *grown);
    if (!grown)
        return NULL;
    r->groups = grown;
    grown[r->n_groups] = (findings_group){
        .slot = t->place.slot, .format = format, .rank = t->branch.rank, .quantized = is_quantized(t)};
    return &grown[r->n_groups++];
}

static int group_compare(const void *a, const void *b) {
    const findings_group *x = a, *y = b;
    int sx = x->slot == SLOT_NONE ? SLOT_COUNT : (int)x->slot,
        sy = y->slot == SLOT_NONE ? SLOT_COUNT : (int)y->slot;
    const int by_format = strcmp(x->format, y->format);
    if (sx != sy || by_format)
        return sx != sy ? sx - sy : by_format;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

nib_status findings_count(findings *r, const model_file *f, nib_error *err) {
    *r = (findings){.f = f};
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        findings_group *g = group_of(r, t, model_file_format_name(f, t));
        if (!g)
            return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a summary", f->path);
        uint64_t elements = (uint64_t)t->rows * t->cols, bytes = tensor_total_bytes(t);
        g->n_tensors++;
        g->elements += elements;
        g->bytes += bytes;
        r->elements += elements;
        r->bytes += bytes;
        r->quant_elements += g->quantized ? elements : 0;
        r->quant_bytes += g->quantized ? bytes : 0;
        r->linear_elements += place_is_linear(t->place.slot) ? elements : 0;
        r->linear_bytes += place_is_linear(t->place.slot) ? bytes : 0;
        r->run_bytes += t->place.slot != SLOT_NONE ? bytes : 0;
    }
    if (r->n_groups > 1)
        qsort(r->groups, r->n_groups, sizeof *r->groups, group_compare);
    return NIB_OK;
}

static nib_status open_chat(findings *r, nib_error *err) {
    const strview own = {0};
    const nib_status status = chat_open_model(&r->chat, &r->f->words, r->words, own, own, &r->chat_problem);
    return status == NIB_NO_MEMORY ? nib_fail(err, status, "%s", r->chat_problem.text) : NIB_OK;
}

static nib_status open_words(findings *r, nib_error *err) {
    const token_source *source = &r->f->words;
    if (source->n_tokens == 0 && source->json.n == 0)
        return NIB_OK;
    nib_status status = tokenizer_open(&r->words, source, &r->words_problem);
    if (status != NIB_OK && status != NIB_UNSUPPORTED)
        return nib_fail(err, status, "%s", r->words_problem.text);
    if (status == NIB_UNSUPPORTED)
        r->words = NULL;
    else if (source->chat_template.n)
        NIB_TRY(open_chat(r, err));
    return NIB_OK;
}

double findings_bits(uint64_t bytes, uint64_t elements) {
    return elements ? 8.0 * (double)bytes / (double)elements : 0;
}

/* As this machine computes when no flag says otherwise. */
static nib_status look_here(findings *r, nib_error *err) {
    backend *be;
    if (!r->f->has_network)
        return NIB_OK;
    NIB_TRY(cpu_open(&be, &(cpu_options){.threads = 1}, err));
    r->kv_bf16 = loaded_page_bytes(be, &r->f->hp, NIB_KV_BF16) / KV_PAGE_TOKENS;
    r->kv_fp8 = loaded_page_bytes(be, &r->f->hp, NIB_KV_FP8) / KV_PAGE_TOKENS;
    be->close(be);
    nib_error problem; /* a GPU that is taken is no reason not to tell what a file holds */
    if (backends_open(&be, &(nib_options){.size = sizeof(nib_options)}, &(int){0}, &problem) != NIB_OK)
        return NIB_OK;
    memcpy(r->computed, be->path, sizeof r->computed);
    be->close(be);
    return NIB_OK;
}

quote_text findings_name(const model_file *f) {
    strview name = {"", 0};
    bool found;
    if (f->gguf && gguf_get_text(f->gguf, "general.name", &name, &found, NULL) != NIB_OK)
        name = (strview){"", 0};
    return quote_make(name);
}

size_t findings_extent(const tensor *t, int d) {
    const bool pairs = t->dtype == DT_NVFP4 || t->dtype == DT_MXFP4;
    return pairs && d + 1 == t->n_dims ? t->cols : t->dims[d];
}

nib_status findings_open(findings *out, const model_file *f, nib_error *err) {
    NIB_TRY(findings_count(out, f, err));
    NIB_TRY(open_words(out, err));
    return look_here(out, err);
}

void findings_close(findings *r) {
    chat_close(r->chat);
    tokenizer_close(r->words);
    mem_free(r->groups);
}
