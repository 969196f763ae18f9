/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of work: recipe, one look at every tensor (largest magnitudes, exact float types), scales, then
 * the writer of the output's kind, which encodes one tensor after the other.
 */
#include "convert/convert.h"

#include <float.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/quote.h"
#include "convert/branches.h"
#include "convert/kv_scales.h"
#include "convert/sources.h"
#include "num/nvfp4.h"

typedef struct convert_run {
    const model_file *in;
    const char *out_path;
    const convert_options *o;
    pool *pool;
    recipe recipe;
    export_item *written;  /* [recipe.n] */
    encode_error *errors;  /* [recipe.n] */
    uint64_t *bytes_after; /* [recipe.n] elements and scales as written */
    uint64_t done, total;  /* elements, for the progress */
    uint64_t file_bytes;   /* of the files that hold tensors */
    int n_scales_rounded, n_input_scales;
} convert_run;

static encode_job job_of(convert_run *run, size_t i) {
    return (encode_job){.item = &run->recipe.items[i].e,
                        .where = run->in->path,
                        .pool = run->pool,
                        .progress = run->o->progress,
                        .done = &run->done,
                        .total = run->total,
                        .interrupted = run->o->interrupted};
}

/* ---- before writing ---- */

static bool needs_measure(const recipe_item *item) {
    return item->e.action == ENCODE_QUANTIZE || (item->e.action == ENCODE_CAST && item->e.to == DT_NONE);
}

static nib_status measure(convert_run *run, nib_error *err) {
    recipe *r = &run->recipe;
    for (size_t i = 0; i < r->n; i++) {
        recipe_item *item = &r->items[i];
        dtype exact;
        if (!needs_measure(item))
            continue;
        encode_job job = job_of(run, i);
        NIB_TRY(encode_measure(&job, &item->amax, &exact, err));
        if (item->e.action == ENCODE_CAST)
            item->e.to = exact;
    }
    return NIB_OK;
}

/* MXFP4 becomes NVFP4 without loss when the tensor scale is a power of two: each block of 32 is two of 16
 * under the same power, which E4M3 holds for 18 of them. The sweep finds it, its error being 0. */
static void choose_cast(scale_search *s, float amax, bool ct, bool fp8_exact) {
    scale_search_init(s, QM_SWEEP, amax, ct, NULL);
    s->fp8_exact = fp8_exact;
    if (amax / 6.0f > 0) {
        /* the largest block's scale lies in (128, 256], or in (32, 64] */
        int power = (int)ceilf(log2f(amax / 6.0f)) - (fp8_exact ? 6 : 8);
        if (power > -126)
            s->tensor_scale = ldexpf(1.0f, power);
    }
    s->global_scale = ct ? 1.0f / s->tensor_scale : 0.0f;
}

/* A tensor scale of 1, to which the method comes when this is the largest magnitude. */
static void choose_unit(scale_search *s, quant_method method, const float *weights) {
    scale_search_init(s, method, method == QM_FOUR_OVER_SIX ? 1536.0f : NVFP4_MAX, false, weights);
}

static void choose_scale(convert_run *run, recipe_item *item, float amax) {
    bool ct = run->o->out == OUT_COMPRESSED_TENSORS;
    const bool swept = run->o->method == QM_LOCAL || (run->o->method == QM_WEIGHTED && !item->e.weights);
    quant_method method = swept ? QM_SWEEP : run->o->method;
    bool exact = run->o->fp8_exact && dtype_is_nvfp4(item->e.to);
    bool casts = recipe_casts(item);
    if (dtype_is_nvfp4(item->e.to) && item->unit_scale) {
        /* the sweep again is exact, where the powers are 2^-9 to 2^8 */
        choose_unit(&item->e.search, casts ? QM_SWEEP : method, casts ? NULL : item->e.weights);
        item->e.search.fp8_exact = exact;
        return;
    }
    if (casts) {
        choose_cast(&item->e.search, amax, ct, exact);
        return;
    }
    (exact ? scale_search_init_fp8_exact : scale_search_init)(&item->e.search, method, amax, ct,
                                                              item->e.weights);
    if (item->e.to == DT_F8_E4M3)
        item->e.search.tensor_scale = amax > 0 ? fmaxf(amax / 448.0f, FLT_MIN) : 1.0f;
    else if (!dtype_is_nvfp4(item->e.to))
        item->e.search.tensor_scale = 1.0f;
}

