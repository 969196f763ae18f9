/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens everything a model needs, in order: file, words, backend, network.
 */
#include "engine/loaded.h"

#include <string.h>

#include "base/mem.h"
#include "engine/backends.h"
#include "engine/speculate.h"
#include "store/shape_file.h"

enum { MAX_NUM_SEQS = 1024, DEFAULT_WAITING = 1024, MAX_WAITING = 1 << 20, MAX_BATCHED_TOKENS = 65536 };

/* What no model makes right. As int: a caller may have put any number into an enum. */
static nib_status check_options(const nib_options *o, nib_error *err) {
    int activations = (int)o->activations, kv = (int)o->kv_cache;
    if (activations < NIB_ACTIVATIONS_AUTO || activations > NIB_ACTIVATIONS_FP4)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "activations is %d; expected a NIB_ACTIVATIONS_ value, 0 to %d", activations,
                        NIB_ACTIVATIONS_FP4);
    if (kv < NIB_KV_AUTO || kv > NIB_KV_FP32)
        return nib_fail(err, NIB_BAD_ARGUMENT, "kv_cache is %d; expected a NIB_KV_ value, 0 to %d", kv,
                        NIB_KV_FP32);
    if ((int)o->speculate < NIB_SPECULATE_OFF || (int)o->speculate > NIB_SPECULATE_DRAFT)
        return nib_fail(err, NIB_BAD_ARGUMENT, "speculate is %d; expected a NIB_SPECULATE_ value, 0 to %d",
                        (int)o->speculate, NIB_SPECULATE_DRAFT);
    if ((o->speculate == NIB_SPECULATE_DRAFT) != (o->draft != NULL))
        return nib_fail(err, NIB_BAD_ARGUMENT, "NIB_SPECULATE_DRAFT and the draft's path go together");
    if (o->cpu_features & ~NIB_CPU_ALL)
        return nib_fail(err, NIB_BAD_ARGUMENT, "cpu_features is 0x%x; expected NIB_CPU_ bits, at most 0x%x",
                        o->cpu_features, NIB_CPU_ALL);
    if (o->threads < 0 || o->max_model_len < 0 || o->max_num_seqs < 0 || o->max_num_batched_tokens < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "threads %d, max_model_len %d, max_num_seqs %d, max_num_batched_tokens %d: none may "
                        "be negative",
                        o->threads, o->max_model_len, o->max_num_seqs, o->max_num_batched_tokens);
    if (o->max_waiting < 0 || o->max_waiting > MAX_WAITING || o->prefill_beside < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "max_waiting is %d and prefill_beside %d; expected 0 to %d, and 0 or more",
                        o->max_waiting, o->prefill_beside, MAX_WAITING);
    if (o->max_num_seqs > MAX_NUM_SEQS || o->max_num_batched_tokens > MAX_BATCHED_TOKENS)
        return nib_fail(err, NIB_BAD_ARGUMENT, "max_num_seqs is at most %d, max_num_batched_tokens %d",
                        MAX_NUM_SEQS, MAX_BATCHED_TOKENS);
    if (!(o->gpu_memory_utilization >= 0 && o->gpu_memory_utilization <= 1))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "gpu_memory_utilization is %g; expected a share, 0 (the default) to 1",
                        (double)o->gpu_memory_utilization);
    return NIB_OK;
}

static nib_status check_length(const nib_options *o, const char *path, const hparams *hp, nib_error *err) {
    if (o->max_model_len > hp->context_len)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: max_model_len is %d, and the model was made for %d tokens", path,
                        o->max_model_len, hp->context_len);
    return NIB_OK;
}

/* Defaults depend on what computes. */
static nib_status fill_options(nib_options *o, const hparams *hp, const backend *be, nib_error *err) {
    const model_defaults *d = model_defaults_of(be->memory_free != NULL);
    if (o->max_model_len == 0)
        o->max_model_len = hp->context_len < d->max_model_len ? hp->context_len : d->max_model_len;
    if (o->max_num_seqs == 0)
        o->max_num_seqs = d->max_num_seqs;
    if (o->gpu_memory_utilization == 0)
        o->gpu_memory_utilization = (float)d->memory_utilization;
    if (o->max_waiting == 0)
        o->max_waiting = DEFAULT_WAITING;
    if (o->max_num_batched_tokens == 0)
        o->max_num_batched_tokens =
            o->max_num_seqs > d->max_num_batched_tokens ? o->max_num_seqs : d->max_num_batched_tokens;
    if (o->max_num_batched_tokens < o->max_num_seqs)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "max_num_batched_tokens is %d; a step needs a row for each of %d sequences",
                        o->max_num_batched_tokens, o->max_num_seqs);
    if (o->kv_cache == NIB_KV_AUTO)
        o->kv_cache = d->kv_dtype;
    o->activations = backends_activations(be);
    return NIB_OK;
}

