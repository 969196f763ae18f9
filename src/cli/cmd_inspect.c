/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble inspect: what a model file or directory holds, and what it takes to run it. Opens and checks the
 * whole file (tensors, hyper-parameters, tokenizer), so what inspect accepts is sound.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/quote.h"
#include "cli/cli.h"
#include "cli/inspect.h"
#include "cli/ui.h"
#include "cpu/cpu.h"
#include "engine/loaded.h"
#include "model/fit.h"
#include "nouns/family.h"
#include "store/gguf.h"
#include "store/model_file.h"
#include "text/chat.h"

typedef struct inspect_args {
    const char *path;
    bool json, tensors, fit;
} inspect_args;

static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "Print JSON", 0},
    {"tensors", 't', NULL, 0, "Also list every tensor", 0},
    {"fit", 'f', NULL, 0, "Also what it takes on GPUs of several kinds, and what their memory allows", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    inspect_args *a = state->input;
    switch (key) {
    case 'j':
        a->json = true;
        return 0;
    case 't':
        a->tensors = true;
        return 0;
    case 'f':
        a->fit = true;
        return 0;
    case ARGP_KEY_ARG:
        cli_one_argument(state, "PATH", arg, &a->path);
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            argp_error(state, "expected a PATH");
        if (a->fit && a->json)
            argp_error(state, "--fit is a table for people: without --json");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "PATH",
    .doc = "Tells what PATH holds (a GGUF file, a safetensors file or a model directory): family, sizes, "
           "formats, "
           "bits per weight, tokenizer, chat template, and what it takes to run.\v"
           "Example:\n"
           "  nibble inspect model.gguf --tensors",
};

/* ---- what is found ---- */

typedef struct group { /* tensors of one slot stored in one format */
    slot slot;
    const char *format;
    size_t rank; /* of low-rank branches beside them */
    size_t n_tensors;
    uint64_t elements, bytes;
    bool quantized;
} group;

typedef struct findings {
    const model_file *f;
    group *groups;
    size_t n_groups;
    uint64_t elements, bytes;             /* all tensors */
    uint64_t quant_elements, quant_bytes; /* those in block or 8-bit float formats */
    uint64_t linear_elements, linear_bytes;
    uint64_t run_bytes;      /* tensors of the network */
    size_t kv_bf16, kv_fp8;  /* bytes of one position in all layers */
    tokenizer *words;        /* NULL: none */
    nib_error words_problem; /* why there is no tokenizer, when the file has one */
    chat *chat;              /* NULL: no template that can be used */
    nib_error chat_problem;  /* why */
} findings;

static bool is_quantized(const tensor *t) {
    return t->dtype == DT_NONE || dtype_is_quantized(t->dtype);
}

static group *group_of(findings *r, const tensor *t, const char *format) {
    for (size_t i = 0; i < r->n_groups; i++)
        if (r->groups[i].slot == t->place.slot && strcmp(r->groups[i].format, format) == 0 &&
            r->groups[i].rank == t->branch.rank)
            return &r->groups[i];
    group *grown = mem_resize(r->groups, r->n_groups + 1, sizeof *grown);
    if (!grown)
        return NULL;
    r->groups = grown;
    grown[r->n_groups] = (group){
        .slot = t->place.slot, .format = format, .rank = t->branch.rank, .quantized = is_quantized(t)};
    return &grown[r->n_groups++];
}

static int group_compare(const void *a, const void *b) {
    const group *x = a, *y = b;
    int sx = x->slot == SLOT_NONE ? SLOT_COUNT : (int)x->slot,
        sy = y->slot == SLOT_NONE ? SLOT_COUNT : (int)y->slot;
    const int by_format = strcmp(x->format, y->format);
    if (sx != sy || by_format)
        return sx != sy ? sx - sy : by_format;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static nib_status count_tensors(findings *r, nib_error *err) {
    const model_file *f = r->f;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        group *g = group_of(r, t, model_file_format_name(f, t));
        if (!g)
            return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a summary", f->path);
        uint64_t elements = (uint64_t)t->rows * t->cols, bytes = tensor_total_bytes(t);
        g->n_tensors++;
        g->elements += elements;
        g->bytes += bytes;
        r->elements += elements;
        r->bytes += bytes;
        r->quant_elements += g->quantized ? elements : 0;
        r->quant_bytes += g->quantized ? bytes : 0;
        r->linear_elements += place_is_linear(t->place.slot) ? elements : 0;
        r->linear_bytes += place_is_linear(t->place.slot) ? bytes : 0;
        r->run_bytes += t->place.slot != SLOT_NONE ? bytes : 0;
    }
    if (r->n_groups > 1)
        qsort(r->groups, r->n_groups, sizeof *r->groups, group_compare);
    return NIB_OK;
}

static nib_status open_chat(findings *r, nib_error *err) {
    const strview own = {0};
    const nib_status status = chat_open_model(&r->chat, &r->f->words, r->words, own, own, &r->chat_problem);
    return status == NIB_NO_MEMORY ? nib_fail(err, status, "%s", r->chat_problem.text) : NIB_OK;
}

/* A tokenizer of a kind that nibble does not know is told; a damaged one is a damaged file. */
static nib_status open_words(findings *r, nib_error *err) {
    const token_source *source = &r->f->words;
    if (source->n_tokens == 0 && source->json.n == 0)
        return NIB_OK;
    nib_status status = tokenizer_open(&r->words, source, &r->words_problem);
    if (status != NIB_OK && status != NIB_UNSUPPORTED)
        return nib_fail(err, status, "%s", r->words_problem.text);
    if (status == NIB_UNSUPPORTED)
        r->words = NULL;
    else if (source->chat_template.n)
        NIB_TRY(open_chat(r, err));
    return NIB_OK;
}

static double bits_per_weight(uint64_t bytes, uint64_t elements) {
    return elements ? 8.0 * (double)bytes / (double)elements : 0;
}

/* As this machine computes when no flag says otherwise. */
static nib_status measure_kv(findings *r, nib_error *err) {
    backend *be;
    if (!r->f->has_network)
        return NIB_OK;
    NIB_TRY(cpu_open(&be, &(cpu_options){.threads = 1}, err));
    r->kv_bf16 = loaded_page_bytes(be, &r->f->hp, NIB_KV_BF16) / KV_PAGE_TOKENS;
    r->kv_fp8 = loaded_page_bytes(be, &r->f->hp, NIB_KV_FP8) / KV_PAGE_TOKENS;
    be->close(be);
    return NIB_OK;
}

static const char *plural(int n) {
    return n == 1 ? "" : "s";
}

static const char *format_line(const model_file *f, char *text, size_t size) {
    static const char *const conventions[] = {"", "", ", ModelOpt", ", compressed-tensors"};
    char bytes[32];
    if (f->gguf)
        snprintf(text, size, "GGUF v%u, ", f->gguf->version);
    else
        snprintf(text, size, "safetensors%s, ", conventions[f->convention]);
    size_t n = strlen(text);
    snprintf(text + n, size - n, "%d file%s, %s", f->n_files, plural(f->n_files),
             ui_bytes(bytes, sizeof bytes, f->file_bytes));
    return text;
}

/* GGUF names the model; "" otherwise. */
static quote_text model_name(const model_file *f) {
    strview name = {"", 0};
    bool found;
    if (f->gguf && gguf_get_text(f->gguf, "general.name", &name, &found, NULL) != NIB_OK)
        name = (strview){"", 0};
    return quote_make(name);
}

/* ---- text ---- */

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
        const group *g = &r->groups[i];
        fits = ui_table_add(&t, "%s", slot_name(g->slot)) &&
               ui_table_add(&t, "%s%s", g->format, branch_text(g->rank, rank, sizeof rank)) &&
               ui_table_add(&t, "%zu", g->n_tensors) && ui_table_add(&t, "%" PRIu64, g->elements) &&
               ui_table_add(&t, "%s", ui_bytes(bytes, sizeof bytes, g->bytes)) &&
               ui_table_add(&t, "%.2f", bits_per_weight(g->bytes, g->elements));
    }
    if (fits)
        ui_table_print(&t, UI_MD, stdout);
    ui_table_free(&t);
    return fits;
}

