/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine's life, and what it says of itself.
 */
#include "engine/engine.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "engine/sized.h"
#include "nouns/family.h"
#include "store/gguf.h"

/* ---- what is known once it is open ---- */

/* The model's own name where a GGUF file gives one; else the last part of its path. */
static nib_status name_model(nib_engine *e, nib_error *err) {
    const char *path = e->path;
    strview own = {NULL, 0};
    bool found = false;
    if (e->l->file->gguf && gguf_get_text(e->l->file->gguf, "general.name", &own, &found, NULL) != NIB_OK)
        found = false;
    if (found && own.n > 0 && utf8_valid_prefix(own.p, own.n) == own.n && !memchr(own.p, 0, own.n)) {
        e->name = mem_copy_text(own.p, own.n);
        return e->name ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", path);
    }
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    e->name = mem_copy_text(path + begin, end - begin);
    return e->name ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", path);
}

static nib_status list_ends(nib_engine *e, nib_error *err) {
    const tokenizer *words = e->l->words;
    size_t vocab = tokenizer_vocab(words);
    for (int pass = 0; pass < 2; pass++) {
        e->n_ends = 0;
        for (size_t id = 0; id < vocab; id++) {
            size_t piece = tokenizer_piece(words, (int32_t)id, true).n; /* control tokens too */
            e->longest_piece = piece > e->longest_piece ? piece : e->longest_piece;
            if (!tokenizer_is_end(words, (int32_t)id) || id >= (size_t)e->l->file->hp.vocab)
                continue;
            if (e->ends)
                e->ends[e->n_ends] = (int32_t)id;
            e->n_ends++;
        }
        if (!e->ends)
            e->ends = mem_array(e->n_ends + 1, sizeof *e->ends);
        if (!e->ends)
            return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", e->path);
    }
    return NIB_OK;
}

/* While the engine sleeps there is nothing to ask. */
static nib_status fill_info(nib_engine *e, nib_error *err) {
    const loaded *l = e->l;
    e->compute_path = mem_copy_text(l->be->path, strlen(l->be->path));
    if (!e->compute_path)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", e->path);
    e->info = (nib_info){
        .name = e->name,
        .family = family_name(l->file->hp.family),
        .compute_path = e->compute_path,
        .compute_mode = compute_mode_name(l->be->mode),
        .row_bits_fixed = l->be->row_bits_fixed,
        .weight_bytes = model_weight_bytes(l->model),
        .kv_bytes = model_kv_bytes(l->model),
        .max_model_len = l->options.max_model_len,
        .model_len = l->file->hp.context_len,
        .vocab_size = l->file->hp.vocab,
        .threads = l->threads,
        .bos = tokenizer_bos(l->words),
        .ends = e->ends,
        .n_ends = e->n_ends,
        .adds_bos = tokenizer_adds_bos(l->words),
        .has_chat_template = l->chat != NULL,
        .chat_template_note = !l->chat && l->file->words.chat_template.n ? l->chat_problem.text : "",
        .max_num_seqs = l->options.max_num_seqs,
        .embedding_size = l->file->hp.dim,
        .pooling = e->pooling,
    };
    return NIB_OK;
}

/* ---- life ---- */

static nib_status open_parts(nib_engine *e, nib_error *err) {
    NIB_TRY(loaded_open(&e->l, e->path, &e->options, &e->needs, err));
    NIB_TRY(name_model(e, err));
    NIB_TRY(list_ends(e, err));
    e->pooling = pooling_of_files(e->l->file);
    NIB_TRY(loop_open(e, err));
    e->l->options.progress = NULL; /* the caller's, until opened */
    return fill_info(e, err);
}

static void close_parts(nib_engine *e) {
    loop_close(e);
    mem_free(e->name);
    mem_free(e->ends);
    mem_free(e->compute_path);
    loaded_close(e->l);
}