size_t loaded_page_bytes(backend *be, const hparams *hp, nib_kv_dtype kv) {
    cache_shape groups[CACHE_MAX_GROUPS];
    size_t bytes = 0;
    for (int i = 0, n = model_groups(hp, kv, groups); i < n; i++)
        bytes += be->cache_page_bytes(be, &groups[i]);
    return bytes;
}

/* Pages of a window group that MAX_NUM_SEQS sequences hold at most: their windows, and a step's rows. */
static size_t window_pages(const cache_group *g, const nib_options *o) {
    size_t window = ((size_t)g->window + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS + 2;
    return window * (size_t)o->max_num_seqs +
           ((size_t)o->max_num_batched_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

size_t loaded_kv_budget(backend *be, const hparams *hp, const nib_options *o, size_t free_before) {
    if (!be->memory_free)
        return LOADED_KV_BUDGET;
    size_t left = be->memory_free(be), taken = free_before > left ? free_before - left : 0;
    taken += (size_t)o->max_num_batched_tokens * (size_t)hp->dim * sizeof(float); /* of hidden states */
    double share = (double)o->gpu_memory_utilization * (double)free_before;
    return share > (double)taken ? (size_t)share - taken : 0;
}

void loaded_kv_pages(backend *be, const hparams *hp, const nib_options *o, size_t budget,
                     int n_pages[CACHE_MAX_GROUPS]) {
    cache_shape shapes[CACHE_MAX_GROUPS];
    int n_groups = model_groups(hp, o->kv_cache, shapes);
    size_t of_one = ((size_t)o->max_model_len + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    size_t n = of_one * (size_t)o->max_num_seqs;
    size_t per_page = 0,
           windows = 0; /* bytes of one page of groups that grow with N, and of those that do not */
    for (int g = 0; g < n_groups; g++) {
        size_t bytes = be->cache_page_bytes(be, &shapes[g]), most = window_pages(&shapes[g].group, o);
        if (shapes[g].group.kind == CACHE_WINDOW && most < n)
            windows += most * bytes;
        else
            per_page += bytes;
    }
    if (per_page > 0 && n * per_page + windows > budget)
        n = windows < budget ? (budget - windows) / per_page : 0;
    n = n > of_one ? n : of_one;
    for (int g = 0; g < CACHE_MAX_GROUPS; g++) {
        bool is_window = g < n_groups && shapes[g].group.kind == CACHE_WINDOW;
        size_t most = is_window ? window_pages(&shapes[g].group, o) : n;
        n_pages[g] = (int)(most < n ? most : n);
    }
}

/* nib_options' callback as the library's own. */
static void report(void *context, const char *what, uint64_t done, uint64_t total) {
    loaded *l = context;
    l->stopped = l->stopped || !l->options.progress(l->options.progress_context, what, done, total);
}

static bool stopped(void *context) {
    return ((const loaded *)context)->stopped;
}

static nib_status open_network(loaded *l, model_file *file, const loaded_needs *needs, nib_error *err) {
    size_t free_before = l->be->memory_free ? l->be->memory_free(l->be) : 0;
    progress watch = {.context = l};
    if (l->options.progress)
        watch = (progress){report, stopped, l};
    l->limits = (model_limits){
        .max_rows = needs->max_rows > 0 ? needs->max_rows : l->options.max_num_batched_tokens,
        .max_out = needs->max_out > 0 ? needs->max_out : l->options.max_num_seqs,
        .kv_dtype = l->options.kv_cache,
        .max_len = needs->max_len > 0 ? needs->max_len : l->options.max_model_len,
    };
    if (needs->max_out == 0 && l->options.speculate) { /* a guess wants its logits too */
        const int most = l->limits.max_out + SPECULATE_ROWS;
        l->limits.max_out = most < l->limits.max_rows ? most : l->limits.max_rows;
    }
    NIB_TRY(model_open(&l->model, file, l->be, &l->limits, &watch, err));
    if (needs->n_kv_pages > 0)
        memcpy(l->limits.n_pages, (int[CACHE_MAX_GROUPS])CACHE_EVERY_GROUP(needs->n_kv_pages),
               sizeof l->limits.n_pages);
    else
        loaded_kv_pages(l->be, &file->hp, &l->options,
                        loaded_kv_budget(l->be, &file->hp, &l->options, free_before), l->limits.n_pages);
    return model_open_cache(l->model, l->limits.n_pages, &watch, err);
}

static nib_status open_words(loaded *l, nib_error *err) {
    NIB_TRY(tokenizer_open(&l->words, &l->file->words, err));
    if (chat_open_model(&l->chat, &l->file->words, l->words, (strview){0}, (strview){0}, &l->chat_problem) ==
        NIB_NO_MEMORY)
        return nib_fail(err, NIB_NO_MEMORY, "%s", l->chat_problem.text);
    return NIB_OK;
}

/* A shape's weights are made, not mapped: a size that the host's memory does not hold would end other
 * programs. A backend with memory of its own says so itself. */
static nib_status check_shape_fits(const loaded *l, const loaded_needs *needs, nib_error *err) {
    const size_t pages =
                     loaded_page_bytes(l->be, &l->file->hp, l->options.kv_cache) * (size_t)needs->n_kv_pages,
                 wanted = (size_t)l->file->file_bytes + pages, there = mem_available();
    if (l->be->memory_free || wanted <= there)
        return NIB_OK;
    return nib_fail(err, NIB_NO_MEMORY,
                    "%s: takes %.1f GB of memory (weights %.1f, KV cache %.1f), and %.1f GB are available",
                    l->file->path, (double)wanted / 1e9, (double)l->file->file_bytes / 1e9,
                    (double)pages / 1e9, (double)there / 1e9);
}

static nib_status open_parts(loaded *l, const char *path, const loaded_needs *needs, nib_error *err) {
    NIB_TRY(check_options(&l->options, err));
    if (needs->is_shape)
        NIB_TRY(shape_file_open(&l->file, path, err));
    else
        NIB_TRY(model_file_open(&l->file, path, err));
    NIB_TRY(model_file_need_network(l->file, err));
    if (!needs->is_shape && !needs->no_model)
        NIB_TRY(model_file_mark(l->file, &l->mark, err));
    if (l->options.max_model_len == INT32_MAX)
        l->options.max_model_len = l->file->hp.context_len;
    NIB_TRY(check_length(&l->options, path, &l->file->hp, err));
    if (!needs->is_shape && !needs->no_words)
        NIB_TRY(open_words(l, err));
    if (!l->be)
        NIB_TRY(backends_open(&l->be, &l->options, &l->threads, err));
    NIB_TRY(fill_options(&l->options, &l->file->hp, l->be, err));
    l->be->owns_weights = needs->own_weights;
    if (needs->is_shape)
        NIB_TRY(check_shape_fits(l, needs, err));
    return needs->no_model ? NIB_OK : open_network(l, l->file, needs, err);
}

nib_status loaded_open(loaded **out, const char *path, const nib_options *options, const loaded_needs *needs,
                       nib_error *err) {
    static const loaded_needs no_needs;
    *out = NULL;
    needs = needs ? needs : &no_needs;
    loaded *l = mem_array(1, sizeof *l);
    if (!l) {
        if (needs->be)
            needs->be->close(needs->be);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to open it", path);
    }
    if (options)
        l->options = *options;
    l->be = needs->be; /* closed with L, whatever fails */
    nib_status status = open_parts(l, path, needs, err);
    if (status != NIB_OK) {
        loaded_close(l);
        return status;
    }
    *out = l;
    return NIB_OK;
}

void loaded_unload(loaded *l) {
    model_close(l->model);
    if (l->be)
        l->be->close(l->be);
    model_file_close(l->again);
    l->model = NULL;
    l->be = NULL;
    l->again = NULL;
}

static nib_status reload(loaded *l, const char *path, const loaded_needs *needs, nib_error *err) {
    uint64_t mark;
    NIB_TRY(model_file_open(&l->again, path, err));
    NIB_TRY(model_file_need_network(l->again, err));
    NIB_TRY(model_file_mark(l->again, &mark, err));
    if (mark != l->mark) /* requests and answers are about the model that was there */
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: another model than the one that was opened; start anew to use it", path);
    NIB_TRY(backends_open(&l->be, &l->options, &l->threads, err));
    l->be->owns_weights = needs->own_weights;
    return open_network(l, l->again, needs, err);
}

nib_status loaded_reload(loaded *l, const char *path, const loaded_needs *needs, nib_error *err) {
    const nib_status status = reload(l, path, needs, err);
    if (status != NIB_OK)
        loaded_unload(l);
    return status;
}

void loaded_close(loaded *l) {
    if (!l)
        return;
    loaded_unload(l);
    chat_close(l->chat);
    if (l->words)
        tokenizer_close(l->words);
    model_file_close(l->file);
    mem_free(l);
}
