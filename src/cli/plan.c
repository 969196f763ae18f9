/* SPDX-License-Identifier: Apache-2.0
 *
 * See plan.h.
 */
#include "cli/plan.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/quote.h"
#include "cli/files.h"
#include "cli/plan_measure.h"
#include "convert/recipe.h"
#include "store/names.h"

static const char *const names[] = {
    [QF_NVFP4] = "nvfp4", [QF_MXFP4] = "mxfp4", [QF_FP8] = "fp8",  [QF_Q5_0] = "q5_0",
    [QF_Q8_0] = "q8_0",   [QF_BF16] = "bf16",   [QF_KEEP] = "keep"};

/* ---- choosing ---- */

typedef struct choosing {
    plan *p;
    const plan_options *o;
    bool keeps;    /* what the source has, where that is no wider than BF16, rather than BF16 */
    double budget; /* bits left */
} choosing;

/* Bits per weight of PART as the source stores it. */
static double stored_bits(const sensitivity_part *part) {
    double bytes = 0;
    for (int i = 0; i < part->n; i++)
        bytes += (double)tensor_total_bytes(part->matrices[i]);
    return 8 * bytes / (double)part->elements;
}

static bool is_of_a_part(const sensitivity *s, const tensor *t) {
    for (size_t i = 0; i < s->n; i++)
        for (int j = 0; j < s->parts[i].n; j++)
            if (s->parts[i].matrices[j] == t)
                return true;
    return false;
}

/* Adds the linear layers that are of no part, since their rows are no whole number of blocks: they stay as
 * they are, or have 16 bits in the other kind of file. */
static void add_misfits(const choosing *c, const model_file *file, double *elements, double *bits) {
    const bool carried = (c->o->convert->out == OUT_GGUF) == (file->format == FORMAT_GGUF);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const tensor *t = &file->tensors[i];
        if (!place_is_linear(t->place.slot) || t->place.expert != PLACE_NO_EXPERT ||
            is_of_a_part(&c->p->found, t))
            continue;
        const double n = (double)t->rows * (double)t->cols;
        *elements += n;
        *bits += carried ? 8 * (double)tensor_total_bytes(t) : 16 * n;
    }
}

static quant_format wide_of(const choosing *c, const sensitivity_part *part) {
    return c->keeps && stored_bits(part) <= 16 ? QF_KEEP : QF_BF16;
}

static double bits_of(const sensitivity_part *part, quant_format f) {
    static const double bits[] = {
        [QF_NVFP4] = 4.5, [QF_FP8] = 8, [QF_Q5_0] = 5.5, [QF_Q8_0] = 8.5, [QF_BF16] = 16};
    return f == QF_KEEP ? stored_bits(part) : bits[f];
}

/* Its divergence grows with the squared error that the inputs see. */
static double kld_of(const sensitivity_part *part, quant_format f) {
    const double kld = part->kld > 0 ? part->kld : 0;
    const double error = f == QF_Q5_0 ? part->error5 : f == QF_FP8 || f == QF_Q8_0 ? part->error8 : 0;
    return f == QF_NVFP4 ? kld : part->error4 > 0 ? kld * error / part->error4 : 0;
}

/* The next wider format; what the source stores in no more bits than that comes at once, since it loses
 * nothing. */
static quant_format next_of(const choosing *c, const sensitivity_part *part, quant_format f) {
    const quant_format wide = wide_of(c, part), next = !c->p->to_gguf  ? QF_FP8
                                                       : f == QF_NVFP4 ? QF_Q5_0
                                                                       : QF_Q8_0;
    return bits_of(part, next) > bits_of(part, f) && bits_of(part, wide) > bits_of(part, next) ? next : wide;
}

/* The best step that fits; false where none does or helps. */
static bool step_up(choosing *c) {
    plan *p = c->p;
    double best = 0, best_cost = 0;
    size_t at = 0;
    for (size_t i = 0; i < p->found.n; i++) {
        const sensitivity_part *part = &p->found.parts[i];
        const quant_format now = p->part_formats[i], next = next_of(c, part, now);
        if (now == next)
            continue;
        const double cost = (bits_of(part, next) - bits_of(part, now)) * (double)part->elements;
        const double gain = (kld_of(part, now) - kld_of(part, next)) / (cost > 0 ? cost : 1);
        if (cost <= c->budget && gain > best) {
            best = gain;
            best_cost = cost;
            at = i;
        }
    }
    if (best == 0)
        return false;
    p->part_formats[at] = next_of(c, &p->found.parts[at], p->part_formats[at]);
    c->budget -= best_cost;
    return true;
}

