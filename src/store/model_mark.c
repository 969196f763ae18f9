/* SPDX-License-Identifier: Apache-2.0
 *
 * A number that tells whether files still hold the model that they held: a hash of what stands before the
 * tensors, of both ends of each, of tokenizer, template, config.json and generation_config.json.
 */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/quote.h"
#include "store/model_parts.h"

enum { EDGE = 4096 }; /* bytes of a tensor, at either end, that are looked at */

static nib_status add_edges(uint64_t *mark, const char *where, const char *name, const void *data,
                            size_t bytes, nib_error *err) {
    unsigned char edge[EDGE];
    const size_t n = bytes < EDGE ? bytes : EDGE;
    for (int end = 0; end < 2 && n > 0; end++) {
        nib_error why = {""};
        const nib_status status = mapfile_read(edge, (const char *)data + (end ? bytes - n : 0), n, &why);
        if (status != NIB_OK)
            return nib_fail(err, status, "%s: tensor %s: %s", where, QUOTEZ(name), why.text);
        *mark = XXH3_64bits_withSeed(edge, n, *mark);
    }
    return NIB_OK;
}

/* What stands before the tensors. */
static void add_header(uint64_t *mark, const mapfile *map, const void *first) {
    const size_t n = first ? (size_t)((const unsigned char *)first - map->bytes) : map->size;
    *mark = XXH3_64bits_withSeed(map->bytes, n, *mark + map->size);
}

static nib_status add_gguf(uint64_t *mark, const gguf *g, nib_error *err) {
    const void *first = NULL;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (!first || (const char *)g->tensors[i].data < (const char *)first)
            first = g->tensors[i].data;
    add_header(mark, &g->map, first);
    for (size_t i = 0; i < g->n_tensors; i++)
        NIB_TRY(add_edges(mark, g->where, g->tensors[i].name, g->tensors[i].data, g->tensors[i].bytes, err));
    return NIB_OK;
}

static nib_status add_safetensors(uint64_t *mark, const safetensors *s, nib_error *err) {
    add_header(mark, &s->map, s->n_tensors > 0 ? s->tensors[0].data : NULL);
    for (size_t i = 0; i < s->n_tensors; i++)
        NIB_TRY(add_edges(mark, s->where, s->tensors[i].name, s->tensors[i].data, s->tensors[i].bytes, err));
    return NIB_OK;
}

static nib_status add_json(uint64_t *mark, const json_t *json, nib_error *err) {
    if (!json)
        return NIB_OK;
    char *text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to compare a model's files");
    *mark = XXH3_64bits_withSeed(text, strlen(text), *mark);
    json_text_free(text);
    return NIB_OK;
}

nib_status model_file_mark(const model_file *f, uint64_t *mark, nib_error *err) {
    const struct model_file_owned *o = f->owned;
    *mark = 0;
    for (int i = 0; i < o->n_parts; i++)
        NIB_TRY(add_gguf(mark, &o->parts[i], err));
    for (int i = 0; i < o->n_shards; i++)
        NIB_TRY(add_safetensors(mark, &o->shards[i], err));
    for (int i = 0; i < MODEL_N_SIDE; i++)
        if (o->side[i].size > 0)
            *mark = XXH3_64bits_withSeed(o->side[i].bytes, o->side[i].size, *mark);
    NIB_TRY(add_json(mark, o->config, err));
    NIB_TRY(add_json(mark, o->generation_config, err));
    return add_json(mark, o->tokenizer_config, err);
}
