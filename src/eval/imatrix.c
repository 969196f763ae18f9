/* SPDX-License-Identifier: Apache-2.0
 *
 * See imatrix.h. The file comes from a stranger: store/gguf has checked its frame, here its numbers are.
 */
#include "eval/imatrix.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "eval/calibrate.h"
#include "export/gguf_write.h"
#include "store/gguf.h"
#include "store/names.h"

#define SUMS   ".in_sum2"
#define COUNTS ".counts"

static bool has_entry(slot s) {
    return place_is_linear(s) || s == SLOT_HEAD;
}

static size_t entry_of(place p) {
    return (size_t)(p.layer < 0 ? 0 : p.layer) * SLOT_COUNT + (size_t)p.slot;
}

/* ---- writing ---- */

/* Tensor T's values, and its name in a GGUF file; false where it has none. */
static bool entry(const importance *heed, const model_file *file, const tensor *t, const float **means,
                  char name[NAMES_MAX + 16]) {
    const place p = t->place;
    char made[NAMES_MAX];
    if (!has_entry(p.slot) || p.expert != PLACE_NO_EXPERT || p.layer >= heed->n_layers ||
        !(*means = heed->mean_squares[entry_of(p)]))
        return false;
    if (file->format != FORMAT_GGUF && !names_to_gguf(file->hp.family, p, made))
        return false;
    const char *stem = file->format == FORMAT_GGUF ? t->name : made;
    return snprintf(name, NAMES_MAX, "%s", stem) < NAMES_MAX;
}

static void declare(gguf_write *w, const char *stem, const char *suffix, size_t cols) {
    char name[NAMES_MAX + 16];
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    gguf_write_tensor(w, name, DT_F32, 2, (size_t[]){1, cols});
}

static nib_status write_entry(gguf_write *w, const float *means, size_t cols, size_t n, nib_error *err) {
    float count = (float)n, *sums = mem_array(cols, sizeof *sums);
    if (!sums)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu columns", cols);
    for (size_t i = 0; i < cols; i++)
        sums[i] = means[i] * count;
    nib_status status = gguf_write_data(w, sums, cols * sizeof *sums, err);
    mem_free(sums);
    return status == NIB_OK ? gguf_write_data(w, &count, sizeof count, err) : status;
}

static nib_status write_all(gguf_write *w, const importance *heed, const model_file *file,
                            imatrix_about *about, nib_error *err) {
    const strview dataset = strview_of(about->dataset);
    const size_t chunk = (size_t)about->chunk_size;
    char name[NAMES_MAX + 16];
    const float *means;
    gguf_write_text(w, "general.type", strview_of("imatrix"));
    gguf_write_texts(w, "imatrix.datasets", &dataset, 1);
    gguf_write_u32(w, "imatrix.chunk_count", (uint32_t)((about->n_tokens + chunk - 1) / chunk));
    gguf_write_u32(w, "imatrix.chunk_size", (uint32_t)chunk);
    for (size_t i = 0; i < file->n_tensors; i++)
        if (entry(heed, file, &file->tensors[i], &means, name)) {
            declare(w, name, SUMS, file->tensors[i].cols);
            declare(w, name, COUNTS, 1);
            about->n_tensors++;
        }
    if (about->n_tensors == 0)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: no linear layer that has a name in a GGUF file",
                        file->path);
    NIB_TRY(gguf_write_begin(w, err));
    for (size_t i = 0; i < file->n_tensors; i++)
        if (entry(heed, file, &file->tensors[i], &means, name))
            NIB_TRY(write_entry(w, means, file->tensors[i].cols, about->n_tokens, err));
    return NIB_OK;
}

nib_status imatrix_write(const importance *heed, const model_file *file, const char *path,
                         imatrix_about *about, nib_error *err) {
    gguf_write *w;
    about->n_tensors = 0;
    NIB_TRY(gguf_write_open(&w, path, err));
    const nib_status status = write_all(w, heed, file, about, err);
    if (status == NIB_OK)
        return gguf_write_commit(w, NULL, err);
    gguf_write_abandon(w);
    return status;
}

/* ---- reading ---- */

