/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing of model files; what kind of file a path is. See model_file.h.
 */
#include "store/model_file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "store/model_parts.h"

static nib_status keep_words(model_file *f, const char **out, nib_error *err, const char *format,
                             va_list args) {
    char words[sizeof err->text];
    vsnprintf(words, sizeof words, format, args);
    const char *copy = arena_text(&f->owned->arena, words, strlen(words));
    if (!copy)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
    *out = copy;
    return NIB_OK;
}

nib_status model_note_words(model_file *f, nib_error *err, const char *format, ...) {
    if (f->network_note[0])
        return NIB_OK;
    va_list args;
    va_start(args, format);
    nib_status status = keep_words(f, &f->network_note, err, format, args);
    va_end(args);
    return status;
}

nib_status model_add_note(model_file *f, nib_error *err, const char *format, ...) {
    if (f->n_notes == MODEL_MAX_NOTES)
        return NIB_OK;
    va_list args;
    va_start(args, format);
    nib_status status = keep_words(f, &f->owned->notes[f->n_notes], err, format, args);
    va_end(args);
    f->n_notes += status == NIB_OK;
    f->notes = f->owned->notes;
    return status;
}

nib_status model_note(model_file *f, nib_status status, const nib_error *problem, nib_error *err) {
    if (status == NIB_OK)
        return NIB_OK;
    if (status != NIB_UNSUPPORTED)
        return nib_fail(err, status, "%s", problem->text);
    return model_note_words(f, err, "%s", problem->text);
}

/* JSON's white space, then a brace. */
static bool opens_object(const unsigned char *p, size_t n) {
    size_t i = 0;
    while (i < n && (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t'))
        i++;
    return i < n && p[i] == '{';
}

/* GGUF by its first bytes; anything else must be safetensors, whose ninth byte begins a JSON object. */
static nib_status open_file(model_file *f, bool words_only, nib_error *err) {
    mapfile map;
    NIB_TRY(mapfile_open(&map, f->path, err));
    bool is_gguf = map.size >= 4 && memcmp(map.bytes, "GGUF", 4) == 0;
    bool is_safetensors = map.size > 8 && opens_object(map.bytes + 8, map.size - 8);
    size_t size = map.size;
    mapfile_close(&map);
    if (is_gguf)
        return model_gguf_open(f, words_only, err);
    if (!is_safetensors)
        return nib_fail(err, NIB_BAD_FILE, "%s: neither a GGUF nor a safetensors file (%zu bytes)", f->path,
                        size);
    if (words_only)
        return nib_fail(err, NIB_BAD_FILE, "%s: a safetensors file holds no tokenizer, give its directory",
                        f->path);
    return model_hf_open_file(f, err);
}

static nib_status open_any(model_file **out, const char *path, bool words_only, nib_error *err) {
    *out = NULL;
    model_file *f = mem_array(1, sizeof *f);
    struct model_file_owned *owned = mem_array(1, sizeof *owned);
    char *copy = NULL;
    if (!f || !owned || !(copy = arena_text(&owned->arena, path, strlen(path)))) {
        mem_free(f);
        mem_free(owned);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a model", path);
    }
    f->owned = owned;
    f->path = copy;
    f->network_note = "";
    f->words = token_source_unset(copy);
    struct stat st;
    nib_status status;
    if (stat(path, &st) != 0)
        status = nib_fail(err, NIB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        status = model_hf_open_directory(f, words_only, err);
    else
        status = open_file(f, words_only, err);
    if (status != NIB_OK)
        model_file_close(f);
    else
        *out = f;
    return status;
}

nib_status model_file_open(model_file **out, const char *path, nib_error *err) {
    return open_any(out, path, false, err);
}

nib_status model_file_open_words(model_file **out, const char *path, nib_error *err) {
    return open_any(out, path, true, err);
}

void model_file_close(model_file *f) {
    if (!f)
        return;
    struct model_file_owned *o = f->owned;
    for (int i = 0; i < o->n_parts; i++)
        gguf_close(&o->parts[i]);
    for (int i = 0; i < o->n_shards; i++)
        safetensors_close(&o->shards[i]);
    for (int i = 0; i < MODEL_N_SIDE; i++)
        mapfile_close(&o->side[i]);
    json_decref(o->config);
    json_decref(o->generation_config);
    json_decref(o->tokenizer_config);
    arena_free(&o->arena); /* holds the path and the lists above */
    mem_free(o);
    mem_free(f);
}

nib_status model_file_need_network(const model_file *f, nib_error *err) {
    return f->has_network ? NIB_OK : nib_fail(err, NIB_UNSUPPORTED, "%s", f->network_note);
}

const char *model_file_part(const model_file *f, int i) {
    return f->format == FORMAT_GGUF ? f->owned->parts[i].where : f->owned->shards[i].where;
}

const char *model_file_format_name(const model_file *f, const tensor *t) {
    return f->owned->format_names[t - f->tensors];
}

/* Where AT is in the index, or the free entry where it would be: the index is at most half full. */
static size_t index_of(const struct model_file_owned *o, place at) {
    uint64_t hash = (uint64_t)(uint32_t)at.layer << 32 | (uint32_t)at.expert;
    hash = (hash * SLOT_COUNT + (uint64_t)at.slot) * UINT64_C(0x9E3779B97F4A7C15);
    size_t i = (size_t)(hash >> 32) & o->index_mask;
    while (o->index[i] && !place_equal(o->index[i]->place, at))
        i = (i + 1) & o->index_mask;
    return i;
}

nib_status model_index(model_file *f, nib_error *err) {
    struct model_file_owned *o = f->owned;
    size_t size = 2;
    while (size < 2 * f->n_tensors)
        size *= 2;
    o->index_mask = size - 1;
    o->index = arena_alloc(&o->arena, size, sizeof *o->index);
    if (!o->index)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", f->path, f->n_tensors);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor **entry = &o->index[index_of(o, f->tensors[i].place)];
        if (f->tensors[i].place.slot != SLOT_NONE && !*entry)
            *entry = &f->tensors[i];
    }
    return NIB_OK;
}

const tensor *model_file_find(const model_file *f, place at) {
    const tensor *t =
        f->owned->index ? f->owned->index[index_of(f->owned, at)] : NULL; /* words: no tensors */
    return t && f->stand_ins && f->stand_ins[t - f->tensors] ? f->stand_ins[t - f->tensors] : t;
}
