/* SPDX-License-Identifier: Apache-2.0
 *
 * See imatrix.h. The file comes from a stranger: store/gguf has checked its frame, here its numbers are.
 */
#include "eval/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "export/gguf_write.h"
#include "quant/gptq.h"
#include "store/gguf.h"
#include "store/names.h"

static bool has_entry(place p) {
    return (place_is_linear(p.slot) || p.slot == SLOT_HEAD) && p.expert == PLACE_NO_EXPERT;
}

static slot out_slot(slot s) {
    return s == SLOT_K ? SLOT_K_SCALE : s == SLOT_V ? SLOT_V_SCALE : SLOT_NONE;
}

/* ---- writing ---- */

/* What stands in the file of one weight. */
typedef struct entry {
    char name[NAMES_MAX];
    const input_stat *of, *input, *out; /* input and out: NULL where they stand elsewhere, or are not known */
    size_t cols;
} entry;

typedef struct entries {
    entry *list;
    size_t n;
} entries;

/* Is T the first, in the order of slots, to read its input? */
static bool is_first(const model_file *file, const tensor *t) {
    for (size_t i = 0; i < file->n_tensors; i++) {
        const place p = file->tensors[i].place;
        if (has_entry(p) && p.layer == t->place.layer && p.slot < t->place.slot &&
            input_stats_slot(p.slot) == input_stats_slot(t->place.slot))
            return false;
    }
    return true;
}

static void add_entry(entries *e, const input_stats *stats, const model_file *file, place p,
                      const tensor *t) {
    const slot from = input_stats_slot(p.slot);
    entry *new = &e->list[e->n];
    char made[NAMES_MAX];
    if (!has_entry(p) || p.layer >= stats->n_layers)
        return;
    *new = (entry){.of = input_stats_at(stats, p.slot, p.layer),
                   .cols = input_stats_cols(&file->hp, from, p.layer < 0 ? 0 : p.layer)};
    if (!new->of->sums || (!(t && file->format == FORMAT_GGUF) && !names_to_gguf(file->hp.family, p, made)))
        return;
    const char *stem = t && file->format == FORMAT_GGUF ? t->name : made;
    if (snprintf(new->name, sizeof new->name, "%s", stem) >= NAMES_MAX)
        return;
    const input_stat *input = input_stats_at(stats, from, p.layer);
    new->input = input->has_peaks && (!t || is_first(file, t)) ? input : NULL;
    if (out_slot(p.slot) && input_stats_at(stats, out_slot(p.slot), p.layer)->has_peaks)
        new->out = input_stats_at(stats, out_slot(p.slot), p.layer);
    e->n++;
}

static nib_status find_entries(entries *e, const input_stats *stats, const model_file *file, nib_error *err) {
    bool head = false;
    e->list = mem_array(file->n_tensors + 1, sizeof *e->list);
    if (!e->list)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu layers", file->path, file->n_tensors);
    for (size_t i = 0; i < file->n_tensors; i++) {
        add_entry(e, stats, file, file->tensors[i].place, &file->tensors[i]);
        head |= file->tensors[i].place.slot == SLOT_HEAD;
    }
    if (!head)
        add_entry(e, stats, file, place_of(SLOT_HEAD, PLACE_NO_LAYER), NULL);
    return e->n ? NIB_OK
                : nib_fail(err, NIB_UNSUPPORTED, "%s: no linear layer that has a name in a GGUF file",
                           file->path);
}

static void declare(gguf_write *w, const char *stem, const char *suffix, size_t rows, size_t cols) {
    char name[NAMES_MAX + 16];
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    gguf_write_tensor(w, name, DT_F32, 2, (size_t[]){rows, cols});
}

static void declare_entry(gguf_write *w, const entry *e) {
    declare(w, e->name, IMATRIX_SUMS, 1, e->cols);
    declare(w, e->name, IMATRIX_COUNTS, 1, 1);
    if (e->input && e->input->blocks)
        declare(w, e->name, IMATRIX_BLOCKS, e->cols, INPUT_STATS_BLOCK);
    if (e->input)
        declare(w, e->name, IMATRIX_PEAKS, 1, INPUT_STATS_PEAKS);
    if (e->out)
        declare(w, e->name, IMATRIX_OUT, 1, 1);
}

