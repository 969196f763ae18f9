/* SPDX-License-Identifier: Apache-2.0
 *
 * See inspect_imatrix.h. No model is at hand, so names are taken as they are; whether they fit a network, and
 * whether its numbers are sums of products, imatrix_read says.
 */
#include "cli/inspect_imatrix.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "cli/ui.h"
#include "eval/imatrix.h"
#include "store/gguf.h"

enum { SUMS = 0, BLOCKS, PEAKS, KEYS, KINDS };

static const struct kind {
    const char *suffix, *key, *text;
} kinds[KINDS] = {
    {IMATRIX_SUMS, "mean_squares", "layers with mean squares of their inputs (--method weighted)"},
    {IMATRIX_BLOCKS, "blocks", "inputs with second moments inside blocks of 16 (--method local)"},
    {IMATRIX_PEAKS, "peaks", "inputs with their largest magnitudes (--input-scale)"},
    {IMATRIX_OUT, "keys", "layers' keys or values with the largest magnitude (--kv-scales)"}};

typedef struct contents {
    gguf g;
    size_t n[KINDS];
    float rows; /* the most of a layer */
    int64_t windows, window_tokens;
} contents;

static bool ends_with(const char *name, const char *suffix) {
    const size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0;
}

static bool is_imatrix(const gguf *g) {
    nib_error ignored;
    strview type;
    bool found;
    return gguf_get_text(g, "general.type", &type, &found, &ignored) == NIB_OK && found &&
           strview_is(type, "imatrix");
}

bool inspect_imatrix_is(const char *path) {
    gguf g = {0};
    nib_error ignored;
    const bool is = gguf_open(&g, path, &ignored) == NIB_OK && is_imatrix(&g);
    gguf_close(&g);
    return is;
}

static float number_of(const gguf_tensor *t, size_t i) {
    float x;
    memcpy(&x, (const unsigned char *)t->data + i * sizeof x, sizeof x);
    return x;
}

static nib_status count(contents *c, nib_error *err) {
    for (size_t i = 0; i < c->g.n_tensors; i++) {
        const gguf_tensor *t = &c->g.tensors[i];
        const bool counts = ends_with(t->name, IMATRIX_COUNTS);
        int kind = 0;
        while (kind < KINDS && !ends_with(t->name, kinds[kind].suffix))
            kind++;
        const size_t least = (kind == PEAKS ? 4 : 1) * sizeof(float);
        if ((kind < KINDS || counts) && (t->dtype != DT_F32 || t->bytes < least))
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s holds no F32 numbers", c->g.where,
                            QUOTEZ(t->name));
        for (size_t k = 0; (kind < KINDS || counts) && k < least / sizeof(float); k++)
            if (!isfinite(number_of(t, k)))
                return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s holds what is no finite number", c->g.where,
                                QUOTEZ(t->name));
        if (counts)
            c->rows = fmaxf(c->rows, number_of(t, 0));
        else if (kind < KINDS)
            c->n[kind]++;
    }
    NIB_TRY(gguf_get_int(&c->g, "imatrix.chunk_count", 0, UINT32_MAX, &c->windows, &(bool){0}, err));
    return gguf_get_int(&c->g, "imatrix.chunk_size", 0, UINT32_MAX, &c->window_tokens, &(bool){0}, err);
}

/* ---- as text ---- */

static void print_datasets(const contents *c, bool json) {
    const gguf_key *key = gguf_find(&c->g, "imatrix.datasets");
    strview names[16];
    if (!key || key->type != GGUF_ARRAY || key->item_type != GGUF_STRING ||
        key->n_items > sizeof names / sizeof *names)
        return;
    gguf_item_texts(key, names);
    for (uint64_t i = 0; i < key->n_items; i++) {
        char *name = mem_copy_text(names[i].p, names[i].n);
        printf("%s", i ? ", " : "");
        if (json)
            ui_json_string(stdout, name ? name : "");
        else
            ui_put_text(stdout, ui_is_terminal(stdout), names[i].p, names[i].n);
        mem_free(name);
    }
}

static nib_status print_inputs(const contents *c, bool json) {
    static const ui_column columns[] = {{"input of", "input_of", false},
                                        {"largest", "largest", true},
                                        {"99 %", "p99", true},
                                        {"99.9 %", "p99_9", true},
                                        {"99.99 %", "p99_99", true}};
    ui_table t = {.columns = columns, .n_columns = 5};
    bool fits = true;
    for (size_t i = 0; i < c->g.n_tensors && fits; i++) {
        const gguf_tensor *p = &c->g.tensors[i];
        if (!ends_with(p->name, kinds[PEAKS].suffix))
            continue;
        fits = ui_table_add(&t, "%.*s", (int)(strlen(p->name) - strlen(kinds[PEAKS].suffix)), p->name);
        for (size_t k = 0; k < 4 && fits; k++)
            fits = ui_table_add(&t, "%.6g", (double)number_of(p, k));
    }
    if (fits)
        ui_table_print(&t, json ? UI_JSON : UI_MD, stdout);
    ui_table_free(&t);
    return fits ? NIB_OK : NIB_NO_MEMORY;
}

static nib_status print_text(const contents *c, bool tensors) {
    char bytes[32];
    printf("importance matrix (llama.cpp's GGUF format), %s\n", ui_bytes(bytes, sizeof bytes, c->g.map.size));
    printf("of         ");
    print_datasets(c, false);
    printf(": %lld windows of %lld tokens at most, %.0f rows\n", (long long)c->windows,
           (long long)c->window_tokens, (double)c->rows);
    for (int k = 0; k < KINDS; k++)
        printf("%-10zu %s\n", c->n[k], kinds[k].text);
    return tensors && c->n[PEAKS] ? print_inputs(c, false) : NIB_OK;
}

static nib_status print_json(const contents *c, bool tensors) {
    nib_status status = NIB_OK;
    printf("{\"type\": \"imatrix\", \"bytes\": %zu, \"datasets\": [", c->g.map.size);
    print_datasets(c, true);
    printf("], \"windows\": %lld, \"window_tokens\": %lld, \"rows\": %.0f", (long long)c->windows,
           (long long)c->window_tokens, (double)c->rows);
    for (int k = 0; k < KINDS; k++)
        printf(", \"%s\": %zu", kinds[k].key, c->n[k]);
    if (tensors) {
        printf(", \"inputs\": ");
        status = print_inputs(c, true);
    }
    printf("}\n");
    return status;
}

nib_status inspect_imatrix_print(const char *path, bool json, bool tensors, nib_error *err) {
    contents c = {.rows = 0};
    nib_status status = gguf_open(&c.g, path, err);
    if (status == NIB_OK)
        status = count(&c, err);
    if (status == NIB_OK) {
        status = (json ? print_json : print_text)(&c, tensors);
        if (status != NIB_OK)
            nib_fail(err, status, "%s: no memory for a summary", path);
    }
    gguf_close(&c.g);
    return status;
}
