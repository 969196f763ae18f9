/* SPDX-License-Identifier: Apache-2.0
 *
 * See quantize_report.h.
 */
#include "cli/quantize_report.h"

#include <stdio.h>
#include <sys/resource.h>

static const char *dtype_text(dtype t) {
    return t == DT_NONE ? "mixed" : dtype_get(t)->name;
}

static const ui_column columns[] = {{"tensors", "group", false},       {"n", "n_tensors", true},
                                    {"from", "from", false},           {"to", "to", false},
                                    {"before", "bytes_before", true},  {"after", "bytes_after", true},
                                    {"error", "relative_error", true}, {"weighted", "weighted_error", true}};

static bool add_error(ui_table *t, double error, bool json) {
    if (error == 0)
        return ui_table_add(t, "%s", "");
    return json ? ui_table_add(t, "%.6f", error) : ui_table_add(t, "%.4f", error);
}

static bool fill_groups(const convert_report *c, ui_table *t, bool json) {
    bool ok = true;
    char before[32], after[32];
    for (int g = 0; ok && g < c->n_groups; g++) {
        const convert_group *group = &c->groups[g];
        ok = ui_table_add(t, "%s", slot_name(group->slot)) && ui_table_add(t, "%d", group->n_tensors) &&
             ui_table_add(t, "%s", dtype_text(group->from)) && ui_table_add(t, "%s", dtype_text(group->to));
        if (json)
            ok = ok && ui_table_add(t, "%llu", (unsigned long long)group->bytes_before) &&
                 ui_table_add(t, "%llu", (unsigned long long)group->bytes_after);
        else
            ok = ok && ui_table_add(t, "%s", ui_bytes(before, sizeof before, group->bytes_before)) &&
                 ui_table_add(t, "%s", ui_bytes(after, sizeof after, group->bytes_after));
        ok = ok && add_error(t, group->relative_error, json) && add_error(t, group->weighted_error, json);
    }
    return ok;
}

static bool linear_grows(const convert_report *c) {
    uint64_t before = 0, after = 0;
    for (int g = 0; g < c->n_groups && c->n_quantized; g++)
        if (place_is_linear(c->groups[g].slot)) {
            before += c->groups[g].bytes_before;
            after += c->groups[g].bytes_after;
        }
    return after > before;
}

static void print_notes(const quantize_report *r) {
    const convert_report *c = r->done;
    if (r->sweep_note)
        printf("Method sweep, because nibble cannot run the model: %s\n", r->sweep_note);
    if (r->unasked_note)
        printf("Calibrated with the built-in text alone, because the model was not asked: %s\n",
               r->unasked_note);
    if (r->size && c->bytes_after > r->size)
        printf("That is %llu bytes more than was asked for.\n",
               (unsigned long long)(c->bytes_after - r->size));
    if (c->tied_is_quantized)
        printf("The embedding is quantized as well: it is the head too (tied).\n");
    if (c->head_is_untied)
        printf(
            "The head was the embedding (tied); the output holds it apart, and the embedding as it was.\n");
    if (c->n_misfits)
        printf("%d linear layers stayed as they are: their rows are no whole number of blocks.\n",
               c->n_misfits);
    if (c->n_split)
        printf("In %d places q, k and v of a layer, or gate and up, differ in format: %s.\n", c->n_split,
               r->to_gguf
                   ? "a GPU computes them one by one, and nibble's launch for all layers passes such a "
                     "layer over"
                   : "engines that join them into one matrix (vLLM, TensorRT-LLM) refuse such a layer; "
                     "--keep them together, and plan without --apart");
    if (c->n_quantized == 0 && r->asked)
        printf("--method %s chose nothing: no layer was quantized anew.\n", r->asked);
    if (linear_grows(c) && strcmp(r->format, "bf16") != 0)
        printf(
            "The source stores its linear layers in fewer bits: the output is larger and no better. Quantize "
            "the unquantized model instead.\n");
    if (c->n_input_scales)
        printf("%d matrices have a static scale of their inputs (input_scale).\n", c->n_input_scales);
    if (c->n_kv_scales)
        printf("%d layers have scales of an FP8 cache (k_scale, v_scale).\n", c->n_kv_scales);
    if (c->n_cast)
        printf("%d tensors were MXFP4: %llu of their values changed%s.\n", c->n_cast,
               (unsigned long long)c->n_cast_changed,
               c->n_cast_changed ? ", in blocks whose scales lie beyond NVFP4's range" : "");
    if (r->fp8_exact && c->n_repacked)
        printf("--fp8-exact chose nothing for %d tensors, which were NVFP4 already.\n", c->n_repacked);
    if (c->n_skipped)
        printf("%d tensors of the source have no place in the output and were left out.\n", c->n_skipped);
    if (c->n_rounded)
        printf("%d tensor%s (embedding, head) rounded to BF16; --embedding f32 keeps every value, and a "
               ".gguf file "
               "keeps them as they are.\n",
               c->n_rounded, c->n_rounded == 1 ? "" : "s");
    if (c->n_widened)
        printf("%d kept tensor%s became F32: BF16 and F16 do not hold every value. A .gguf file keeps it as "
               "it is.\n",
               c->n_widened, c->n_widened == 1 ? "" : "s");
    if (c->n_scales_unread)
        printf("%d tensors came with a scale that nibble reads and llama.cpp does not: llama.cpp will not "
               "run the output right. Quantize the unquantized model instead.\n",
               c->n_scales_unread);
    if (c->n_scales_rounded)
        printf("%d tensor scales have no exact reciprocal; they moved by one step of FP32.\n",
               c->n_scales_rounded);
}