static bool ends_with(const char *name, const char *suffix, strview *stem) {
    const size_t n = strlen(name), m = strlen(suffix);
    *stem = (strview){name, n > m ? n - m : 0};
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* The rows that were added up beside the sums T. */
static nib_status read_count(const gguf *g, const gguf_tensor *t, strview stem, float *count,
                             nib_error *err) {
    char name[256];
    const int n = snprintf(name, sizeof name, "%.*s" COUNTS, (int)stem.n, stem.p);
    const gguf_tensor *c = n > 0 && (size_t)n < sizeof name ? gguf_find_tensor(g, name) : NULL;
    if (!c || c->dtype != DT_F32 || c->bytes != sizeof *count)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has no " COUNTS " of one F32 beside it", g->where,
                        QUOTEZ(t->name));
    memcpy(count, c->data, sizeof *count);
    if (!(*count >= 0 && isfinite(*count)))
        return nib_fail(err, NIB_BAD_FILE, "%s: %s counts %g rows", g->where, QUOTE(stem), (double)*count);
    return NIB_OK;
}

static nib_status read_entry(importance *out, const gguf *g, const hparams *hp, const gguf_tensor *t,
                             strview stem, imatrix_about *about, nib_error *err) {
    place p;
    size_t rows, cols;
    float count;
    if (!names_from_gguf(hp->family, stem, &p) || !has_entry(p.slot) || p.expert != PLACE_NO_EXPERT ||
        p.layer >= hp->n_layers || !hparams_has(hp, p.slot, &rows, &cols)) {
        about->n_unused++;
        return NIB_OK;
    }
    if (t->dtype != DT_F32 || t->dims[0] != cols || t->bytes != cols * sizeof(float))
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has %llu columns, and the model's inputs %zu",
                        g->where, QUOTEZ(t->name), (unsigned long long)t->dims[0], cols);
    NIB_TRY(read_count(g, t, stem, &count, err));
    float **means = &out->mean_squares[entry_of(p)];
    if (count == 0 || *means)
        return NIB_OK;
    *means = mem_array(cols, sizeof **means);
    if (!*means)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu columns", g->where, cols);
    memcpy(*means, t->data, t->bytes);
    for (size_t i = 0; i < cols; i++) {
        (*means)[i] /= count;
        if (!((*means)[i] >= 0 && isfinite((*means)[i])))
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s holds %g, which is no sum of squares", g->where,
                            QUOTEZ(t->name), (double)(*means)[i]);
    }
    about->n_tensors++;
    if (count < 1e15f && (size_t)count > about->n_tokens) /* what is shown: some count calls, not rows */
        about->n_tokens = (size_t)count;
    return NIB_OK;
}

static nib_status read_all(importance *out, const gguf *g, const model_file *file, imatrix_about *about,
                           nib_error *err) {
    const hparams *hp = &file->hp;
    strview type, stem;
    bool found;
    NIB_TRY(gguf_get_text(g, "general.type", &type, &found, err));
    if (!found || !strview_is(type, "imatrix"))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: no importance matrix; expected a GGUF file with general.type \"imatrix\"",
                        g->where);
    out->n_layers = hp->n_layers;
    out->mean_squares = mem_array((size_t)hp->n_layers * SLOT_COUNT, sizeof *out->mean_squares);
    if (!out->mean_squares)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %d layers", g->where, hp->n_layers);
    for (size_t i = 0; i < g->n_tensors; i++)
        if (ends_with(g->tensors[i].name, SUMS, &stem))
            NIB_TRY(read_entry(out, g, hp, &g->tensors[i], stem, about, err));
    if (about->n_tensors == 0)
        return nib_fail(err, NIB_BAD_FILE, "%s: is of none of the linear layers of %s", g->where, file->path);
    return NIB_OK;
}

nib_status imatrix_read(importance *out, const model_file *file, const char *path, imatrix_about *about,
                        nib_error *err) {
    gguf g = {0};
    *out = (importance){0};
    *about = (imatrix_about){0};
    NIB_TRY(model_file_need_network(file, err));
    nib_status status = gguf_open(&g, path, err);
    if (status == NIB_OK)
        status = read_all(out, &g, file, about, err);
    gguf_close(&g);
    if (status != NIB_OK)
        calibrate_free(out);
    return status;
}
