/* SPDX-License-Identifier: Apache-2.0
 *
 * See inspect_text.h.
 */
#include "cli/inspect_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/ui.h"
#include "engine/loaded.h"
#include "model/fit.h"
#include "nouns/family.h"
#include "store/gguf.h"

static const char *plural(int n) {
    return n == 1 ? "" : "s";
}

static const char *format_line(const model_file *f, char *text, size_t size) {
    static const char *const conventions[] = {"", "", ", ModelOpt", ", compressed-tensors"};
    char bytes[32];
    if (f->n_files == 0) {
        snprintf(text, size, "none: a shape");
        return text;
    }
    if (f->gguf)
        snprintf(text, size, "GGUF v%u, ", f->gguf->version);
    else
        snprintf(text, size, "safetensors%s, ", conventions[f->convention]);
    size_t n = strlen(text);
    snprintf(text + n, size - n, "%d file%s, %s", f->n_files, plural(f->n_files),
             ui_bytes(bytes, sizeof bytes, f->file_bytes));
    return text;
}

static void print_network(const findings *r) {
    const hparams *hp = &r->f->hp;
    if (!r->f->has_network) {
        printf("family     %s; nibble does not run it: %s\n",
               hp->family == FAMILY_NONE ? "unknown" : family_name(hp->family), r->f->network_note);
        return;
    }
    printf("family     %s: %d layer%s, dim %d, FFN %d, %d head%s and %d KV head%s of %d, vocabulary %d%s\n",
           family_name(hp->family), hp->n_layers, plural(hp->n_layers), hp->dim, hp->ffn_dim, hp->n_heads,
           plural(hp->n_heads), hp->n_kv_heads, plural(hp->n_kv_heads), hp->head_dim, hp->vocab,
           hp->tied ? " (tied head)" : "");
    int n_local = 0;
    for (int i = 0; i < hp->n_layers; i++)
        n_local += hp->local[i];
    printf("context    %d tokens", hp->context_len);
    if (n_local)
        printf("; %d of %d layers see the last %d", n_local, hp->n_layers, hp->sliding_window);
    printf("; RoPE base %g", (double)hp->rope.theta);
    if (hp->rope.kind == ROPE_LINEAR)
        printf(", positions / %g", (double)hp->rope.factor);
    else if (hp->rope.kind > ROPE_LLAMA3)
        printf(", %s scaling by %g over %d tokens", rope_kind_name(hp->rope.kind), (double)hp->rope.factor,
               hp->rope.original_context);
    else if (hp->rope.kind == ROPE_LLAMA3 || model_file_find(r->f, place_of(SLOT_ROPE_FREQS, PLACE_NO_LAYER)))
        printf(", Llama 3 scaling");
    putchar('\n');
}

static const char *or_none(const char *text) {
    return text ? text : "none";
}

static void print_words(const findings *r) {
    const token_source *w = &r->f->words;
    if (r->words)
        printf("tokenizer  %s%s%s, %zu tokens, %s BOS\n", w->json.n ? "tokenizer.json" : QUOTE(w->model),
               w->pre.n ? " " : "", QUOTE(w->pre), tokenizer_vocab(r->words),
               tokenizer_adds_bos(r->words) ? "adds" : "adds no");
    else
        printf("tokenizer  %s\n", r->words_problem.text[0] ? r->words_problem.text : "none");
    if (!w->chat_template.n)
        printf("chat       no template\n");
    else if (r->chat)
        printf("chat       a template; calls of tools: %s; reasoning: %s\n",
               or_none(chat_call_format(r->chat)), or_none(chat_reasoning_marker(r->chat)));
    else
        printf("chat       a template that cannot be used: %s\n",
               r->words ? r->chat_problem.text : "the tokenizer is not known");
}

static void print_run(const findings *r) {
    char weights[32], bf16[32], fp8[32];
    if (!r->f->has_network)
        return;
    printf("to run     weights %s, and KV cache per 1k tokens %s (bf16) or %s (fp8)\n",
           ui_bytes(weights, sizeof weights, r->run_bytes), ui_bytes(bf16, sizeof bf16, 1024 * r->kv_bf16),
           ui_bytes(fp8, sizeof fp8, 1024 * r->kv_fp8));
    if (*r->computed)
        printf("computed   %s\n", r->computed);
}

/* ", rank 32" where a low-rank branch stands beside; else "". */
static const char *branch_text(size_t rank, char *text, size_t size) {
    text[0] = '\0';
    if (rank)
        snprintf(text, size, ", rank %zu", rank);
    return text;
}

