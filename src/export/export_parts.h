/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files behind export.h share: the writers, and the small files and metadata beside the tensors.
 * Private to the room; each function is in the file its prefix names.
 */
#ifndef EXPORT_EXPORT_PARTS_H
#define EXPORT_EXPORT_PARTS_H

#include "export/export.h"
#include "export/gguf_write.h"

nib_status export_hf(export_plan *plan, nib_error *err);
nib_status export_gguf(export_plan *plan, nib_error *err);

/* ---- a directory's small files ---- */

/* Writes ROOT, indented, as DIRECTORY/NAME. */
nib_status hf_side_write_json(const char *directory, const char *name, const json_t *root, nib_error *err);
nib_status hf_side_write_text(const char *directory, const char *name, const void *bytes, size_t n,
                              nib_error *err);

/* Is NAME one of the files that a written directory may hold? */
bool hf_side_is_ours(const char *name);
/* The file that says that nibble wrote the directory. No word in config.json: programs that load a model and
 * save it elsewhere carry such words along. */
#define HF_SIDE_MARK "nibble.json"

/* The config.json of a source in safetensors, freed with json_decref: a directory is not written without. */
nib_status hf_config_read(const model_file *in, json_t **out, nib_error *err);
/* config.json (the source's, or made from its hparams) with quantization_config, the mark, and for ModelOpt
 * hf_quant_config.json. */
nib_status hf_config_write(const export_plan *plan, const char *directory, nib_error *err);

/* Tokenizer files: copied from a directory, made from GGUF metadata. */
nib_status hf_words_write(const export_plan *plan, const char *directory, nib_error *err);

/* ---- a GGUF file's metadata ---- */

/* Keys of the network from hparams (llama.cpp's names and defaults). */
nib_status gguf_keys_write(const export_plan *plan, gguf_write *out, nib_error *err);

/* tokenizer.ggml.* and the chat template from tokenizer.json and tokenizer_config.json. */
nib_status gguf_words_write(const export_plan *plan, gguf_write *out, nib_error *err);

#endif
