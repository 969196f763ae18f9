/* SPDX-License-Identifier: Apache-2.0
 *
 * How a model's files say that its embeddings are made: GGUF's ARCHITECTURE.pooling_type, or the pooling
 * module of sentence-transformers. A way that is not here (a first token, a rank, several at once) is NONE.
 */
#include <stdio.h>
#include <string.h>

#include "engine/pooling.h"
#include "store/gguf.h"
#include "store/json_file.h"

#define MAX_MODULE_BYTES ((size_t)64 << 10)

static nib_pooling in_gguf(const gguf *g) {
    enum { UNSPECIFIED = -1, MEAN = 1, LAST = 3 }; /* of llama.cpp */
    strview architecture = {NULL, 0};
    bool found = false;
    char key[96];
    int64_t kind = 0;
    if (gguf_get_text(g, "general.architecture", &architecture, &found, NULL) != NIB_OK || !found)
        return NIB_POOLING_LAST;
    snprintf(key, sizeof key, "%.*s.pooling_type", (int)(architecture.n < 64 ? architecture.n : 64),
             architecture.p);
    if (gguf_get_int(g, key, UNSPECIFIED, 255, &kind, &found, NULL) != NIB_OK)
        return NIB_POOLING_NONE;
    if (!found || kind == UNSPECIFIED || kind == LAST)
        return NIB_POOLING_LAST;
    return kind == MEAN ? NIB_POOLING_MEAN : NIB_POOLING_NONE;
}

static nib_pooling in_directory(const char *directory) {
    char path[4096];
    json_t *module = NULL, *value;
    const char *key;
    const int n = snprintf(path, sizeof path, "%s/1_Pooling/config.json", directory);
    if (n < 0 || (size_t)n >= sizeof path || json_file_read(&module, path, MAX_MODULE_BYTES, NULL) != NIB_OK)
        return NIB_POOLING_NONE;
    if (!module)
        return NIB_POOLING_LAST;
    int n_modes = 0;
    json_object_foreach(module, key, value) n_modes +=
        strncmp(key, "pooling_mode_", 13) == 0 && json_is_true(value);
    const nib_pooling how =
        n_modes != 1                                                        ? NIB_POOLING_NONE
        : json_is_true(json_object_get(module, "pooling_mode_mean_tokens")) ? NIB_POOLING_MEAN
        : json_is_true(json_object_get(module, "pooling_mode_lasttoken"))   ? NIB_POOLING_LAST
                                                                            : NIB_POOLING_NONE;
    json_decref(module);
    return how;
}

nib_pooling pooling_of_files(const model_file *f) {
    return f->gguf ? in_gguf(f->gguf) : f->directory ? in_directory(f->directory) : NIB_POOLING_LAST;
}