/* Members of a group get the scale of the largest of them. */
static nib_status choose_scales(convert_run *run, nib_error *err) {
    recipe *r = &run->recipe;
    float *amax = mem_array((size_t)r->n_groups + 1, sizeof *amax);
    if (!amax)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %d tensors", run->in->path, r->n_groups);
    for (size_t i = 0; i < r->n; i++)
        if (r->items[i].e.action == ENCODE_QUANTIZE)
            amax[r->items[i].group] = fmaxf(amax[r->items[i].group], r->items[i].amax);
    for (size_t i = 0; i < r->n; i++)
        if (r->items[i].e.action == ENCODE_QUANTIZE)
            choose_scale(run, &r->items[i], amax[r->items[i].group]);
    mem_free(amax);
    return NIB_OK;
}

/* ---- codes that the caller chooses ---- */

static bool is_chosen_elsewhere(const convert_options *o, const recipe_item *item) {
    return o->choose && recipe_has_choice(item);
}

static nib_status choose_codes(convert_run *run, nib_error *err) {
    recipe *r = &run->recipe;
    convert_matrix *matrices = mem_array(r->n, sizeof *matrices);
    size_t n = 0;
    if (!matrices)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", run->in->path, r->n);
    for (size_t i = 0; i < r->n; i++)
        if (is_chosen_elsewhere(run->o, &r->items[i]))
            matrices[n++] = (convert_matrix){.t = r->items[i].e.t,
                                             .slot = r->items[i].e.slot,
                                             .to = r->items[i].e.to,
                                             .tensor_scale = r->items[i].e.search.tensor_scale,
                                             .fp8_exact = run->o->fp8_exact,
                                             .rank = recipe_rank(run->o, &r->items[i])};
    nib_status status = n ? run->o->choose(run->o->choose_context, matrices, n, err) : NIB_OK;
    n = 0;
    for (size_t i = 0; i < r->n && status == NIB_OK; i++)
        if (is_chosen_elsewhere(run->o, &r->items[i])) {
            r->items[i].e.codes = matrices[n].codes;
            r->items[i].e.scales = matrices[n].scales;
            r->items[i].e.branch = matrices[n++].branch;
        }
    mem_free(matrices);
    return status == NIB_OK ? branches_add(r, err) : status;
}

/* ---- what is written ---- */

/* The output's dims of an item's elements, outermost first; returns how many. */
static int dims_of(const encode_item *e, size_t dims[TENSOR_MAX_DIMS]) {
    const tensor *t = e->t;
    if (!t->block_scales) {
        memcpy(dims, t->dims, sizeof t->dims);
        if (t->n_dims && e->to != t->dtype && (e->to == DT_NVFP4 || e->to == DT_MXFP4))
            dims[t->n_dims - 1] /= 2;
        return t->n_dims;
    }
    bool packed = e->to == DT_NVFP4 || e->to == DT_MXFP4;
    dims[0] = t->rows;
    dims[1] = packed ? t->cols / 2 : t->cols;
    return 2;
}

/* compressed-tensors' divisors. */
static nib_status find_divisors(convert_run *run, const encode_item *e, export_item *x, nib_error *err) {
    float scale = x->tensor_scale;
    x->scale_divisor = e->action == ENCODE_QUANTIZE ? e->search.global_scale : scale_search_reciprocal(scale);
    if (!(scale > 0) || !(x->scale_divisor > 0) || x->scale_divisor > 3.4e38f)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: the scale %g of tensor %s has no reciprocal to divide by",
                        run->in->path, (double)scale, QUOTEZ(e->t->name));
    run->n_scales_rounded += 1.0f / x->scale_divisor != scale;
    x->input_divisor = x->input_scale > 0 ? scale_search_reciprocal(x->input_scale) : 0;
    return NIB_OK;
}