static void choose(plan *p, const model_file *file, const plan_options *o) {
    p->to_gguf = o->convert->out == OUT_GGUF;
    choosing c = {.p = p, .o = o, .keeps = p->to_gguf && file->format == FORMAT_GGUF};
    double elements = 0, bits = 0, least;
    add_misfits(&c, file, &elements, &bits);
    least = bits;
    for (size_t i = 0; i < p->found.n; i++) {
        p->part_formats[i] = QF_NVFP4;
        elements += (double)p->found.parts[i].elements;
        least += bits_of(&p->found.parts[i], QF_NVFP4) * (double)p->found.parts[i].elements;
    }
    c.budget = o->size_bytes ? o->spare_bits : o->bits * elements - least;
    while (step_up(&c))
        ;
    for (size_t i = 0; i < p->found.n; i++) {
        const sensitivity_part *part = &p->found.parts[i];
        for (int j = 0; j < part->n; j++)
            p->formats[part->matrices[j] - file->tensors] = p->part_formats[i];
        bits += bits_of(part, p->part_formats[i]) * (double)part->elements;
        p->kld_before += kld_of(part, QF_NVFP4);
        p->kld_after += kld_of(part, p->part_formats[i]);
    }
    p->bits = elements > 0 ? bits / elements : 0;
    p->is_over = c.budget < 0;
}

static nib_status open_plan(plan *p, const model_file *file, nib_error *err) {
    *p = (plan){.formats = mem_array(file->n_tensors, sizeof *p->formats)};
    return p->formats ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a plan", file->path);
}

nib_status plan_choose(plan *out, const model_file *file, const plan_options *o, nib_error *err) {
    NIB_TRY(open_plan(out, file, err));
    NIB_TRY(plan_measure(out, file, o, err));
    out->part_formats = mem_array(out->found.n + 1, sizeof *out->part_formats);
    if (!out->part_formats)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a plan", file->path);
    choose(out, file, o);
    return NIB_OK;
}

/* ---- reading ---- */

static nib_status read_format(quant_format *out, const char *path, size_t part, const json_t *format,
                              nib_error *err) {
    const char *text = json_string_value(format);
    for (int f = QF_NVFP4; text && f <= QF_KEEP; f++)
        if (f != QF_MXFP4 && strcasecmp(text, names[f]) == 0) {
            *out = (quant_format)f;
            return NIB_OK;
        }
    return nib_fail(err, NIB_BAD_FILE,
                    "%s: part %zu: \"format\" is %s; expected \"nvfp4\", \"fp8\", "
                    "\"q5_0\", \"q8_0\", \"bf16\" or \"keep\"",
                    path, part,
                    text     ? QUOTEZ(text)
                    : format ? "no string"
                             : "missing");
}

/* The linear layer at AT; n_tensors: FILE has none there. */
static size_t find_place(const model_file *file, place at) {
    size_t i = 0;
    while (i < file->n_tensors && !(place_is_linear(at.slot) && place_equal(file->tensors[i].place, at)))
        i++;
    return i;
}