static void *engine_main(void *argument) {
    nib_engine *e = argument;
    nib_error err = {""};
    nib_status status = open_parts(e, &err);
    pthread_mutex_lock(&e->lock);
    e->open_status = status;
    e->open_error = err;
    e->opened = true;
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
    if (status == NIB_OK)
        loop_run(e);
    close_parts(e);
    return NULL;
}

/* The engine's thread takes no signals (Ctrl-C belongs to the program) but those of its own faults, which a
 * program may want to hear of. */
static int start_thread(nib_engine *e) {
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&e->thread, NULL, engine_main, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

static void engine_free(nib_engine *e) {
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    pthread_cond_destroy(&e->rested);
    trie_release(e->trie);
    mem_free(e->path);
    mem_free(e->device);
    mem_free(e->draft_path);
    mem_free(e);
}

static bool keep_text(char **copy, const char **text) {
    if (*text)
        *text = *copy = mem_copy_text(*text, strlen(*text));
    return *text == *copy;
}

/* The caller's texts are needed again when the engine wakes up. */
static bool keep_texts(nib_engine *e, const char *path) {
    return keep_text(&e->path, &path) && path && keep_text(&e->device, &e->options.device) &&
           keep_text(&e->draft_path, &e->options.draft);
}

nib_status engine_open(nib_engine **out, const char *path, const nib_options *options,
                       const loaded_needs *needs, nib_error *err) {
    *out = NULL;
    nib_engine *e = mem_array(1, sizeof *e);
    if (!e)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", path);
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t attributes; /* waits must not jump with the wall clock */
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_cond_init(&e->rested, NULL);
    e->submitted_end = &e->submitted;
    if (options)
        e->options = *options;
    if (!keep_texts(e, path)) {
        engine_free(e);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", path);
    }
    if (needs)
        e->needs = *needs;
    e->needs.own_weights = true; /* whatever becomes of the files must not end the program */
    int failed = start_thread(e);
    if (failed) {
        engine_free(e);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no thread for an engine: %s", path, strerror(failed));
    }
    pthread_mutex_lock(&e->lock);
    while (!e->opened)
        pthread_cond_wait(&e->wake, &e->lock);
    nib_status status = e->open_status;
    if (status != NIB_OK && err)
        *err = e->open_error;
    pthread_mutex_unlock(&e->lock);
    if (status != NIB_OK) {
        pthread_join(e->thread, NULL);
        engine_free(e);
        return status;
    }
    *out = e;
    return NIB_OK;
}

nib_status nib_open(nib_engine **out, const char *path, const nib_options *options, nib_error *err) {
    nib_options o;
    if (out)
        *out = NULL;
    if (!out || !path)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_open: the path or the place for the engine is NULL");
    NIB_TRY(sized_read(&o, sizeof o, options, "nib_options", err));
    return engine_open(out, path, &o, NULL, err);
}

void nib_close(nib_engine *e) {
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    engine_free(e);
}

/* ---- facts ---- */

nib_status nib_get_info(const nib_engine *e, nib_info *info, nib_error *err) {
    if (!e)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_get_info: the engine is NULL");
    return sized_write(info, &e->info, sizeof e->info, "nib_info", err);
}

nib_status nib_get_stats(nib_engine *e, nib_stats *stats, nib_error *err) {
    if (!e)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_get_stats: the engine is NULL");
    pthread_mutex_lock(&e->lock);
    nib_stats all = e->stats;
    all.waiting = e->n_waiting;
    pthread_mutex_unlock(&e->lock);
    return sized_write(stats, &all, sizeof all, "nib_stats", err);
}

nib_status nib_reset_prefix_cache(nib_engine *e, nib_error *err) {
    if (!e)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_reset_prefix_cache: the engine is NULL");
    pthread_mutex_lock(&e->lock);
    e->forget_prefixes = true;
    pthread_mutex_unlock(&e->lock);
    return NIB_OK;
}