static bool print_groups(const findings *r) {
    static const ui_column columns[] = {
        {"group", "group", false},    {"format", "format", false}, {"tensors", "tensors", true},
        {"weights", "weights", true}, {"size", "bytes", true},     {"bits/weight", "bits_per_weight", true}};
    ui_table t = {.columns = columns, .n_columns = 6};
    bool fits = true;
    char bytes[32], rank[32];
    for (size_t i = 0; fits && i < r->n_groups; i++) {
        const findings_group *g = &r->groups[i];
        fits = ui_table_add(&t, "%s", slot_name(g->slot)) &&
               ui_table_add(&t, "%s%s", g->format, branch_text(g->rank, rank, sizeof rank)) &&
               ui_table_add(&t, "%zu", g->n_tensors) && ui_table_add(&t, "%" PRIu64, g->elements) &&
               ui_table_add(&t, "%s", ui_bytes(bytes, sizeof bytes, g->bytes)) &&
               ui_table_add(&t, "%.2f", findings_bits(g->bytes, g->elements));
    }
    if (fits)
        ui_table_print(&t, UI_MD, stdout);
    ui_table_free(&t);
    return fits;
}

static void shape_text(const tensor *t, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->n_dims && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%zu", i ? ", " : "", findings_extent(t, i));
    if (n < size)
        snprintf(text + n, size - n, "]");
}

static bool print_tensors(const findings *r) {
    static const ui_column columns[] = {{"tensor", "name", false},   {"group", "group", false},
                                        {"format", "format", false}, {"shape", "shape", false},
                                        {"bytes", "bytes", true},    {"tensor scale", "tensor_scale", true}};
    ui_table t = {.columns = columns, .n_columns = 6};
    bool fits = true;
    char shape[200], rank[32];
    for (size_t i = 0; fits && i < r->f->n_tensors; i++) {
        const tensor *x = &r->f->tensors[i];
        shape_text(x, shape, sizeof shape);
        fits = ui_table_add(&t, "%s", QUOTEZ(x->name)) && ui_table_add(&t, "%s", slot_name(x->place.slot)) &&
               ui_table_add(&t, "%s%s", model_file_format_name(r->f, x),
                            branch_text(x->branch.rank, rank, sizeof rank)) &&
               ui_table_add(&t, "%s", shape) && ui_table_add(&t, "%zu", tensor_total_bytes(x)) &&
               ui_table_add(&t, "%g", (double)x->tensor_scale);
    }
    if (fits)
        ui_table_print(&t, UI_MD, stdout);
    ui_table_free(&t);
    return fits;
}

bool inspect_text_print(const findings *r, bool tensors) {
    char line[128];
    quote_text name = findings_name(r->f);
    printf("file       %s\n", format_line(r->f, line, sizeof line));
    if (name.text[0])
        printf("name       %s\n", name.text);
    print_network(r);
    printf("tensors    %zu, %" PRIu64 " weights, %.2f bits per weight in the file", r->f->n_tensors,
           r->elements, findings_bits(r->f->file_bytes, r->elements));
    printf(", %.2f in all tensors", findings_bits(r->bytes, r->elements));
    if (r->linear_elements)
        printf(", %.2f in the linear layers", findings_bits(r->linear_bytes, r->linear_elements));
    putchar('\n');
    print_words(r);
    print_run(r);
    for (int i = 0; i < r->f->n_notes; i++)
        printf("note       %s\n", r->f->notes[i]);
    putchar('\n');
    if (!print_groups(r))
        return false;
    if (!tensors)
        return true;
    putchar('\n');
    return print_tensors(r);
}

/* ---- GPUs, none of which is asked ---- */

/* An empty cell where the model does not fit. */
static bool add_rate(ui_table *t, bool fits, double per_second) {
    return fits ? ui_table_add(t, "%.0f", per_second) : ui_table_add(t, "%s", "");
}

bool inspect_text_fit(const findings *r) {
    static const ui_column columns[] = {{"GPU", "gpu", false},
                                        {"memory GB", "memory_gb", true},
                                        {"plan", "plan", false},
                                        {"tok/s at most", "tokens_per_s", true},
                                        {"at full length", "tokens_per_s_full", true}};
    ui_table t = {.columns = columns, .n_columns = 5};
    fit_options o = {0};
    fit_plan p;
    bool enough = true;
    char words[192];
    fit_needs(r->f, &o, &p);
    printf("\non a GPU   %.2f GB weights, %.2f GB activations of %d rows, %.1f GB context; %.2f GB for %d "
           "tokens of FP8 cache\n\n",
           p.weights / 1e9, p.activations / 1e9, o.max_num_batched_tokens, p.context / 1e9, p.kv_one / 1e9,
           o.max_model_len);
    for (int i = 0; i < FIT_N_CARDS && enough; i++) {
        fit_on(&p, &o, &fit_cards[i]);
        fit_words(&p, &o, words, sizeof words);
        bool fits = p.kv >= p.kv_one;
        enough = ui_table_add(&t, "%s", fit_cards[i].name) &&
                 ui_table_add(&t, "%.0f", fit_cards[i].memory / 1e9) && ui_table_add(&t, "%s", words) &&
                 add_rate(&t, fits, p.tokens_per_s) && add_rate(&t, fits, p.tokens_per_s_full);
    }
    if (enough)
        ui_table_print(&t, UI_MD, stdout);
    ui_table_free(&t);
    return enough;
}