/* By FILE's name, or by the other container's: a plan made with --smooth has the copy's. */
static size_t find_linear(const model_file *file, const char *name) {
    place at;
    for (size_t i = 0; i < file->n_tensors; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return place_is_linear(file->tensors[i].place.slot) ? i : file->n_tensors;
    if (names_from_gguf(file->hp.family, strview_of(name), &at) ||
        names_from_hf(file->hp.family, strview_of(name), &at))
        return find_place(file, at);
    return file->n_tensors;
}

static nib_status read_part(plan *p, const model_file *file, const char *path, size_t i, const json_t *part,
                            bool *seen, nib_error *err) {
    const json_t *tensors = json_object_get(part, "tensors");
    quant_format format = QF_NVFP4;
    NIB_TRY(read_format(&format, path, i, json_object_get(part, "format"), err));
    if (!json_is_array(tensors))
        return nib_fail(err, NIB_BAD_FILE, "%s: part %zu: \"tensors\" is no list of names", path, i);
    for (size_t j = 0; j < json_array_size(tensors); j++) {
        const char *name = json_string_value(json_array_get(tensors, j));
        const size_t k = name ? find_linear(file, name) : file->n_tensors;
        if (k == file->n_tensors)
            return nib_fail(
                err, NIB_BAD_FILE,
                "%s: part %zu names %s, which is no linear layer of %s (the head's format is --head's)", path,
                i, name ? QUOTEZ(name) : "what is no string", file->path);
        if (seen[k])
            return nib_fail(err, NIB_BAD_FILE, "%s: part %zu names %s again", path, i, QUOTEZ(name));
        seen[k] = true;
        p->formats[k] = format;
    }
    return NIB_OK;
}

static nib_status read_parts(plan *p, const model_file *file, const char *path, const json_t *root,
                             nib_error *err) {
    const json_t *parts = json_object_get(root, "parts");
    if (json_integer_value(json_object_get(root, "nibble_plan")) != 1 || !json_is_array(parts))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: no plan; expected {\"nibble_plan\": 1, \"parts\": [...]}, as --save-plan writes",
                        path);
    bool *seen = mem_array(file->n_tensors, sizeof *seen);
    nib_status status = seen ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a plan", file->path);
    for (size_t i = 0; i < json_array_size(parts) && status == NIB_OK; i++)
        status = read_part(p, file, path, i, json_array_get(parts, i), seen, err);
    mem_free(seen);
    return status;
}

nib_status plan_read(plan *out, const model_file *file, const char *path, nib_error *err) {
    json_t *root;
    NIB_TRY(open_plan(out, file, err));
    NIB_TRY(files_read_json(path, &root, err));
    const nib_status status = read_parts(out, file, path, root, err);
    json_decref(root);
    return status;
}

nib_status plan_move(plan *p, const model_file *from, const model_file *to, nib_error *err) {
    if (!p->formats)
        return NIB_OK;
    quant_format *formats = mem_array(to->n_tensors, sizeof *formats);
    if (!formats)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a plan", from->path);
    for (size_t i = 0; i < from->n_tensors; i++) {
        const size_t k = find_place(to, from->tensors[i].place);
        if (k < to->n_tensors)
            formats[k] = p->formats[i];
    }
    mem_free(p->formats);
    p->formats = formats;
    return NIB_OK;
}

/* ---- writing ---- */

/* NULL without memory, as of the two below. */
static json_t *names_json(const sensitivity_part *part) {
    json_t *tensors = json_array();
    for (int j = 0; j < part->n; j++)
        if (json_array_append_new(tensors, json_string(part->matrices[j]->name)) != 0) {
            json_decref(tensors);
            return NULL;
        }
    return tensors;
}

static json_t *part_json(const plan *p, size_t i) {
    const sensitivity_part *part = &p->found.parts[i];
    json_t *out = json_pack("{s:o, s:s, s:i, s:I, s:f, s:f, s:f}", "tensors", names_json(part), "format",
                            names[p->part_formats[i]], "layer", part->layer, "weights",
                            (json_int_t)part->elements, "kld_nvfp4", part->kld, "kld_8bit",
                            kld_of(part, QF_Q8_0), "kld", kld_of(part, p->part_formats[i]));
    if (out && p->to_gguf && json_object_set_new(out, "kld_5bit", json_real(kld_of(part, QF_Q5_0))) != 0) {
        json_decref(out);
        return NULL;
    }
    return out;
}

static json_t *parts_json(const plan *p) {
    json_t *parts = json_array();
    for (size_t i = 0; i < p->found.n; i++)
        if (json_array_append_new(parts, part_json(p, i)) != 0) {
            json_decref(parts);
            return NULL;
        }
    return parts;
}

nib_status plan_write(const plan *p, const char *path, nib_error *err) {
    json_t *root = json_pack("{s:i, s:f, s:f, s:f, s:f, s:o}", "nibble_plan", 1, "bits", p->bits,
                             "kld_sum_nvfp4", p->kld_before, "kld_sum", p->kld_after, "kld_nvfp4",
                             p->found.kld_all, "parts", parts_json(p));
    /* json_dumps would leave out of a key what its memory does not suffice for; this one needs none */
    const size_t flags = JSON_INDENT(1) | JSON_REAL_PRECISION(6),
                 n = root ? json_dumpb(root, NULL, 0, flags) : 0;
    char *text = n ? mem_alloc(n + 1) : NULL;
    const bool made = text && json_dumpb(root, text, n, flags) == n;
    json_decref(root);
    if (!made) {
        mem_free(text);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a plan", path);
    }
    text[n] = '\n';
    outfile *file = NULL;
    nib_status status = outfile_open(&file, path, err);
    if (status == NIB_OK) {
        status = outfile_write(file, text, n + 1, err);
        if (status == NIB_OK)
            status = outfile_commit(file, err);
        else
            outfile_abandon(file);
    }
    mem_free(text);
    return status;
}

/* ---- printing ---- */

static const char *part_name(const sensitivity_part *part) {
    static const char *const joined[] = {"", "", "attn_q, k, v"};
    const slot first = part->matrices[0]->place.slot;
    return part->n == 3 ? joined[2] : part->n == 2 ? "ffn_gate, up" : slot_name(first);
}

static const ui_column columns[] = {{"part", "part", false},
                                    {"layer", "layer", true},
                                    {"format", "format", false},
                                    {"weights", "weights", true},
                                    {"KLD in NVFP4", "kld_nvfp4", true},
                                    {"KLD now", "kld", true}};

void plan_print(const plan *p) {
    ui_table t = {.columns = columns, .n_columns = sizeof columns / sizeof *columns};
    size_t n = 0;
    bool ok = true;
    if (!p->found.n)
        return;
    for (size_t i = 0; i < p->found.n && ok; i++) {
        const sensitivity_part *part = &p->found.parts[i];
        if (p->part_formats[i] == QF_NVFP4)
            continue;
        n++;
        ok = ui_table_add(&t, "%s", part_name(part)) && ui_table_add(&t, "%d", part->layer) &&
             ui_table_add(&t, "%s", names[p->part_formats[i]]) &&
             ui_table_add(&t, "%llu", (unsigned long long)part->elements) &&
             ui_table_add(&t, "%.5f", part->kld) &&
             ui_table_add(&t, "%.5f", kld_of(part, p->part_formats[i]));
    }
    printf("Plan: %zu of %zu parts get more than NVFP4 has, %.3f bits a weight; measured in %.0f s on %d "
           "tokens of %s\n\n",
           n, p->found.n, p->bits, p->found.seconds, p->n_tokens, p->text);
    if (p->is_over)
        printf(
            "That is more than was asked for: linear layers whose rows are no whole number of blocks stay as "
            "they are, and count.\n\n");
    if (n && ok)
        ui_table_print(&t, UI_MD, stdout);
    printf("\nKLD expected %.4f, where all in NVFP4 have %.4f (%.4f is the sum of the parts, each alone in "
           "NVFP4)\n\n",
           p->kld_before > 0 ? p->found.kld_all * p->kld_after / p->kld_before : 0, p->found.kld_all,
           p->kld_before);
    ui_table_free(&t);
}

void plan_print_json(const plan *p, const char *path) {
    if (!p->formats) {
        printf("null");
        return;
    }
    printf("{\"file\": ");
    if (path)
        ui_json_string(stdout, path);
    else
        printf("null");
    if (p->found.n) {
        printf(", \"text\": ");
        ui_json_string(stdout, p->text);
        printf(", \"tokens\": %d", p->n_tokens);
        printf(", \"bits\": %.4f, \"kld_nvfp4\": %.6f, \"kld_sum_nvfp4\": %.6f, \"kld_sum\": %.6f, "
               "\"seconds\": %.1f",
               p->bits, p->found.kld_all, p->kld_before, p->kld_after, p->found.seconds);
    }
    printf("}");
}

void plan_free(plan *p) {
    sensitivity_free(&p->found);
    mem_free(p->formats);
    mem_free(p->part_formats);
    *p = (plan){0};
}