static void shape_text(const tensor *t, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "[");
    bool logical = t->dtype == DT_NVFP4 || t->dtype == DT_MXFP4; /* stored as bytes of two */
    for (int i = 0; i < t->n_dims && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%zu", i ? ", " : "",
                              logical && i + 1 == t->n_dims ? t->cols : t->dims[i]);
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

/* ---- GPUs, none of which is asked ---- */

/* An empty cell where the model does not fit. */
static bool add_rate(ui_table *t, bool fits, double per_second) {
    return fits ? ui_table_add(t, "%.0f", per_second) : ui_table_add(t, "%s", "");
}

static bool print_fit(const findings *r) {
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
           "tokens of "
           "FP8 cache\n\n",
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

static bool print_text(const findings *r, bool tensors) {
    char line[128];
    quote_text name = model_name(r->f);
    printf("file       %s\n", format_line(r->f, line, sizeof line));
    if (name.text[0])
        printf("name       %s\n", name.text);
    print_network(r);
    printf("tensors    %zu, %" PRIu64 " weights, %.2f bits per weight in the file", r->f->n_tensors,
           r->elements, bits_per_weight(r->f->file_bytes, r->elements));
    printf(", %.2f in all tensors", bits_per_weight(r->bytes, r->elements));
    if (r->linear_elements)
        printf(", %.2f in the linear layers", bits_per_weight(r->linear_bytes, r->linear_elements));
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

/* ---- JSON ---- */

/* TEXT, or what of it is plain ASCII when it is no UTF-8 (a path may be any bytes). */
static json_t *text_json(const char *text) {
    json_t *value = json_string(text);
    return value ? value : json_string(QUOTEZ(text));
}

static json_t *network_json(const findings *r) {
    const hparams *hp = &r->f->hp;
    json_t *local = json_array();
    for (int i = 0; i < hp->n_layers; i++)
        if (hp->local[i])
            json_array_append_new(local, json_integer(i));
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:f, s:i, s:o}", "family",
                     family_name(hp->family), "layers", hp->n_layers, "dim", hp->dim, "ffn_dim", hp->ffn_dim,
                     "heads", hp->n_heads, "kv_heads", hp->n_kv_heads, "head_dim", hp->head_dim, "vocabulary",
                     hp->vocab, "context", hp->context_len, "tied_head", (int)hp->tied, "rope_theta",
                     (double)hp->rope.theta, "sliding_window", hp->sliding_window, "local_layers", local);
}

