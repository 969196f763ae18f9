/* SPDX-License-Identifier: Apache-2.0
 *
 * See report_read.h.
 */
#include "cli/report_read.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "cli/files.h"

static double number(const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *text_of(const json_t *root, const char *key) {
    const char *text = json_string_value(json_object_get(root, key));
    return text ? text : "";
}

/* A path's file without folders, 48 bytes at most; how many. */
static int file_of(const char *path, const char **from) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t at = n;
    while (at > 0 && path[at - 1] != '/')
        at--;
    *from = path + at;
    return (int)(n - at > 48 ? 48 : n - at);
}

/* The model's file, and the formats of activations and cache. */
static void name_result(char name[REPORT_NAME], const json_t *root) {
    const char *from;
    const int n = file_of(text_of(root, "model"), &from);
    snprintf(name, REPORT_NAME, "%.*s (%.12s, cache %.16s)", n, from, text_of(root, "activations"),
             text_of(root, "kv_cache_dtype"));
}

nib_status report_read_eval(report_eval *e, const char *path, nib_error *err) {
    json_t *root;
    NIB_TRY(files_read_json(path, &root, err));
    *e = (report_eval){.kld = number(root, "kld"),
                       .kld_error = number(root, "kld_error"),
                       .ppl = number(root, "ppl"),
                       .ppl_error = number(root, "ppl_error"),
                       .ppl_base = number(root, "ppl_base"),
                       .same_top = number(root, "same_top")};
    const bool sound = json_is_object(root) && *text_of(root, "model") && isfinite(e->ppl);
    if (sound)
        name_result(e->name, root);
    json_decref(root);
    return sound ? NIB_OK
                 : nib_fail(err, NIB_BAD_FILE, "%s: no result of nibble eval --json (\"model\" and \"ppl\")",
                            path);
}

/* ---- bench ---- */

static bool read_speed(report_speed *s, const json_t *row) {
    *s = (report_speed){.threads = (int)json_integer_value(json_object_get(row, "n_threads")),
                        .tokens_per_s = number(row, "avg_ts"),
                        .deviation = number(row, "stddev_ts"),
                        .gb_per_s = number(row, "gb_per_s"),
                        .percent = number(row, "bandwidth_percent")};
    name_result(s->name, row);
    snprintf(s->test, sizeof s->test, "%s", text_of(row, "test"));
    return json_is_object(row) && *text_of(row, "model") && *s->test && isfinite(s->tokens_per_s);
}

nib_status report_read_speeds(report_speed *speeds, size_t *n, const char *path, nib_error *err) {
    json_t *root;
    NIB_TRY(files_read_json(path, &root, err));
    const size_t more = json_array_size(root);
    nib_status status = NIB_OK;
    if (*n + more > REPORT_MAX_SPEEDS)
        status = nib_fail(err, NIB_BAD_ARGUMENT, "%s: a page shows %d rows of speeds at most, not %zu", path,
                          REPORT_MAX_SPEEDS, *n + more);
    bool sound = more > 0;
    for (size_t i = 0; i < more && sound && status == NIB_OK; i++)
        sound = read_speed(&speeds[(*n)++], json_array_get(root, i));
    json_decref(root);
    return status != NIB_OK || sound
               ? status
               : nib_fail(err, NIB_BAD_FILE, "%s: no result of nibble bench -o json (a list of tests)", path);
}

/* ---- plans ---- */

/* The matrix that a plan, in the source's words or the file's own, calls NAME; found->n: none. */
static size_t find_matrix(const survey *found, const char *name) {
    for (size_t i = 0; i < found->n; i++) {
        const survey_matrix *m = &found->matrices[i];
        if (strcmp(m->t->name, name) == 0 || (m->of && strcmp(m->of->name, name) == 0))
            return i;
    }
    return found->n;
}

static size_t take_part(double *costs, const survey *found, const json_t *part) {
    size_t k, n = 0;
    const json_t *name;
    json_array_foreach(json_object_get(part, "tensors"), k, name) {
        const char *text = json_string_value(name);
        const size_t i = text ? find_matrix(found, text) : found->n;
        if (i == found->n)
            continue;
        costs[i] = number(part, "kld");
        n += isfinite(costs[i]);
    }
    return n;
}

nib_status report_read_plan(double **costs, const survey *found, const char *path, nib_error *err) {
    json_t *root;
    size_t k, n = 0;
    const json_t *part;
    NIB_TRY(files_read_json(path, &root, err));
    *costs = mem_array(found->n + 1, sizeof **costs);
    if (!*costs) {
        json_decref(root);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu matrices", found->n);
    }
    for (size_t i = 0; i < found->n; i++)
        (*costs)[i] = NAN;
    json_array_foreach(json_object_get(root, "parts"), k, part) n += take_part(*costs, found, part);
    json_decref(root);
    if (n > 0)
        return NIB_OK;
    mem_free(*costs);
    *costs = NULL;
    return nib_fail(
        err, NIB_BAD_FILE,
        "%s: no plan of quantize --save-plan whose parts (\"tensors\", \"kld\") name matrices of the "
        "model; where names differ, --source says what it was made for",
        path);
}
