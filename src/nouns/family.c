/* SPDX-License-Identifier: Apache-2.0 */
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