static nib_status write_entry(gguf_write *w, const entry *e, nib_error *err) {
    NIB_TRY(gguf_write_data(w, e->of->sums, e->cols * sizeof(float), err));
    NIB_TRY(gguf_write_data(w, &e->of->count, sizeof(float), err));
    if (e->input && e->input->blocks)
        NIB_TRY(gguf_write_data(w, e->input->blocks, e->cols * INPUT_STATS_BLOCK * sizeof(float), err));
    if (e->input)
        NIB_TRY(gguf_write_data(w, e->input->peaks, sizeof e->input->peaks, err));
    return e->out ? gguf_write_data(w, e->out->peaks, sizeof(float), err) : NIB_OK;
}

static nib_status write_all(gguf_write *w, const entries *e, const imatrix_about *about, nib_error *err) {
    const strview dataset = strview_of(about->dataset);
    gguf_write_text(w, "general.type", strview_of("imatrix"));
    gguf_write_texts(w, "imatrix.datasets", &dataset, 1);
    gguf_write_u32(w, "imatrix.chunk_count", (uint32_t)about->n_windows);
    gguf_write_u32(w, "imatrix.chunk_size", (uint32_t)about->chunk_size);
    for (size_t i = 0; i < e->n; i++)
        declare_entry(w, &e->list[i]);
    NIB_TRY(gguf_write_begin(w, err));
    for (size_t i = 0; i < e->n; i++)
        NIB_TRY(write_entry(w, &e->list[i], err));
    return NIB_OK;
}

nib_status imatrix_write(const input_stats *stats, const model_file *file, const char *path,
                         imatrix_about *about, nib_error *err) {
    gguf_write *w = NULL;
    entries e = {0};
    nib_status status = find_entries(&e, stats, file, err);
    about->n_tensors = e.n;
    if (status == NIB_OK)
        status = gguf_write_open(&w, path, err);
    if (status == NIB_OK) {
        status = write_all(w, &e, about, err);
        if (status == NIB_OK)
            status = gguf_write_commit(w, NULL, err);
        else
            gguf_write_abandon(w);
    }
    mem_free(e.list);
    return status;
}

/* ---- reading ---- */

typedef struct reading {
    input_stats *out;
    const gguf *g;
    const hparams *hp;
    imatrix_about *about;
    nib_error *err;
} reading;

static bool ends_with(const char *name, const char *suffix, strview *stem) {
    const size_t n = strlen(name), m = strlen(suffix);
    *stem = (strview){name, n > m ? n - m : 0};
    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* The rows that were added up beside T. */
static nib_status read_count(const reading *r, const gguf_tensor *t, strview stem, float *count) {
    char name[256];
    const int n = snprintf(name, sizeof name, "%.*s" IMATRIX_COUNTS, (int)stem.n, stem.p);
    const gguf_tensor *c = n > 0 && (size_t)n < sizeof name ? gguf_find_tensor(r->g, name) : NULL;
    if (!c || c->dtype != DT_F32 || c->bytes != sizeof *count)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: tensor %s has no " IMATRIX_COUNTS " of one F32 beside it",
                        r->g->where, QUOTEZ(t->name));
    memcpy(count, c->data, sizeof *count);
    if (!(*count >= 0 && isfinite(*count)))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s counts %g rows", r->g->where, QUOTE(stem),
                        (double)*count);
    return NIB_OK;
}

/* *out = T's FP32 numbers, a row of COLS (of which one at a time is told of) after the other; freed by the
 * caller. */
static nib_status read_numbers(const reading *r, const gguf_tensor *t, size_t rows, size_t cols,
                               float **out) {
    if (t->dtype != DT_F32 || t->dims[0] != cols || t->bytes != rows * cols * sizeof **out)
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: tensor %s has %llu columns and %zu bytes; expected F32 [%zu, %zu] for the "
                        "model's inputs",
                        r->g->where, QUOTEZ(t->name), (unsigned long long)t->dims[0], (size_t)t->bytes, rows,
                        cols);
    *out = mem_array(rows, cols * sizeof **out);
    if (!*out)
        return nib_fail(r->err, NIB_NO_MEMORY, "%s: no memory for %zu columns", r->g->where, cols);
    memcpy(*out, t->data, t->bytes);
    return NIB_OK;
}

static nib_status no_sums(const reading *r, const gguf_tensor *t, double value) {
    return nib_fail(r->err, NIB_BAD_FILE, "%s: tensor %s holds %g, which is no sum of squares", r->g->where,
                    QUOTEZ(t->name), value);
}

