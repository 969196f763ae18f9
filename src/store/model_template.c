/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates that a model gives names to ("tool_use", "rag"), beside the one that it uses by default: a
 * list in tokenizer_config.json, files in additional_chat_templates/, keys of a GGUF file.
 */
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "store/model_parts.h"

#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

static nib_status copy(const model_file *f, const char *bytes, size_t n, char **text, nib_error *err) {
    if (n > MAX_TEMPLATE_BYTES)
        return nib_fail(err, NIB_BAD_FILE, "%s: a chat template of %zu bytes, expected at most %zu", f->path,
                        n, MAX_TEMPLATE_BYTES);
    *text = mem_copy_text(bytes, n);
    return *text ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a chat template", f->path);
}

static nib_status of_gguf(const model_file *f, const char *name, char **text, nib_error *err) {
    char key[128];
    strview found_text;
    bool found;
    const int n = snprintf(key, sizeof key, "tokenizer.chat_template.%s", name);
    if (n < 0 || (size_t)n >= sizeof key)
        return NIB_OK;
    NIB_TRY(gguf_get_text(f->gguf, key, &found_text, &found, err));
    return found ? copy(f, found_text.p, found_text.n, text, err) : NIB_OK;
}

static nib_status of_list(const model_file *f, const char *name, char **text, nib_error *err) {
    json_t *list = json_object_get(f->owned->tokenizer_config, "chat_template"), *entry;
    size_t i;
    json_array_foreach(list, i, entry) {
        const char *has = json_string_value(json_object_get(entry, "name"));
        const json_t *found = json_object_get(entry, "template");
        if (has && strcmp(has, name) == 0 && json_is_string(found))
            return copy(f, json_string_value(found), json_string_length(found), text, err);
    }
    return NIB_OK;
}

static nib_status of_folder(const model_file *f, const char *name, char **text, nib_error *err) {
    char path[4096];
    struct stat st;
    mapfile map;
    const int n = snprintf(path, sizeof path, "%s/additional_chat_templates/%s.jinja", f->directory, name);
    if (strchr(name, '/') || n < 0 || (size_t)n >= sizeof path || stat(path, &st) != 0)
        return NIB_OK;
    NIB_TRY(mapfile_open(&map, path, err));
    const nib_status status = copy(f, (const char *)map.bytes, map.size, text, err);
    mapfile_close(&map);
    return status;
}

nib_status model_file_template(const model_file *f, const char *name, char **text, nib_error *err) {
    *text = NULL;
    if (f->gguf)
        return of_gguf(f, name, text, err);
    NIB_TRY(of_list(f, name, text, err));
    return *text ? NIB_OK : of_folder(f, name, text, err);
}
