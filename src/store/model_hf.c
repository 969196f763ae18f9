/* SPDX-License-Identifier: Apache-2.0
 *
 * A Hugging Face model directory, or a lone safetensors file, to model_file. In a directory
 * model.safetensors is read, or the shards that model.safetensors.index.json names.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/quote.h"
#include "store/config.h"
#include "store/json_file.h"
#include "store/model_parts.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20) /* lists of excluded layers can be long */
#define MAX_INDEX_BYTES  ((size_t)16 << 20)

static char *join(model_file *f, const char *name) {
    return arena_format(&f->owned->arena, "%s/%s", f->directory, name);
}

static nib_status read_side(model_file *f, const char *name, json_t **out, nib_error *err) {
    char *path = join(f, name);
    return path ? json_file_read(out, path, MAX_CONFIG_BYTES, err)
                : nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
}

/* ---- shards ---- */

static nib_status open_shard(model_file *f, const char *path, nib_error *err) {
    struct model_file_owned *o = f->owned;
    safetensors *s = &o->shards[o->n_shards++]; /* closed with the model, also after a failure */
    NIB_TRY(safetensors_open(s, path, err));
    f->file_bytes += s->map.size;
    return NIB_OK;
}

static nib_status reserve_shards(model_file *f, size_t n, nib_error *err) {
    f->owned->shards = arena_alloc(&f->owned->arena, n, sizeof *f->owned->shards);
    return f->owned->shards ? NIB_OK
                            : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu files", f->path, n);
}

static int name_compare(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A file beside the index: a plain name, so that an index cannot point anywhere else. */
static bool is_plain_name(const char *name) {
    return name && name[0] && name[0] != '.' && strlen(name) < 256 && !strchr(name, '/') &&
           !strchr(name, '\\');
}

/* The distinct values of weight_map, in NAMES (n of them at most; owned by the JSON tree). */
static nib_status list_shards(const model_file *f, const json_t *map, const char **names, size_t *n,
                              nib_error *err) {
    const char *tensor_name;
    const json_t *file;
    size_t count = 0;
    json_object_foreach((json_t *)map, tensor_name, file) {
        const char *name = json_string_value(file);
        if (!is_plain_name(name))
            return nib_fail(err, NIB_BAD_FILE, "%s: the index names no plain file for tensor %s", f->path,
                            QUOTEZ(tensor_name));
        names[count++] = name;
    }
    qsort(names, count, sizeof *names, name_compare);
    *n = 0;
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(names[*n - 1], names[i]) != 0)
            names[(*n)++] = names[i];
    if (*n > MODEL_MAX_FILES)
        return nib_fail(err, NIB_BAD_FILE, "%s: the index names %zu files, expected at most %d", f->path, *n,
                        MODEL_MAX_FILES);
    return NIB_OK;
}

static nib_status open_listed(model_file *f, const char *const *names, size_t n, nib_error *err) {
    NIB_TRY(reserve_shards(f, n, err));
    for (size_t i = 0; i < n; i++) {
        const char *path = join(f, names[i]);
        if (!path)
            return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
        NIB_TRY(open_shard(f, path, err));
    }
    return NIB_OK;
}

static bool shard_has(const safetensors *s, const char *const *sorted, const char *name) {
    return bsearch(&name, sorted, s->n_tensors, sizeof *sorted, name_compare) != NULL;
}

/* Every tensor the index names is in the file it names. */
static nib_status check_index(const model_file *f, const json_t *map, const char *const *names,
                              nib_error *err) {
    nib_status status = NIB_OK;
    for (int i = 0; i < f->owned->n_shards && status == NIB_OK; i++) {
        const safetensors *s = &f->owned->shards[i];
        const char **sorted = mem_array(s->n_tensors, sizeof *sorted);
        if (!sorted)
            return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
        for (size_t j = 0; j < s->n_tensors; j++)
            sorted[j] = s->tensors[j].name;
        if (s->n_tensors > 1)
            qsort(sorted, s->n_tensors, sizeof *sorted, name_compare);
        const char *name;
        const json_t *file;
        json_object_foreach((json_t *)map, name, file) {
            if (status == NIB_OK && strcmp(json_string_value(file), names[i]) == 0 &&
                !shard_has(s, sorted, name))
                status = nib_fail(err, NIB_BAD_FILE, "%s: does not hold tensor %s, as the index says",
                                  s->where, QUOTEZ(name));
        }
        mem_free(sorted);
    }
    return status;
}

