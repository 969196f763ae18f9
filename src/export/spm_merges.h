/* SPDX-License-Identifier: Apache-2.0
 *
 * The merges of a SentencePiece vocabulary, which a GGUF file does not hold and tokenizer.json needs. Private
 * to the room; caller: hf_words.
 */
#ifndef EXPORT_SPM_MERGES_H
#define EXPORT_SPM_MERGES_H

#include "base/json.h"
#include "nouns/token_source.h"

/* Pairs [left, right], best first. W's pieces are UTF-8. *OUT is the caller's to free, NULL after a failure.
 */
nib_status spm_merges(json_t **out, const token_source *w, nib_error *err);

#endif
