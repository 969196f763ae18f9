/* SPDX-License-Identifier: Apache-2.0
 *
 * Hyper-parameters from strangers: config.json of a Hugging Face directory, or GGUF metadata, to hparams with
 * every default filled in and every number inside its bound.
 *
 * NIB_BAD_FILE: a value that cannot be (a NaN, a count out of bounds, heads that do not divide).
 * NIB_UNSUPPORTED: a sound description of a network that nibble does not compute; the words say what it is.
 */
#ifndef STORE_CONFIG_H
#define STORE_CONFIG_H

#include "base/json.h"
#include "nouns/hparams.h"
#include "store/gguf.h"

#define CONFIG_MAX_DIM      (1 << 20) /* hidden size, feed-forward size */
#define CONFIG_MAX_VOCAB    (1 << 22)
#define CONFIG_MAX_HEADS    1024
#define CONFIG_MAX_HEAD_DIM 1024
#define CONFIG_MAX_CONTEXT  (1 << 27)

/* ROOT is the parsed config.json; text_config is looked into. HP->tied follows tie_word_embeddings.
 * HP->family is set as soon as it is known, also when the rest is NIB_UNSUPPORTED. */
nib_status config_from_json(hparams *hp, const json_t *root, const char *where, nib_error *err);

/* VOCAB and TIED come from the tensors: rows of token_embd.weight, output.weight missing. */
nib_status config_from_gguf(hparams *hp, const gguf *g, int32_t vocab, bool tied, nib_error *err);

/* Bounds that hold between numbers: heads divide, heads times width. */
nib_status config_check(const hparams *hp, const char *where, nib_error *err);

/* How a checkpoint says it is quantized: hf_quant_config.json (MODELOPT) or config.json's
 * quantization_config. A method that nibble does not read is NIB_UNSUPPORTED. */
typedef enum config_quant {
    CONFIG_QUANT_NONE = 0,
    CONFIG_QUANT_MODELOPT,
    CONFIG_QUANT_COMPRESSED
} config_quant;
nib_status config_quantization(config_quant *out, const json_t *config, const json_t *hf_quant_config,
                               const char *where, nib_error *err);

#endif
