/* SPDX-License-Identifier: Apache-2.0
 *
 * The metadata of a GGUF output: the network's keys and the words. Private to the room; caller: write_gguf.
 */
#ifndef QUANT_GGUF_SIDE_H
#define QUANT_GGUF_SIDE_H

#include "quant/convert_run.h"
#include "store/gguf_write.h"

/* Keys of the network from hparams (llama.cpp's names and defaults). */
nib_status gguf_keys_write(convert_run *run, gguf_write *out, nib_error *err);

/* tokenizer.ggml.* and the chat template from tokenizer.json and tokenizer_config.json. */
nib_status gguf_words_write(convert_run *run, gguf_write *out, nib_error *err);

#endif