/* What a static scale of E's inputs has to span is the largest of them, and room. */
static float input_scale_of(convert_run *run, const encode_item *e) {
    const convert_options *o = run->o;
    const bool fp8 = e->to == DT_F8_E4M3 && !(e->action == ENCODE_REPACK && e->t->row_scales);
    const bool coded = e->action == ENCODE_QUANTIZE || e->action == ENCODE_REPACK;
    if (!(o->input_room > 0) || !o->reach || !coded || !place_is_linear(e->slot) ||
        !(fp8 || dtype_is_nvfp4(e->to)))
        return e->t->input_scale;
    const float reach = o->reach[(size_t)e->t->place.layer * SLOT_COUNT + e->slot];
    run->n_input_scales += reach > 0;
    return (float)(o->input_room * (double)reach / (fp8 ? 448 : NVFP4_MAX));
}

static nib_status plan_items(convert_run *run, nib_error *err) {
    for (size_t i = 0; i < run->recipe.n; i++) {
        const recipe_item *item = &run->recipe.items[i];
        const encode_item *e = &item->e;
        bool plain = e->action == ENCODE_CARRY || e->action == ENCODE_CAST;
        export_item *x = &run->written[i];
        *x = (export_item){.t = e->t,
                           .slot = item->beside ? SLOT_NONE : e->slot,
                           .name = item->name,
                           .to = e->to,
                           .plain = plain,
                           .tensor_scale = e->action == ENCODE_QUANTIZE ? e->search.tensor_scale
                                           : e->action == ENCODE_CAST   ? 1.0f
                                                                        : e->t->tensor_scale,
                           .input_scale = input_scale_of(run, e),
                           .row_scales = e->action == ENCODE_REPACK ? e->t->row_scales : NULL,
                           .rank = e->branch.rank};
        x->n_dims = dims_of(e, x->dims);
        if (run->o->out == OUT_COMPRESSED_TENSORS && e->to == DT_NVFP4 && !plain)
            NIB_TRY(find_divisors(run, e, x, err));
    }
    return NIB_OK;
}

static nib_status encode(void *context, size_t i, export_sink sink, uint8_t *scales, nib_error *err) {
    convert_run *run = context;
    encode_job job = job_of(run, i);
    return encode_run(&job, (encode_sink){sink.write, sink.context}, scales, &run->errors[i], err);
}

static nib_status write_all(convert_run *run, nib_error *err) {
    static const dtype formats[] = {[QF_NVFP4] = DT_NVFP4, [QF_MXFP4] = DT_MXFP4, [QF_FP8] = DT_F8_E4M3,
                                    [QF_Q5_0] = DT_Q5_0,   [QF_Q8_0] = DT_Q8_0,   [QF_BF16] = DT_BF16};
    export_plan plan = {.in = run->in,
                        .out_path = run->out_path,
                        .out = run->o->out,
                        .format = formats[run->o->format],
                        .unties_head = run->recipe.unties_head,
                        .items = run->written,
                        .n = run->recipe.n,
                        .arena = &run->recipe.arena,
                        .encode = encode,
                        .context = run,
                        .bytes_after = run->bytes_after};
    NIB_TRY(plan_items(run, err));
    NIB_TRY(export_write(&plan, err));
    run->file_bytes = plan.file_bytes;
    return NIB_OK;
}

/* ---- report ---- */

static void add_to_group(convert_run *run, size_t i, convert_report *report, double *errors, double *norms) {
    const recipe_item *item = &run->recipe.items[i];
    const encode_error *e = &run->errors[i];
    int g = 0;
    while (g < report->n_groups && report->groups[g].slot != item->e.slot)
        g++;
    convert_group *group = &report->groups[g];
    if (g == report->n_groups) {
        report->n_groups++;
        *group = (convert_group){.slot = item->e.slot, .from = item->e.t->dtype, .to = item->e.to};
    }
    group->n_tensors++;
    group->from = group->from == item->e.t->dtype ? group->from : DT_NONE;
    group->to = group->to == item->e.to ? group->to : DT_NONE;
    group->elements += (uint64_t)item->e.t->rows * item->e.t->cols;
    group->bytes_before += item->e.slot == item->e.t->place.slot ? tensor_total_bytes(item->e.t) : 0;
    group->bytes_after += run->bytes_after[i];
    errors[2 * g] += e->error;
    norms[2 * g] += e->norm;
    errors[2 * g + 1] += e->weighted_error;
    norms[2 * g + 1] += e->weighted_norm;
}