/* Resident memory so far, the pages of mapped files included. */
static unsigned long long peak_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (unsigned long long)usage.ru_maxrss * 1024;
}

static void print_text(const quantize_report *r, const ui_table *t) {
    const convert_report *c = r->done;
    char before[32], after[32], peak[32];
    plan_print(r->plan);
    ui_table_print(t, UI_MD, stdout);
    printf("\n%s -> %s (%s, %s)\n", ui_bytes(before, sizeof before, c->bytes_before),
           ui_bytes(after, sizeof after, c->bytes_after), r->format, r->method);
    printf("%.2f bits per weight in all tensors, %.2f in the linear layers\n", c->bits_per_weight_all,
           c->bits_per_weight_linear);
    if (r->imatrix)
        printf("with what an imatrix of %zu tokens says of inputs, ", r->n_tokens);
    else if (r->n_tokens)
        printf("calibrated with %zu tokens in %.1f s, ", r->n_tokens, r->calibrate_s);
    printf("%s in %.1f s, %s of memory at most\n", r->imatrix || r->n_tokens ? "quantized" : "Quantized",
           r->convert_s, ui_bytes(peak, sizeof peak, peak_bytes()));
    if (r->own.n && r->own.n_ended == r->own.n)
        printf("The model answered all %zu questions to an end, in %.1f s.\n", r->own.n, r->own.seconds);
    else if (r->own.n)
        printf(
            "The model answered %zu of %zu questions to an end, in %.1f s; the others, longer than it reads "
            "by default or unfinished after %d tokens, were left out.\n",
            r->own.n_ended, r->own.n, r->own.seconds, OWN_ANSWER_TOKENS);
    tuned_print(r->tuned);
    tuned_smoothed_print(r->smoothed);
    print_notes(r);
}

static void print_json(const quantize_report *r, const ui_table *t) {
    const convert_report *c = r->done;
    printf("{\"in\": ");
    ui_json_string(stdout, r->in);
    printf(", \"out\": ");
    ui_json_string(stdout, r->out);
    printf(",\n \"format\": \"%s\", \"method\": \"%s\", \"sweep_because\": ", r->format, r->method);
    if (r->sweep_note)
        ui_json_string(stdout, r->sweep_note);
    else
        printf("null");
    printf(",\n \"bytes_before\": %llu, \"bytes_after\": %llu,\n \"bits_per_weight\": %.4f, "
           "\"bits_per_weight_linear\": %.4f,\n",
           (unsigned long long)c->bytes_before, (unsigned long long)c->bytes_after, c->bits_per_weight_all,
           c->bits_per_weight_linear);
    printf(" \"calibration_tokens\": %zu, \"calibration_seconds\": %.3f, \"seconds\": %.3f, \"peak_bytes\": "
           "%llu,\n",
           r->n_tokens, r->calibrate_s, r->convert_s, peak_bytes());
    printf(" \"questions\": %zu, \"answered\": %zu, \"answering_seconds\": %.3f,\n", r->own.n, r->own.n_ended,
           r->own.seconds);
    printf(" \"quantized\": %d, \"repacked\": %d, \"tied_embedding_quantized\": %s, \"head_untied\": %s,\n",
           c->n_quantized, c->n_repacked, c->tied_is_quantized ? "true" : "false",
           c->head_is_untied ? "true" : "false");
    printf(" \"input_scales\": %d, \"kv_scales\": %d, \"from_mxfp4\": %d, \"changed_values\": %llu,\n "
           "\"plan\": ",
           c->n_input_scales, c->n_kv_scales, c->n_cast, (unsigned long long)c->n_cast_changed);
    plan_print_json(r->plan, r->plan_path);
    printf(",\n \"chosen\": ");
    tuned_print_json(r->tuned);
    printf(",\n \"smoothed\": ");
    tuned_smoothed_print_json(r->smoothed);
    printf(",\n");
    printf(" \"split\": %d, \"misfits\": %d, \"skipped\": %d, \"scales_rounded\": %d, \"scales_unread\": %d, "
           "\"widened\": "
           "%d, \"rounded\": %d,\n \"groups\":\n",
           c->n_split, c->n_misfits, c->n_skipped, c->n_scales_rounded, c->n_scales_unread, c->n_widened,
           c->n_rounded);
    ui_table_print(t, UI_JSON, stdout);
    printf("}\n");
}

nib_status quantize_report_print(const quantize_report *r, bool json, nib_error *err) {
    ui_table t = {.columns = columns, .n_columns = sizeof columns / sizeof *columns};
    bool ok = fill_groups(r->done, &t, json);
    if (ok && json)
        print_json(r, &t);
    else if (ok)
        print_text(r, &t);
    ui_table_free(&t);
    return ok ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for the report");
}
