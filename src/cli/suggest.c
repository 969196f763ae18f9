/* SPDX-License-Identifier: Apache-2.0
 *
 * See suggest.h. Words are walked as getopt_long walks them: the value of a flag is none itself.
 */
#include "cli/suggest.h"

#include <stdbool.h>
#include <string.h>

#include "base/nearest.h"

#define MAX_FLAGS 96

typedef struct flag {
    const char *name; /* NULL: short only */
    int key;
    bool takes; /* a value, which may be the next word */
} flag;

typedef struct flags {
    flag all[MAX_FLAGS];
    int n;
} flags;

static void collect(flags *f, const struct argp *argp) {
    const struct argp_option *real = NULL;
    for (const struct argp_option *o = argp->options; o && (o->name || o->key || o->doc); o++) {
        if (!(o->flags & OPTION_ALIAS))
            real = o;
        if ((o->name || o->key) && real && f->n < MAX_FLAGS)
            f->all[f->n++] = (flag){o->name, o->key, real->arg && !(real->flags & OPTION_ARG_OPTIONAL)};
    }
    for (const struct argp_child *c = argp->children; c && c->argp; c++)
        collect(f, c->argp);
}

/* The flag that NAME is, or the only ones that begin so; NULL: none. */
static const flag *find_long(const flags *f, const char *name, size_t n) {
    const flag *found = NULL;
    for (int i = 0; i < f->n; i++) {
        const flag *at = &f->all[i];
        if (!at->name || strncmp(at->name, name, n) != 0)
            continue;
        found = at;
        if (strlen(at->name) == n)
            break;
    }
    return found;
}

/* Whether the letters of WORD (behind its dash) end in a flag whose value is the next word. */
static bool short_takes_next(const flags *f, const char *word) {
    for (const char *p = word + 1; *p; p++)
        for (int i = 0; i < f->n; i++)
            if (f->all[i].key == *p && f->all[i].takes)
                return p[1] == 0;
    return false;
}

/* Flags of llama.cpp, and those that do the same here. */
static const char *const foreign[][2] = {{"ngl", "device"},        {"n-gpu-layers", "device"},
                                         {"gpu-layers", "device"}, {"n-predict", "max-tokens"},
                                         {"ctx-size", "ctx"},      {"ctx-size", "max-model-len"}};

/* What may be meant by TEXT, a flag that is none of F's. */
static const char *meant(const flags *f, const char *text) {
    const char *names[MAX_FLAGS + 1];
    int n = 0;
    for (int i = 0; i < f->n; i++)
        if (f->all[i].name)
            names[n++] = f->all[i].name;
    names[n] = NULL;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        for (int k = 0; k < n; k++)
            if (strcmp(text, foreign[i][0]) == 0 && strcmp(names[k], foreign[i][1]) == 0)
                return names[k];
    return nearest_name(text, names);
}

const char *suggest_flag(const struct argp *argp, int argc, char *const *argv, int *n, const char **near) {
    char text[NEAREST_MAX + 1];
    flags f = {.n = 0};
    collect(&f, argp);
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *word = argv[i];
        if (word[0] != '-' || word[1] == 0)
            continue;
        if (strcmp(word, "-ngl") == 0) {
            *n = (int)strlen(word);
            *near = meant(&f, word + 1);
            return word;
        }
        if (word[1] != '-') {
            i += short_takes_next(&f, word);
            continue;
        }
        const size_t length = strcspn(word + 2, "=");
        const flag *found = find_long(&f, word + 2, length);
        if (found) {
            i += found->takes && !word[2 + length];
            continue;
        }
        *n = (int)length + 2;
        *near = NULL;
        if (length <= NEAREST_MAX) {
            memcpy(text, word + 2, length);
            text[length] = 0;
            *near = meant(&f, text);
        }
        return word;
    }
    return NULL;
}
