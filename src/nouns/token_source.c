/* SPDX-License-Identifier: Apache-2.0
 *
 * What GGUF metadata mean where they say nothing: one answer for those who read words and those who write
 * them.
 */
#include "nouns/token_source.h"

const pretokenizer *token_source_pre(const token_source *s) {
    if (strview_is(s->model, "gemma4"))
        return pretokenizer_find(s->model);
    if (!strview_is(s->model, "gpt2"))
        return NULL;
    return pretokenizer_find(s->pre.n ? s->pre : strview_of("default"));
}

bool token_source_adds_bos(const token_source *s) {
    const pretokenizer *pre = token_source_pre(s);
    if (pre && pre->adds_bos && pre->characters)
        return true; /* llama.cpp overrides files that deny it */
    return s->add_bos >= 0 ? s->add_bos > 0 : strview_is(s->model, "llama") || (pre && pre->adds_bos);
}
