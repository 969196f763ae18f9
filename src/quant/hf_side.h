/* SPDX-License-Identifier: Apache-2.0
 *
 * The small files of a Hugging Face model directory: config.json, hf_quant_config.json, the mark, the
 * tokenizer's.
 * Private to the room; caller: write_hf.
 */
#ifndef QUANT_HF_SIDE_H
#define QUANT_HF_SIDE_H

#include "base/json.h"
#include "quant/convert_run.h"

/* Writes ROOT, indented, as DIRECTORY/NAME. */
nib_status hf_side_write_json(const char *directory, const char *name, const json_t *root, nib_error *err);
nib_status hf_side_write_text(const char *directory, const char *name, const void *bytes, size_t n,
                              nib_error *err);

/* Is NAME one of the files that a written directory may hold? */
bool hf_side_is_ours(const char *name);
/* The file that says that nibble wrote the directory. No word in config.json: programs that load a model and
 * save it elsewhere carry such words along. */
#define HF_SIDE_MARK "nibble.json"
/* The I-th of their names; NULL after the last. */
const char *hf_side_name(size_t i);

/* The config.json of a source in safetensors, freed with json_decref: a directory is not written without. */
nib_status hf_config_read(const model_file *in, json_t **out, nib_error *err);
/* config.json (the source's, or made from its hparams) with quantization_config, the mark, and for ModelOpt
 * hf_quant_config.json. */
nib_status hf_config_write(convert_run *run, const char *directory, nib_error *err);

/* Tokenizer files: copied from a directory, made from GGUF metadata. */
nib_status hf_words_write(convert_run *run, const char *directory, nib_error *err);

#endif