static nib_status read_sums(const reading *r, const gguf_tensor *t, strview stem, place p) {
    input_stat *to = input_stats_at(r->out, p.slot, p.layer);
    const size_t cols = input_stats_cols(r->hp, input_stats_slot(p.slot), p.layer < 0 ? 0 : p.layer);
    float count, *sums = NULL;
    NIB_TRY(read_numbers(r, t, 1, cols, &sums));
    nib_status status = read_count(r, t, stem, &count);
    for (size_t i = 0; status == NIB_OK && i < cols && count > 0; i++)
        if (!(sums[i] >= 0 && isfinite(sums[i] / count)))
            status = no_sums(r, t, (double)sums[i]);
    if (status != NIB_OK || count == 0 || to->sums) {
        mem_free(sums);
        return status;
    }
    to->sums = sums;
    to->count = count;
    r->about->n_tensors++;
    if (count < 1e15f && (size_t)count > r->about->n_tokens) /* what is shown: some count calls, not rows */
        r->about->n_tokens = (size_t)count;
    return NIB_OK;
}

/* Whether codes can be chosen by them. */
static nib_status check_blocks(const reading *r, const gguf_tensor *t, const float *blocks, float count,
                               size_t cols) {
    float *means = mem_array(cols, INPUT_STATS_BLOCK * sizeof *means);
    gptq_factor f = {0};
    if (!means)
        return nib_fail(r->err, NIB_NO_MEMORY, "%s: no memory for %zu columns", r->g->where, cols);
    bool fine = true;
    for (size_t i = 0; i < cols * INPUT_STATS_BLOCK; i++) {
        means[i] = blocks[i] / count;
        fine &= isfinite(means[i]) != 0;
    }
    for (size_t i = 0; i < cols; i++)
        fine &= means[i * INPUT_STATS_BLOCK + i % INPUT_STATS_BLOCK] >= 0;
    nib_status status =
        fine ? gptq_factor_of_blocks(&f, means, cols, GPTQ_BLOCKS, GPTQ_LOCAL_SHRINK, r->err) : NIB_BAD_FILE;
    gptq_factor_free(&f);
    mem_free(means);
    return status == NIB_BAD_FILE
               ? nib_fail(r->err, NIB_BAD_FILE, "%s: tensor %s holds no sums of products of inputs",
                          r->g->where, QUOTEZ(t->name))
               : status;
}

static nib_status read_blocks(const reading *r, const gguf_tensor *t, strview stem, place p) {
    input_stat *to = input_stats_at(r->out, input_stats_slot(p.slot), p.layer);
    const size_t cols = input_stats_cols(r->hp, input_stats_slot(p.slot), p.layer < 0 ? 0 : p.layer);
    float count, *blocks = NULL;
    if (cols % INPUT_STATS_BLOCK)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: tensor %s is of an input of %zu columns, no whole blocks",
                        r->g->where, QUOTEZ(t->name), cols);
    NIB_TRY(read_numbers(r, t, cols, INPUT_STATS_BLOCK, &blocks));
    nib_status status = read_count(r, t, stem, &count);
    if (status == NIB_OK && count > 0)
        status = check_blocks(r, t, blocks, count, cols);
    if (status != NIB_OK || count == 0 || to->blocks) {
        mem_free(blocks);
        return status;
    }
    to->blocks = blocks;
    to->blocks_count = count;
    return NIB_OK;
}

/* N numbers: the largest, then the others in order. A file's first of an input counts. */
static nib_status read_peaks(const reading *r, const gguf_tensor *t, size_t n, input_stat *to) {
    float *peaks = NULL;
    NIB_TRY(read_numbers(r, t, 1, n, &peaks));
    bool fine = peaks[0] >= 0 && isfinite(peaks[0]);
    for (size_t i = 1; i < n; i++)
        fine &= peaks[i] >= (i > 1 ? peaks[i - 1] : 0) && peaks[i] <= peaks[0];
    if (fine && !to->has_peaks) {
        memcpy(to->peaks, peaks, n * sizeof *peaks);
        to->has_peaks = true;
    }
    mem_free(peaks);
    return fine ? NIB_OK
                : nib_fail(r->err, NIB_BAD_FILE, "%s: tensor %s holds no magnitudes in order", r->g->where,
                           QUOTEZ(t->name));
}

/* Whose statistics stand under STEM, if a layer's of this network. */
static bool find_place(const reading *r, strview stem, place *p) {
    size_t rows, cols;
    return names_from_gguf(r->hp->family, stem, p) && has_entry(*p) && p->layer < r->hp->n_layers &&
           (hparams_has(r->hp, p->slot, &rows, &cols) || (p->slot == SLOT_HEAD && r->hp->tied));
}