static void fill_report(convert_run *run, convert_report *report) {
    double errors[2 * SLOT_COUNT] = {0}, norms[2 * SLOT_COUNT] = {0};
    uint64_t bytes = 0, elements = 0, linear_bytes = 0, linear_elements = 0;
    for (size_t i = 0; i < run->recipe.n; i++)
        if (run->recipe.items[i].beside)
            run->bytes_after[run->recipe.items[i].beside - run->recipe.items] += run->bytes_after[i];
    for (size_t i = 0; i < run->recipe.n; i++) {
        const recipe_item *item = &run->recipe.items[i];
        uint64_t n = (uint64_t)item->e.t->rows * item->e.t->cols;
        bool widened = item->e.action == ENCODE_CAST && item->e.to == DT_F32 && item->e.t->n_dims == 2;
        const bool made = item->e.action == ENCODE_QUANTIZE || item->e.action == ENCODE_REPACK;
        if (item->beside)
            continue;
        add_to_group(run, i, report, errors, norms);
        report->n_quantized += item->e.action == ENCODE_QUANTIZE;
        if (item->e.action == ENCODE_QUANTIZE && recipe_casts(item)) {
            report->n_cast++;
            report->n_cast_changed += run->errors[i].changed;
        }
        report->n_widened += widened && item->e.t->dtype != DT_F32;
        report->n_repacked += item->e.action == ENCODE_REPACK;
        report->n_kv_scales += item->e.t->place.slot == SLOT_K_SCALE;
        report->tied_is_quantized |= item->e.slot == SLOT_EMBED && run->recipe.embed_is_head && made;
        bytes += run->bytes_after[i];
        elements += n;
        if (place_is_linear(item->e.slot)) {
            linear_bytes += run->bytes_after[i];
            linear_elements += n;
        }
    }
    for (int g = 0; g < report->n_groups; g++) {
        convert_group *group = &report->groups[g];
        group->relative_error = norms[2 * g] > 0 ? sqrt(errors[2 * g] / norms[2 * g]) : 0;
        group->weighted_error = norms[2 * g + 1] > 0 ? sqrt(errors[2 * g + 1] / norms[2 * g + 1]) : 0;
    }
    report->bytes_before = run->in->file_bytes;
    report->bytes_after = run->file_bytes;
    report->bits_per_weight_all = elements ? 8.0 * (double)bytes / (double)elements : 0;
    report->bits_per_weight_linear =
        linear_elements ? 8.0 * (double)linear_bytes / (double)linear_elements : 0;
    report->n_scales_unread = run->recipe.n_scales_unread;
    report->n_input_scales = run->n_input_scales;
    report->head_is_untied = run->recipe.unties_head;
    report->n_misfits = run->recipe.n_misfits;
    report->n_rounded = run->recipe.n_rounded;
    report->n_split = run->recipe.n_split;
    report->n_skipped = run->recipe.n_skipped;
    report->n_scales_rounded = run->n_scales_rounded;
}

/* ---- all of it ---- */

static nib_status convert_all(convert_run *run, nib_error *err) {
    const recipe *r = &run->recipe;
    NIB_TRY(recipe_make(&run->recipe, run->in, run->o, err));
    NIB_TRY(pool_new(&run->pool, run->o->threads > 1 ? run->o->threads : 1, err));
    for (size_t i = 0; i < r->n; i++) {
        uint64_t n = (uint64_t)r->items[i].e.t->rows * r->items[i].e.t->cols;
        run->total += needs_measure(&r->items[i]) ? 2 * n : n;
    }
    NIB_TRY(measure(run, err));
    NIB_TRY(choose_scales(run, err));
    if (run->o->kv_scales)
        NIB_TRY(kv_scales_add(&run->recipe, run->o->reach, err));
    NIB_TRY(choose_codes(run, err));
    for (size_t i = 0; i < r->n; i++)
        run->total += r->items[i].beside ? (uint64_t)r->items[i].e.t->rows * r->items[i].e.t->cols : 0;
    run->errors = mem_array(r->n, sizeof *run->errors);
    run->bytes_after = mem_array(r->n, sizeof *run->bytes_after);
    run->written = mem_array(r->n, sizeof *run->written);
    if (!run->errors || !run->bytes_after || !run->written)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", run->in->path, r->n);
    return write_all(run, err);
}

