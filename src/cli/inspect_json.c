/* SPDX-License-Identifier: Apache-2.0
 *
 * See inspect_json.h.
 */
#include "cli/inspect_json.h"

#include <stdio.h>
#include <string.h>

#include "engine/loaded.h"
#include "model/fit.h"
#include "nouns/family.h"

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
        const findings_group *g = &r->groups[i];
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:b}", "group", slot_name(g->slot), "format",
                      g->format, "branch_rank", (json_int_t)g->rank, "tensors", (json_int_t)g->n_tensors,
                      "weights", (json_int_t)g->elements, "bytes", (json_int_t)g->bytes, "bits_per_weight",
                      findings_bits(g->bytes, g->elements), "quantized", (int)g->quantized));
    }
    return list;
}

static json_t *tensors_json(const findings *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->f->n_tensors; i++) {
        const tensor *t = &r->f->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)findings_extent(t, d)));
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
        f->n_files == 0 ? "shape"
        : f->gguf       ? "gguf"
                        : "safetensors",
        "name", findings_name(f).text, "files", (int)f->n_files, "file_bytes", (json_int_t)f->file_bytes,
        "weights", (json_int_t)r->elements, "bits_per_weight", findings_bits(f->file_bytes, r->elements),
        "bits_per_weight_quantized",
        r->quant_elements ? json_real(findings_bits(r->quant_bytes, r->quant_elements)) : json_null(),
        "bits_per_weight_linear",
        r->linear_elements ? json_real(findings_bits(r->linear_bytes, r->linear_elements)) : json_null(),
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

static json_t *card_json(const fit_plan *p, const fit_options *o, const fit_card *card) {
    const bool fits = p->kv >= p->kv_one;
    char words[192];
    fit_words(p, o, words, sizeof words);
    return json_pack("{s:s, s:I, s:b, s:s, s:o, s:o, s:o}", "gpu", card->name, "memory_bytes",
                     (json_int_t)card->memory, "fits", (int)fits, "plan", words, "kv_tokens",
                     fits ? json_integer(p->kv_tokens) : json_null(), "tokens_per_s",
                     fits ? json_real(p->tokens_per_s) : json_null(), "tokens_per_s_full",
                     fits ? json_real(p->tokens_per_s_full) : json_null());
}

/* What the network takes on GPUs, none of which is asked; NULL: no memory. */
static json_t *fit_json(const findings *r) {
    fit_options o = {0};
    fit_plan p;
    json_t *cards = json_array();
    bool whole = cards != NULL;
    fit_needs(r->f, &o, &p);
    for (int i = 0; i < FIT_N_CARDS && whole; i++) {
        fit_on(&p, &o, &fit_cards[i]);
        whole = json_array_append_new(cards, card_json(&p, &o, &fit_cards[i])) == 0;
    }
    if (!whole) {
        json_decref(cards);
        return NULL;
    }
    return json_pack("{s:i, s:i, s:I, s:I, s:I, s:I, s:o}", "max_model_len", o.max_model_len,
                     "max_num_batched_tokens", o.max_num_batched_tokens, "weight_bytes",
                     (json_int_t)p.weights, "activation_bytes", (json_int_t)p.activations, "context_bytes",
                     (json_int_t)p.context, "kv_bytes_full", (json_int_t)p.kv_one, "gpus", cards);
}

bool inspect_json_print(const findings *r, bool tensors, bool fit) {
    json_t *root = file_json(r);
    bool fits = root && json_object_set_new(root, "tokenizer", words_json(r)) == 0;
    if (fits && r->f->has_network)
        fits =
            json_object_set_new(root, "computed", *r->computed ? text_json(r->computed) : json_null()) == 0 &&
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
    if (fits && fit && r->f->has_network)
        fits = json_object_set_new(root, "fit", fit_json(r)) == 0;
    fits = fits && json_dumpf(root, stdout, JSON_INDENT(2)) == 0;
    if (fits)
        putchar('\n');
    json_decref(root);
    return fits;
}

nib_status inspect_json(const char *path, json_t **out, nib_error *err) {
    findings r;
    model_file *f;
    NIB_TRY(model_file_open(&f, path, err));
    nib_status status = findings_count(&r, f, err);
    *out = status == NIB_OK ? file_json(&r) : NULL;
    if (status == NIB_OK && !*out)
        status = nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a summary", path);
    findings_close(&r);
    model_file_close(f);
    return status;
}
