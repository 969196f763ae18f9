/* SPDX-License-Identifier: Apache-2.0
 *
 * Model file: a GGUF file (split or whole), a safetensors file or a Hugging Face directory, opened and
 * checked. Its tensors are presented in one form (nouns/tensor.h), whatever convention the file follows:
 * companions (weight_scale, weight_global_scale, .scale, ...) are folded into the tensor they belong to and
 * are not tensors of their own.
 *
 * Callers: model (binds slots), quant (streams tensors), cli inspect. Everything it hands out lives until
 * close.
 */
#ifndef STORE_MODEL_FILE_H
#define STORE_MODEL_FILE_H

#include "base/status.h"
#include "nouns/hparams.h"
#include "nouns/tensor.h"
#include "nouns/token_source.h"

typedef enum file_format { FORMAT_GGUF = 1, FORMAT_SAFETENSORS } file_format;

/* How the quantized tensors' scales are written. */
typedef enum quant_convention {
    QUANT_NONE = 0,
    QUANT_GGUF,
    QUANT_MODELOPT,
    QUANT_COMPRESSED_TENSORS
} quant_convention;

typedef struct model_file {
    const char *path; /* as given */
    file_format format;
    quant_convention convention;
    uint64_t file_bytes; /* of all files that hold tensors */
    int32_t n_files;     /* see model_file_part */

    bool has_network;         /* hp is there, and every tensor it asks for, in the shape it asks for */
    const char *network_note; /* why has_network is false, one sentence; "" when it is true */
    hparams hp;

    const char *const *notes; /* [n_notes] what of the file is read otherwise than it says, a sentence each */
    int n_notes;

    const tensor *tensors;
    size_t n_tensors;
    token_source words;

    /* [n_tensors] or NULL: what model_file_find answers in the place of tensors[i]; for a copy of the struct
     * whose maker replaces matrices one by one (tune). NULL entries are the file's own. */
    const tensor *const *stand_ins;

    struct gguf *gguf;              /* FORMAT_GGUF: the parsed file, for its metadata; else NULL */
    const char *directory;          /* FORMAT_SAFETENSORS from a directory: where side files lie; else NULL */
    struct model_file_owned *owned; /* maps, arenas: private to model_file.c */
} model_file;

nib_status model_file_open(model_file **out, const char *path, nib_error *err);
void model_file_close(model_file *f); /* NULL is fine */

/* NIB_OK, or NIB_UNSUPPORTED with network_note: for callers that compute the network. */
nib_status model_file_need_network(const model_file *f, nib_error *err);

/* The path of the I-th file that holds tensors, I below n_files: a part of a split file, a shard. */
const char *model_file_part(const model_file *f, int i);

/* The stored format of T for people: dtype_get's name, or that of a format nibble counts but cannot decode
 * ("Q8_K"), for which T->dtype is DT_NONE. */
const char *model_file_format_name(const model_file *f, const tensor *t);

/* The tensor at a place, the first in the file's order; NULL when the file has none. O(1). */
const tensor *model_file_find(const model_file *f, place at);

/* Differs where the files hold another model: other metadata, words or configuration, or tensors that begin
 * or end with other bytes. */
nib_status model_file_mark(const model_file *f, uint64_t *mark, nib_error *err);

/* Only the words of PATH: a model, or a directory that holds only a tokenizer. */
nib_status model_file_open_words(model_file **out, const char *path, nib_error *err);

/* The text of a chat template that the model calls NAME, of any model that is open; freed with mem_free.
 * *text NULL: it has none of that name. */
nib_status model_file_template(const model_file *f, const char *name, char **text, nib_error *err);

#endif
