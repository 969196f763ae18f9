/* SPDX-License-Identifier: Apache-2.0
 *
 * See settings.h.
 */
#include "cli/settings.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/nearest.h"
#include "base/status.h"
#include "cli/files.h"

#define PREFIX       "NIBBLE_"
#define PREFIX_BYTES (sizeof PREFIX - 1)

enum { MAX_FLAGS = 96 };

static nib_status no_memory(nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "out of memory for settings");
}

/* The option NAME [n] of ARGP or its children; NULL: there is none. */
static const struct argp_option *find(const struct argp *argp, const char *name, size_t n) {
    for (const struct argp_option *o = argp->options; o && (o->name || o->doc); o++)
        if (o->name && strlen(o->name) == n && memcmp(o->name, name, n) == 0)
            return o;
    for (const struct argp_child *c = argp->children; c && c->argp; c++) {
        const struct argp_option *o = find(c->argp, name, n);
        if (o)
            return o;
    }
    return NULL;
}

/* FLAGS [MAX_FLAGS], of which N are there, gets those that may stand elsewhere. */
static size_t list_flags(const struct argp *argp, const struct argp_option *flags[], size_t n) {
    for (const struct argp_option *o = argp->options; o && (o->name || o->doc); o++)
        if (o->name && strcmp(o->name, "config") != 0 && n < MAX_FLAGS)
            flags[n++] = o;
    for (const struct argp_child *c = argp->children; c && c->argp; c++)
        n = list_flags(c->argp, flags, n);
    return n;
}

/* Takes ARGUMENT, which may be NULL for want of memory. WHERE: "" or what stands before ": ". */
static nib_status add(settings *s, char *argument, const char *where, nib_error *err) {
    const size_t n = strlen(where) + 3;
    char *origin = mem_alloc(n);
    char **argv = mem_resize(s->argv, (size_t)s->argc + 2, sizeof *argv);
    s->argv = argv ? argv : s->argv;
    char **origins = mem_resize(s->origins, (size_t)s->argc + 1, sizeof *origins);
    s->origins = origins ? origins : s->origins;
    if (!argument || !origin || !argv || !origins) {
        mem_free(argument);
        mem_free(origin);
        return no_memory(err);
    }
    snprintf(origin, n, where[0] ? "%s: " : "%s", where);
    s->origins[s->argc] = origin;
    s->argv[s->argc++] = argument;
    s->argv[s->argc] = NULL;
    return NIB_OK;
}

static nib_status add_copy(settings *s, const char *argument, nib_error *err) {
    return add(s, mem_copy_text(argument, strlen(argument)), "", err);
}

/* --NAME=VALUE; of a flag without a value --NAME, where VALUE is 1 or true. */
static nib_status add_flag(settings *s, const struct argp_option *o, const char *value, const char *where,
                           nib_error *err) {
    char *flag;
    size_t n = strlen(o->name) + strlen(value) + 4;
    if (!o->arg && (strcmp(value, "0") == 0 || strcmp(value, "false") == 0))
        return NIB_OK;
    if (!o->arg && strcmp(value, "1") != 0 && strcmp(value, "true") != 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: '%s' is true or false, not '%.80s'", where, o->name,
                        value);
    flag = mem_alloc(n);
    if (flag)
        snprintf(flag, n, o->arg ? "--%s=%s" : "--%s", o->name, value);
    return add(s, flag, where, err);
}

/* ---- the file ---- */

static char *trim(char *text) {
    char *end = text + strlen(text);
    while (isspace((unsigned char)*text))
        text++;
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = 0;
    return text;
}

static nib_status no_setting(const struct argp *argp, const char *where, const char *line, size_t n,
                             nib_error *err) {
    const struct argp_option *flags[MAX_FLAGS];
    const char *names[MAX_FLAGS + 1] = {NULL};
    char name[80];
    for (size_t i = 0, n_flags = list_flags(argp, flags, 0); i < n_flags; i++)
        names[i] = flags[i]->name;
    snprintf(name, sizeof name, "%.*s", (int)(n < 79 ? n : 79), line);
    const char *near = nearest_name(name, names);
    return nib_fail(err, NIB_BAD_ARGUMENT, "%s: '%s' is no setting; %s%s%s", where, name,
                    near ? "did you mean '" : "expected a flag's name", near ? near : "", near ? "'?" : "");
}