static json_t *groups_json(const findings *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_groups; i++) {
        const group *g = &r->groups[i];
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:b}", "group", slot_name(g->slot), "format",
                      g->format, "branch_rank", (json_int_t)g->rank, "tensors", (json_int_t)g->n_tensors,
                      "weights", (json_int_t)g->elements, "bytes", (json_int_t)g->bytes, "bits_per_weight",
                      bits_per_weight(g->bytes, g->elements), "quantized", (int)g->quantized));
    }
    return list;
}

static json_t *tensors_json(const findings *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->f->n_tensors; i++) {
        const tensor *t = &r->f->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++) {
            bool logical = (t->dtype == DT_NVFP4 || t->dtype == DT_MXFP4) && d + 1 == t->n_dims;
            json_array_append_new(shape, json_integer((json_int_t)(logical ? t->cols : t->dims[d])));
        }
        json_array_append_new(
            list, json_pack("{s:o, s:s, s:i, s:s, s:I, s:o, s:I, s:f, s:f}", "name", text_json(t->name),
                            "group", slot_name(t->place.slot), "layer", t->place.layer, "format",
                            model_file_format_name(r->f, t), "branch_rank", (json_int_t)t->branch.rank,
                            "shape", shape, "bytes", (json_int_t)tensor_total_bytes(t), "tensor_scale",
                            (double)t->tensor_scale, "input_scale", (double)t->input_scale));
    }
    return list;
}

static json_t *words_json(const findings *r) {
    const token_source *w = &r->f->words;
    if (!r->words)
        return json_null();
    return json_pack("{s:s, s:s, s:I, s:b, s:i}", "kind", w->json.n ? "tokenizer.json" : QUOTE(w->model),
                     "pre", QUOTE(w->pre), "tokens", (json_int_t)tokenizer_vocab(r->words), "adds_bos",
                     (int)tokenizer_adds_bos(r->words), "bos", (int)tokenizer_bos(r->words));
}

static json_t *notes_json(const findings *r) {
    json_t *list = json_array();
    for (int i = 0; i < r->f->n_notes; i++)
        json_array_append_new(list, text_json(r->f->notes[i]));
    return list;
}

