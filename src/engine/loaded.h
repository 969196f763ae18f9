/* SPDX-License-Identifier: Apache-2.0
 *
 * Loaded: an opened model and everything that belongs to it, without the engine's thread: for the engine
 * itself and for the program's internal clients (eval, bench, calibration), which drive model_forward
 * themselves.
 *
 * Everything here belongs to the thread that opened it, except the words and the chat template: these are
 * immutable, any thread may use them.
 */
#ifndef ENGINE_LOADED_H
#define ENGINE_LOADED_H

#include "model/model.h"
#include "text/chat.h"

/* Rows and pages for a client of its own kind; zero means what the engine takes from its nib_options. */
typedef struct loaded_needs {
    int max_rows;     /* of one batch; 0: max_num_batched_tokens */
    int max_out;      /* rows whose logits one batch may ask for; 0: max_num_seqs */
    bool no_model;    /* file, words and backend only */
    bool no_words;    /* neither tokenizer nor template, which the file may lack */
    bool own_weights; /* the files are not touched once it is open */
    int max_len;      /* of one sequence; 0: max_model_len */
    int n_kv_pages;   /* 0: as many as max_num_seqs sequences may want, within a budget of memory */
    bool is_shape;    /* PATH names a shape (store/shape_file.h): random weights, no words */
    backend *be;      /* what computes, closed with the model; NULL: as the options' device says */
} loaded_needs;

typedef struct loaded {
    model_file *file;
    uint64_t mark; /* of the file (model_file_mark) */
    tokenizer *words;
    chat *chat;             /* NULL: no template that can be used */
    nib_error chat_problem; /* why */
    backend *be;
    model *model;
    nib_options options; /* every default filled in */
    model_limits limits; /* what the model was opened with */
    int threads;
    bool stopped;      /* by the caller's progress */
    model_file *again; /* what the model was opened from the second time, or NULL */
} loaded;

/* OPTIONS and NEEDS may be NULL. max_model_len is at most what the model was made for. */
nib_status loaded_open(loaded **out, const char *path, const nib_options *options, const loaded_needs *needs,
                       nib_error *err);
void loaded_close(loaded *l); /* NULL is fine */

/* Gives back what computes and its memory; file and words stay. */
void loaded_unload(loaded *l);
/* And opens it again from PATH, which must hold the model that it held. Where that fails L stays unloaded. */
nib_status loaded_reload(loaded *l, const char *path, const loaded_needs *needs, nib_error *err);

/* What a KV page of every cache group of such a model takes together. */
size_t loaded_page_bytes(backend *be, const hparams *hp, nib_kv_dtype kv);

/* KV memory, in bytes, that many sequences share in the host's memory. */
#define LOADED_KV_BUDGET ((size_t)512 << 20)

/* Bytes for KV pages once weights and buffers lie in memory: of a backend's own memory, of which FREE_BEFORE
 * were free before them, what they have left of the share that OPTIONS allow, but for the hidden states that
 * the first request for an embedding will want; else LOADED_KV_BUDGET. */
size_t loaded_kv_budget(backend *be, const hparams *hp, const nib_options *options, size_t free_before);

/* Pages of each cache group for every sequence of OPTIONS (every default filled in) at full length, if BUDGET
 * holds them; else what it holds, and the scheduler makes sequences wait. There are always pages for one
 * whole sequence. A window group needs no more than the windows. */
void loaded_kv_pages(backend *be, const hparams *hp, const nib_options *options, size_t budget,
                     int n_pages[CACHE_MAX_GROUPS]);

#endif