static nib_status read_tensor(const reading *r, const gguf_tensor *t) {
    static const char *const suffixes[] = {IMATRIX_SUMS, IMATRIX_BLOCKS, IMATRIX_PEAKS, IMATRIX_OUT};
    strview stem = {0};
    size_t what = 0;
    place p;
    while (what < 4 && !ends_with(t->name, suffixes[what], &stem))
        what++;
    if (what == 4)
        return NIB_OK;
    if (!find_place(r, stem, &p)) {
        r->about->n_unused += what == 0;
        return NIB_OK;
    }
    switch (what) {
    case 0:
        return read_sums(r, t, stem, p);
    case 1:
        return read_blocks(r, t, stem, p);
    case 2:
        return read_peaks(r, t, INPUT_STATS_PEAKS, input_stats_at(r->out, input_stats_slot(p.slot), p.layer));
    default:
        return out_slot(p.slot) ? read_peaks(r, t, 1, input_stats_at(r->out, out_slot(p.slot), p.layer))
                                : NIB_OK;
    }
}

/* A tied head's is the embedding's, which is quantized as the head. */
static nib_status share_head(const reading *r) {
    const input_stat *head = input_stats_at(r->out, SLOT_HEAD, 0);
    input_stat *embed = input_stats_at(r->out, SLOT_EMBED, 0);
    const size_t cols = input_stats_cols(r->hp, SLOT_HEAD, 0);
    if (!r->hp->tied || !head->sums)
        return NIB_OK;
    *embed = (input_stat){.count = head->count, .sums = mem_array(cols, sizeof *embed->sums)};
    if (!embed->sums)
        return nib_fail(r->err, NIB_NO_MEMORY, "%s: no memory for %zu columns", r->g->where, cols);
    memcpy(embed->sums, head->sums, cols * sizeof *embed->sums);
    return NIB_OK;
}

static nib_status read_all(const reading *r, const model_file *file) {
    strview type;
    bool found;
    NIB_TRY(gguf_get_text(r->g, "general.type", &type, &found, r->err));
    if (!found || !strview_is(type, "imatrix"))
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: no importance matrix; expected a GGUF file with general.type \"imatrix\"",
                        r->g->where);
    NIB_TRY(input_stats_open(r->out, r->hp->n_layers, r->err));
    for (size_t i = 0; i < r->g->n_tensors; i++)
        NIB_TRY(read_tensor(r, &r->g->tensors[i]));
    if (r->about->n_tensors == 0)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: is of none of the linear layers of %s", r->g->where,
                        file->path);
    return share_head(r);
}

nib_status imatrix_read(input_stats *out, const model_file *file, const char *path, imatrix_about *about,
                        nib_error *err) {
    gguf g = {0};
    *out = (input_stats){0};
    *about = (imatrix_about){0};
    NIB_TRY(model_file_need_network(file, err));
    const reading r = {out, &g, &file->hp, about, err};
    nib_status status = gguf_open(&g, path, err);
    if (status == NIB_OK)
        status = read_all(&r, file);
    gguf_close(&g);
    if (status != NIB_OK)
        input_stats_free(out);
    return status;
}

/* ---- what is needed ---- */

static nib_status lacks(const char *path, const char *what, const char *suffix, const tensor *t,
                        const char *whose, nib_error *err) {
    return nib_fail(
        err, NIB_BAD_ARGUMENT,
        "%s: has no %s (%s) of %s, which %s needs; expected a file of nibble calibrate, or the text "
        "itself by --calib in its place",
        path, what, suffix, QUOTEZ(t->name), whose);
}

nib_status imatrix_check(const input_stats *s, const model_file *file, const char *path,
                         const imatrix_needs *needs, nib_error *err) {
    for (size_t i = 0; i < file->n_tensors; i++) {
        const tensor *t = &file->tensors[i];
        const slot as = t->place.slot;
        const bool head = as == SLOT_HEAD || (as == SLOT_EMBED && file->hp.tied);
        const bool linear = place_is_linear(as) && t->place.expert == PLACE_NO_EXPERT;
        if (!linear && !(head && needs->head))
            continue;
        const input_stat *input = input_stats_at(s, input_stats_slot(as), t->place.layer);
        if (needs->blocks && !input->blocks && t->cols % INPUT_STATS_BLOCK == 0)
            return lacks(path, "second moments inside blocks", IMATRIX_BLOCKS, t, needs->blocks, err);
        if (needs->peaks && linear && !input->has_peaks)
            return lacks(path, "largest inputs", IMATRIX_PEAKS, t, needs->peaks, err);
        if (needs->keys && out_slot(as) && !input_stats_at(s, out_slot(as), t->place.layer)->has_peaks)
            return lacks(path, "largest key or value", IMATRIX_OUT, t, needs->keys, err);
    }
    return NIB_OK;
}