/* NAME = VALUE, or NAME: VALUE; a value may stand in quotes. */
static nib_status read_line(settings *s, const struct argp *argp, const char *path, int number, char *line,
                            nib_error *err) {
    char where[160];
    line = trim(line);
    if (!line[0] || line[0] == '#')
        return NIB_OK;
    snprintf(where, sizeof where, "%.120s, line %d", path, number);
    const size_t n = strcspn(line, "=: \t");
    char *value = line + n + strspn(line + n, " \t");
    const struct argp_option *o = find(argp, line, n);
    if (!o || strcmp(o->name, "config") == 0)
        return no_setting(argp, where, line, n, err);
    if (*value != '=' && *value != ':')
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: expected '%s = VALUE'", where, o->name);
    value = trim(value + 1);
    const size_t length = strlen(value);
    if (length >= 2 && (value[0] == '"' || value[0] == '\'') && value[length - 1] == value[0]) {
        value[length - 1] = 0;
        value++;
    }
    return add_flag(s, o, value, where, err);
}

static nib_status read_file(settings *s, const struct argp *argp, const char *path, nib_error *err) {
    char *bytes, *text, *rest;
    size_t n;
    NIB_TRY(files_read(path, &bytes, &n, err));
    text = mem_copy_text(bytes, n);
    mem_free(bytes);
    if (!text)
        return no_memory(err);
    nib_status status = NIB_OK;
    rest = text;
    for (int number = 1; rest && status == NIB_OK; number++) {
        char *line = strsep(&rest, "\n");
        status = read_line(s, argp, path, number, line, err);
    }
    mem_free(text);
    return status;
}

/* The value of --config; the last one counts. */
static const char *config_path(int argc, char **argv) {
    const char *path = NULL;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--config=", 9) == 0)
            path = argv[i] + 9;
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            path = argv[++i];
    }
    return path;
}

/* ---- the environment ---- */

/* MAX_TOKENS, behind PREFIX, of max-tokens. */
static const char *variable_of(const char *flag, char name[80]) {
    size_t n = (size_t)snprintf(name, 80, PREFIX);
    for (const char *c = flag; *c && n + 1 < 80; c++)
        name[n++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    name[n] = 0;
    return name;
}

/* What Kubernetes and Docker set for a service that is called nibble. */
static bool is_of_a_service(const char *name) {
    return strncmp(name, "SERVICE_", 8) == 0 || strncmp(name, "PORT_", 5) == 0 ||
           strncmp(name, "ENV_", 4) == 0;
}

/* What other parts of nibble are told: the program where its GPU library lies, the Python package where the
 * library lies, the tests where their data and models lie. */
static bool is_of_another_part(const char *name) {
    static const char *const names[] = {"CUDA_LIBRARY", "LIBRARY", "DATA", "MODELS", "SCREENSHOTS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* ENTRY of the environment, NAME=VALUE behind PREFIX, where NAME is none of NAMES (ends with NULL). */
static void warn_of(const char *entry, const char *const *names) {
    char name[80];
    const size_t n = strcspn(entry, "=");
    snprintf(name, sizeof name, "%.*s", (int)(n < 79 ? n : 79), entry);
    for (const char *const *known = names; *known; known++)
        if (strcmp(*known, name) == 0)
            return;
    if (is_of_a_service(name) || is_of_another_part(name))
        return;
    const char *near = nearest_name(name, names);
    cli_say(CLI_OK, PREFIX "%s in the environment is no setting%s%s%s", name,
            near ? "; did you mean " PREFIX : "", near ? near : "", near ? "?" : "");
}

static nib_status read_environment(settings *s, const struct argp *argp, nib_error *err) {
    const struct argp_option *flags[MAX_FLAGS];
    static char variables[MAX_FLAGS][80];
    const char *names[MAX_FLAGS + 1] = {NULL};
    const size_t n = list_flags(argp, flags, 0);
    for (size_t i = 0; i < n; i++) {
        const char *value = getenv(variable_of(flags[i]->name, variables[i]));
        if (value && value[0])
            NIB_TRY(add_flag(s, flags[i], value, variables[i], err));
        names[i] = variables[i] + PREFIX_BYTES;
    }
    for (char **entry = environ; *entry; entry++)
        if (strncmp(*entry, PREFIX, PREFIX_BYTES) == 0)
            warn_of(*entry + PREFIX_BYTES, names);
    return NIB_OK;
}

nib_status settings_open(settings *s, const struct argp *argp, int argc, char **argv, nib_error *err) {
    const char *path = config_path(argc, argv);
    *s = (settings){0};
    NIB_TRY(add_copy(s, argv[0], err));
    if (path)
        NIB_TRY(read_file(s, argp, path, err));
    NIB_TRY(read_environment(s, argp, err));
    for (int i = 1; i < argc; i++)
        NIB_TRY(add_copy(s, argv[i], err));
    return NIB_OK;
}

void settings_free(settings *s) {
    for (int i = 0; i < s->argc; i++) {
        mem_free(s->argv[i]);
        mem_free(s->origins[i]);
    }
    mem_free(s->argv);
    mem_free(s->origins);
    *s = (settings){0};
}
