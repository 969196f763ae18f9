/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of the families, as nibble writes them: in inspect's report, in sentences, and as
 * general.architecture of a GGUF file (gguf_keys). Reading a file's own spellings is config's.
 */
#include "nouns/hparams.h"

const char *family_name(family f) {
    switch (f) {
    case FAMILY_LLAMA:
        return "llama";
    case FAMILY_QWEN3:
        return "qwen3";
    case FAMILY_GEMMA3:
        return "gemma3";
    case FAMILY_NONE:
        break;
    }
    return "none";
}
