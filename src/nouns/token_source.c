/* SPDX-License-Identifier: Apache-2.0
 *
 * What GGUF metadata mean where they say nothing: one answer for those who read words and those who write
 * them.
 */
#include "nouns/token_source.h"

bool token_source_is_llama3(const token_source *s) {
    return strview_is(s->model, "gpt2") && (strview_is(s->pre, "llama-bpe") || strview_is(s->pre, "llama3") ||
                                            strview_is(s->pre, "llama-v3"));
}

bool token_source_adds_bos(const token_source *s) {
    return s->add_bos >= 0 ? s->add_bos > 0 : strview_is(s->model, "llama") || token_source_is_llama3(s);
}