bool convert_quantizes(const model_file *in, const convert_options *options) {
    recipe r;
    bool any = false;
    convert_options plain = *options;
    plain.method = QM_SWEEP;
    if (recipe_make(&r, in, &plain, NULL) == NIB_OK)
        for (size_t i = 0; i < r.n; i++)
            any |= r.items[i].e.action == ENCODE_QUANTIZE;
    arena_free(&r.arena);
    return any;
}

/* What lies on disk of a file, which takes no room more. */
static uint64_t bytes_there(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 ? (uint64_t)s.st_blocks * 512 : 0;
}

/* At least so many bytes: scales beside codes, metadata and words are not counted. A cast whose format is
 * chosen while it is written takes 16 bits a weight or more. */
static nib_status least_bytes(const model_file *in, const convert_options *options, uint64_t *bytes,
                              nib_error *err) {
    recipe r;
    convert_options plain = *options;
    plain.method = QM_SWEEP; /* no calibration yet */
    nib_status status = recipe_make(&r, in, &plain, err);
    if (status == NIB_OK && options->kv_scales)
        status = kv_scales_check(&r, err);
    uint64_t chosen = 0;
    *bytes = 0;
    for (size_t i = 0; status == NIB_OK && i < r.n; i++) {
        const encode_item *e = &r.items[i].e;
        const dtype_info *to = dtype_get(e->to == DT_NONE ? DT_BF16 : e->to);
        *bytes += (uint64_t)e->t->rows * (e->t->cols / to->block) * to->block_bytes;
        if (is_chosen_elsewhere(options, &r.items[i]))
            chosen += (uint64_t)e->t->rows *
                      (e->to == DT_Q5_0 ? e->t->cols / to->block * to->block_bytes : e->t->cols / 16 * 9);
        *bytes += recipe_rank(options, &r.items[i]) * (e->t->rows + e->t->cols) * 2;
    }
    const uint64_t there = options->choose_path ? bytes_there(options->choose_path) : 0;
    if (options->choose_path && chosen > there)
        *bytes += chosen - there;
    arena_free(&r.arena);
    return status;
}

/* What is replaced goes last, so it makes no room. */
static nib_status check_room(const model_file *in, const char *out_path, const convert_options *options,
                             nib_error *err) {
    char folder[PATH_MAX];
    struct statvfs fs;
    uint64_t bytes;
    NIB_TRY(least_bytes(in, options, &bytes, err));
    const int n = snprintf(folder, sizeof folder, "%s", out_path);
    if (n < 0 || (size_t)n >= sizeof folder || statvfs(dirname(folder), &fs) != 0)
        return NIB_OK; /* whoever writes there says why not */
    const uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room >= bytes)
        return NIB_OK;
    const bool beside = options->choose_path != NULL;
    return nib_fail(err, NIB_IO, "%s: takes at least %.1f MB%s%s%s, and its file system has %.1f MB left",
                    out_path, (double)bytes / 1e6, beside ? " with " : "", beside ? options->choose_path : "",
                    beside ? " meanwhile" : "", (double)room / 1e6);
}

nib_status convert_try_output(const model_file *in, const char *out_path, const convert_options *options,
                              nib_error *err) {
    NIB_TRY(sources_check(in, out_path, options, err));
    NIB_TRY(export_try(&(export_plan){.in = in, .out = options->out, .out_path = out_path}, err));
    return check_room(in, out_path, options, err);
}

nib_status convert(const model_file *in, const char *out_path, const convert_options *options,
                   convert_report *report, nib_error *err) {
    convert_run run = {.in = in, .out_path = out_path, .o = options};
    double from = clock_seconds();
    *report = (convert_report){0};
    NIB_TRY(convert_try_output(in, out_path, options, err));
    nib_status status = convert_all(&run, err);
    if (status == NIB_OK) {
        fill_report(&run, report);
        report->seconds = clock_seconds() - from;
    }
    pool_free(run.pool);
    mem_free(run.errors);
    mem_free(run.bytes_after);
    mem_free(run.written);
    arena_free(&run.recipe.arena);
    return status;
}
