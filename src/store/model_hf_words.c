/* SPDX-License-Identifier: Apache-2.0
 *
 * The words of a Hugging Face directory: tokenizer.json and tokenizer_config.json as they are, the chat
 * template out of chat_template.jinja or tokenizer_config.json, further end ids out of generation_config.json
 * and config.json.
 */
#include <sys/stat.h>

#include "store/config.h"
#include "store/json_file.h"
#include "store/model_parts.h"

#define MAX_SIDE_BYTES     ((size_t)32 << 20)
#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

/* The bytes of FILE, mapped; empty when it is not there or, MAY_BE_EMPTY, holds nothing. */
static nib_status map_side(model_file *f, int index, const char *file, bool may_be_empty, size_t max,
                           strview *out, nib_error *err) {
    struct stat st;
    char *path = arena_format(&f->owned->arena, "%s/%s", f->directory, file);
    if (!path)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
    if (stat(path, &st) != 0 || (may_be_empty && S_ISREG(st.st_mode) && st.st_size == 0))
        return NIB_OK;
    mapfile *map = &f->owned->side[index];
    NIB_TRY(mapfile_open(map, path, err));
    if (map->size > max)
        return nib_fail(err, NIB_BAD_FILE, "%s: %zu bytes, expected at most %zu", path, map->size, max);
    *out = (strview){(const char *)map->bytes, map->size};
    return NIB_OK;
}

static nib_status read_json(model_file *f, const char *file, json_t **out, nib_error *err) {
    char *path = arena_format(&f->owned->arena, "%s/%s", f->directory, file);
    return path ? json_file_read(out, path, MAX_SIDE_BYTES, err)
                : nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
}

static void set_template(model_file *f, const json_t *text) {
    f->words.chat_template = (strview){json_string_value(text), json_string_length(text)};
}

/* tokenizer_config.json gives one template or a list of named ones. */
static void find_template(model_file *f) {
    const json_t *value = json_object_get(f->owned->tokenizer_config, "chat_template"), *entry;
    size_t i;
    if (json_is_string(value)) {
        set_template(f, value);
    } else if (json_is_array(value)) {
        json_array_foreach((json_t *)value, i, entry) {
            const char *name = json_string_value(json_object_get(entry, "name"));
            const json_t *text = json_object_get(entry, "template");
            if (name && strcmp(name, "default") == 0 && json_is_string(text))
                set_template(f, text);
        }
    }
}

static nib_status add_end(model_file *f, const json_t *value, const char *file, nib_error *err) {
    token_source *w = &f->words;
    int64_t limit = w->vocab ? w->vocab : CONFIG_MAX_VOCAB;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= limit)
        return nib_fail(err, NIB_BAD_FILE, "%s/%s: eos_token_id is no id below %lld", f->path, file,
                        (long long)limit);
    int32_t id = (int32_t)json_integer_value(value);
    for (int i = 0; i < w->n_extra_eos; i++)
        if (w->extra_eos[i] == id)
            return NIB_OK;
    if (w->n_extra_eos == (int32_t)(sizeof w->extra_eos / sizeof w->extra_eos[0]))
        return nib_fail(err, NIB_UNSUPPORTED, "%s/%s: more than %d eos_token_id values", f->path, file,
                        (int)(sizeof w->extra_eos / sizeof w->extra_eos[0]));
    w->extra_eos[w->n_extra_eos++] = id;
    return NIB_OK;
}

static nib_status add_ends(model_file *f, const json_t *root, const char *file, nib_error *err) {
    const json_t *value = json_object_get(root, "eos_token_id"), *entry;
    size_t i;
    if (!value || json_is_null(value))
        return NIB_OK;
    if (!json_is_array(value))
        return add_end(f, value, file, err);
    json_array_foreach((json_t *)value, i, entry) {
        NIB_TRY(add_end(f, entry, file, err));
    }
    return NIB_OK;
}

nib_status model_hf_words(model_file *f, nib_error *err) {
    token_source *w = &f->words;
    struct model_file_owned *o = f->owned;
    w->vocab = f->has_network ? f->hp.vocab : 0;
    NIB_TRY(map_side(f, 0, "tokenizer.json", false, TOKEN_SOURCE_MAX_JSON, &w->json, err));
    NIB_TRY(map_side(f, 1, "tokenizer_config.json", true, MAX_SIDE_BYTES, &w->config_json, err));
    NIB_TRY(map_side(f, 2, "chat_template.jinja", true, MAX_TEMPLATE_BYTES, &w->chat_template, err));
    if (w->config_json.n)
        NIB_TRY(read_json(f, "tokenizer_config.json", &o->tokenizer_config, err));
    if (w->json.n && !(w->where = arena_format(&f->owned->arena, "%s/tokenizer.json", f->path)))
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
    if (w->chat_template.n == 0)
        find_template(f);
    NIB_TRY(read_json(f, "generation_config.json", &o->generation_config, err));
    NIB_TRY(add_ends(f, o->generation_config, "generation_config.json", err));
    NIB_TRY(add_ends(f, o->config, "config.json", err));
    return add_ends(f, json_object_get(o->config, "text_config"), "config.json", err);
}