static json_t *name_json(const char *name) {
    return name ? json_string(name) : json_null();
}

/* What the file holds; NULL: no memory. */
static json_t *file_json(const findings *r) {
    const model_file *f = r->f;
    json_t *root = json_pack(
        "{s:o, s:s, s:s, s:i, s:I, s:I, s:f, s:o, s:o, s:o, s:o}", "path", text_json(f->path), "format",
        f->gguf ? "gguf" : "safetensors", "name", model_name(f).text, "files", (int)f->n_files, "file_bytes",
        (json_int_t)f->file_bytes, "weights", (json_int_t)r->elements, "bits_per_weight",
        bits_per_weight(f->file_bytes, r->elements), "bits_per_weight_quantized",
        r->quant_elements ? json_real(bits_per_weight(r->quant_bytes, r->quant_elements)) : json_null(),
        "bits_per_weight_linear",
        r->linear_elements ? json_real(bits_per_weight(r->linear_bytes, r->linear_elements)) : json_null(),
        "groups", groups_json(r), "notes", notes_json(r));
    bool fits =
        root && json_object_set_new(root, "network", f->has_network ? network_json(r) : json_null()) == 0;
    if (fits && !f->has_network)
        fits = json_object_set_new(root, "network_note", text_json(f->network_note)) == 0;
    if (fits)
        return root;
    json_decref(root);
    return NULL;
}

static bool print_json(const findings *r, bool tensors) {
    json_t *root = file_json(r);
    bool fits = root && json_object_set_new(root, "tokenizer", words_json(r)) == 0;
    if (fits && r->f->has_network)
        fits =
            json_object_set_new(root, "weight_bytes", json_integer((json_int_t)r->run_bytes)) == 0 &&
            json_object_set_new(root, "kv_bytes_per_token_bf16", json_integer((json_int_t)r->kv_bf16)) == 0 &&
            json_object_set_new(root, "kv_bytes_per_token_fp8", json_integer((json_int_t)r->kv_fp8)) == 0;
    fits = fits && json_object_set_new(root, "chat_template", json_boolean(r->chat != NULL)) == 0;
    if (fits && r->chat)
        fits = json_object_set_new(root, "call_format", name_json(chat_call_format(r->chat))) == 0 &&
               json_object_set_new(root, "reasoning_marker", name_json(chat_reasoning_marker(r->chat))) == 0;
    if (fits && !r->chat && r->chat_problem.text[0])
        fits = json_object_set_new(root, "chat_template_note", text_json(r->chat_problem.text)) == 0;
    if (fits && tensors)
        fits = json_object_set_new(root, "tensors", tensors_json(r)) == 0;
    fits = fits && json_dumpf(root, stdout, JSON_INDENT(2)) == 0;
    if (fits)
        putchar('\n');
    json_decref(root);
    return fits;
}

nib_status inspect_json(const char *path, json_t **out, nib_error *err) {
    findings r = {0};
    model_file *f;
    NIB_TRY(model_file_open(&f, path, err));
    r.f = f;
    nib_status status = count_tensors(&r, err);
    *out = status == NIB_OK ? file_json(&r) : NULL;
    if (status == NIB_OK && !*out)
        status = nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a summary", path);
    mem_free(r.groups);
    model_file_close(f);
    return status;
}

int cmd_inspect(int argc, char **argv) {
    inspect_args args = {0};
    cli_parse(&argp, argc, argv, &args);
    nib_error err = {""};
    model_file *f;
    nib_status status = model_file_open(&f, args.path, &err);
    if (status != NIB_OK)
        return cli_fail(status, &err);
    findings r = {.f = f};
    status = count_tensors(&r, &err);
    if (status == NIB_OK)
        status = open_words(&r, &err);
    if (status == NIB_OK)
        status = measure_kv(&r, &err);
    bool printed = status == NIB_OK && (args.json ? print_json : print_text)(&r, args.tensors);
    if (printed && args.fit && f->has_network)
        printed = print_fit(&r);
    if (status == NIB_OK && !printed)
        status = nib_fail(&err, NIB_NO_MEMORY, "%s: no memory for a summary", args.path);
    chat_close(r.chat);
    tokenizer_close(r.words);
    mem_free(r.groups);
    model_file_close(f);
    return status == NIB_OK ? CLI_OK : cli_fail(status, &err);
}