static nib_status open_index(model_file *f, const json_t *index, nib_error *err) {
    const json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        return nib_fail(err, NIB_BAD_FILE, "%s: model.safetensors.index.json has no weight_map", f->path);
    size_t n = 0;
    const char **names = mem_array(json_object_size(map), sizeof *names);
    if (!names)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the index", f->path);
    nib_status status = list_shards(f, map, names, &n, err);
    if (status == NIB_OK)
        status = open_listed(f, names, n, err);
    if (status == NIB_OK)
        status = check_index(f, map, names, err);
    mem_free(names);
    return status;
}

static nib_status open_shards(model_file *f, nib_error *err) {
    struct stat st;
    char *single = join(f, "model.safetensors"), *index_path = join(f, "model.safetensors.index.json");
    if (!single || !index_path)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
    if (stat(single, &st) == 0) {
        NIB_TRY(reserve_shards(f, 1, err));
        return open_shard(f, single, err);
    }
    json_t *index;
    NIB_TRY(json_file_read(&index, index_path, MAX_INDEX_BYTES, err));
    if (!index)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: holds neither model.safetensors nor model.safetensors.index.json", f->path);
    nib_status status = open_index(f, index, err);
    json_decref(index);
    return status;
}

/* ---- tensors ---- */

static nib_status fold(model_file *f, nib_error *err) {
    const struct model_file_owned *o = f->owned;
    size_t n = 0, total = 0;
    for (int i = 0; i < o->n_shards; i++)
        total += o->shards[i].n_tensors;
    model_raw *raws = mem_array(total, sizeof *raws);
    if (!raws)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", f->path, total);
    for (int i = 0; i < o->n_shards; i++) {
        for (size_t j = 0; j < o->shards[i].n_tensors; j++) {
            const safetensors_tensor *t = &o->shards[i].tensors[j];
            model_raw *r = &raws[n++];
            *r = (model_raw){.name = t->name,
                             .format_name = t->dtype_name,
                             .where = o->shards[i].where,
                             .dtype = t->dtype,
                             .n_dims = t->n_dims,
                             .data = t->data,
                             .bytes = t->bytes};
            memcpy(r->dims, t->dims, sizeof r->dims);
        }
    }
    nib_status status = model_fold(f, raws, n, err);
    mem_free(raws);
    return status;
}

static nib_status read_quantization(model_file *f, nib_error *err) {
    static const quant_convention conventions[] = {
        [CONFIG_QUANT_NONE] = QUANT_NONE,
        [CONFIG_QUANT_MODELOPT] = QUANT_MODELOPT,
        [CONFIG_QUANT_COMPRESSED] = QUANT_COMPRESSED_TENSORS,
    };
    config_quant quant = CONFIG_QUANT_NONE;
    nib_error problem;
    json_t *modelopt;
    NIB_TRY(read_side(f, "hf_quant_config.json", &modelopt, err));
    nib_status status = config_quantization(&quant, f->owned->config, modelopt, f->path, &problem);
    json_decref(modelopt);
    f->convention = conventions[quant];
    return model_note(f, status, &problem, err);
}

static nib_status read_network(model_file *f, nib_error *err) {
    nib_error problem;
    if (!f->owned->config)
        return model_note_words(f, err, "%s: has no config.json", f->path);
    char *where = join(f, "config.json");
    if (!where)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
    NIB_TRY(model_note(f, config_from_json(&f->hp, f->owned->config, where, &problem), &problem, err));
    return read_quantization(f, err);
}

nib_status model_hf_open_file(model_file *f, nib_error *err) {
    f->format = FORMAT_SAFETENSORS;
    f->n_files = 1;
    NIB_TRY(reserve_shards(f, 1, err));
    NIB_TRY(open_shard(f, f->path, err));
    NIB_TRY(model_note_words(f, err,
                             "%s: a lone safetensors file says nothing about its network, give the "
                             "directory with its config.json",
                             f->path));
    return fold(f, err);
}

nib_status model_hf_open_directory(model_file *f, bool words_only, nib_error *err) {
    f->format = FORMAT_SAFETENSORS;
    f->directory = f->path;
    NIB_TRY(read_side(f, "config.json", &f->owned->config, err));
    if (words_only) {
        NIB_TRY(model_hf_words(f, err));
        return f->words.json.n ? NIB_OK : nib_fail(err, NIB_BAD_FILE, "%s: holds no tokenizer.json", f->path);
    }
    NIB_TRY(open_shards(f, err));
    f->n_files = f->owned->n_shards;
    NIB_TRY(read_network(f, err));
    NIB_TRY(fold(f, err));
    if (!f->network_note[0])
        NIB_TRY(model_shape_check(f, err));
    return model_hf_words(f, err);
}
