/* SPDX-License-Identifier: Apache-2.0
 *
 * See recipe_names.h.
 */
#include "convert/recipe_names.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "store/names.h"

static bool without_weight(const char *name, char *out, size_t size) {
    size_t n = strlen(name);
    if (n < 7 || strcmp(name + n - 7, ".weight") != 0 || n - 7 >= size)
        return false;
    memcpy(out, name, n - 7);
    out[n - 7] = '\0';
    return true;
}

/* A glob matches the tensor's name in the source or in the output, with or without ".weight". */
static bool glob_matches(const char *glob, const recipe_item *item) {
    const char *names[2] = {item->e.t->name, item->name};
    char stem[512];
    for (int i = 0; i < 2; i++)
        if (fnmatch(glob, names[i], 0) == 0 ||
            (without_weight(names[i], stem, sizeof stem) && fnmatch(glob, stem, 0) == 0))
            return true;
    return false;
}

bool recipe_names_kept(const convert_options *o, const recipe_item *item) {
    for (size_t g = 0; g < o->n_keep; g++)
        if (glob_matches(o->keep[g], item))
            return true;
    return false;
}

nib_status recipe_names_check(const recipe *r, const model_file *in, const convert_options *o,
                              nib_error *err) {
    for (size_t g = 0; g < o->n_keep; g++) {
        bool any = false;
        for (size_t i = 0; !any && i < r->n; i++)
            any = glob_matches(o->keep[g], &r->items[i]);
        if (!any)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "%s: no tensor has a name like \"%s\", which was to be kept", in->path,
                            o->keep[g]);
    }
    return NIB_OK;
}

nib_status recipe_names_make(recipe *r, const model_file *in, const tensor *t, slot s, const char **name,
                             nib_error *err) {
    char made[NAMES_MAX], prefix[NAMES_MAX] = "model.";
    family f = in->hp.family;
    place at = {s, t->place.layer, t->place.expert};
    const char *embed =
        strstr(t->name, "embed_tokens.weight"); /* a new head follows the embedding's prefix */
    if (!r->from_gguf && embed && (size_t)(embed - t->name) < sizeof prefix)
        snprintf(prefix, sizeof prefix, "%.*s", (int)(embed - t->name), t->name);
    *name = NULL;
    if (r->to_gguf == r->from_gguf && s == t->place.slot) {
        strview stem; /* a packed tensor is known by the weight it is */
        *name = t->name;
        if (!r->to_gguf && names_hf_companion(strview_of(t->name), &stem) == COMPANION_WEIGHT_PACKED)
            *name = arena_format(&r->arena, "%.*s.weight", (int)stem.n, stem.p);
    } else if (r->to_gguf ? names_to_gguf(f, at, made) : names_to_hf(f, at, prefix, made)) {
        *name = arena_text(&r->arena, made, strlen(made));
    } else {
        return NIB_OK;
    }
    return *name ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for names", in->path);
}
