/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files behind model_file.h share: what an open model owns, and the steps of opening. Private to the
 * room; each step is in the file its prefix names.
 */
#ifndef STORE_MODEL_PARTS_H
#define STORE_MODEL_PARTS_H

#include "base/arena.h"
#include "base/json.h"
#include "base/mapfile.h"
#include "store/gguf.h"
#include "store/model_file.h"
#include "store/safetensors.h"

#define MODEL_MAX_FILES 1024 /* parts of a split file, shards of a directory */
#define MODEL_MAX_NOTES 16
#define MODEL_N_SIDE    4 /* tokenizer.json, tokenizer_config.json, chat_template.jinja, spare */

struct model_file_owned {
    arena arena;
    gguf *parts; /* [n_files] of a GGUF model */
    int n_parts;
    safetensors *shards; /* [n_files] of a safetensors model */
    int n_shards;
    mapfile side[MODEL_N_SIDE];
    json_t *config, *generation_config, *tokenizer_config; /* NULL: not there */
    const char *notes[MODEL_MAX_NOTES];
    const char **format_names; /* [n_tensors] */
    const tensor **index;      /* [index_mask + 1] hash of the tensors that have a place; NULL: free */
    size_t index_mask;
};

/* One stored tensor before companions are folded: GGUF and safetensors look the same from here. */
typedef struct model_raw {
    const char *name;
    const char *format_name;
    const char *where; /* its file */
    dtype dtype;
    int n_dims;
    size_t dims[TENSOR_MAX_DIMS]; /* outermost first */
    const void *data;
    size_t bytes;
    bool used; /* folded into another */
} model_raw;

/* Fills f->tensors from N raw tensors, in their order: folds companions, names slots. f->hp.family is set. A
 * network that cannot be computed is noted, not refused. */
nib_status model_fold(model_file *f, model_raw *raws, size_t n, nib_error *err);

/* Makes what model_file_find looks into, of f->tensors. */
nib_status model_index(model_file *f, nib_error *err);

/* The tensors of a network against its hyper-parameters. */
nib_status model_shape_check(model_file *f, nib_error *err);

nib_status model_gguf_open(model_file *f, bool words_only, nib_error *err);
nib_status model_gguf_words(model_file *f, nib_error *err);
nib_status model_hf_open_file(model_file *f, nib_error *err);
nib_status model_hf_open_directory(model_file *f, bool words_only, nib_error *err);
nib_status model_hf_words(model_file *f, nib_error *err);

/* Turns a status of NIB_UNSUPPORTED into a note: the file is sound, its network is not computed. */
nib_status model_note(model_file *f, nib_status status, const nib_error *problem, nib_error *err);
/* A note about something that is read all the same; past MODEL_MAX_NOTES they are dropped. */
nib_status model_add_note(model_file *f, nib_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* As model_note with words at hand. The first note stays. */
nib_status model_note_words(model_file *f, nib_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
