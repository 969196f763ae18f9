/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json and hf_quant_config.json of a quantized directory, as ModelOpt and llm-compressor write them
 * and vLLM, SGLang and TensorRT-LLM read them. Modules that stay unquantized are named; lm_head always is,
 * when it stays, because a tied head has no tensor of its own.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "export/export_parts.h"
#include "nouns/family.h"
#include "store/json_file.h"

#define MAX_CONFIG_BYTES ((size_t)32 << 20)

/* How a module is stored, as far as a config tells it. */
typedef enum algo {
    ALGO_NONE = 0,
    ALGO_NVFP4,
    ALGO_NVFP4_W4A16,
    ALGO_NVFP4_SVD,
    ALGO_MXFP4,
    ALGO_FP8,
    ALGO_FP8_ROWS,
    ALGO_COUNT
} algo;

typedef struct algo_words {
    const char *modelopt, *format, *strategy, *inputs;
    int bits, group_size; /* 0: none */
} algo_words;

static const algo_words words_of[ALGO_COUNT] = {
    [ALGO_NVFP4] = {"NVFP4", "nvfp4-pack-quantized", "tensor_group", "local", 4, 16},
    [ALGO_NVFP4_W4A16] = {"W4A16_NVFP4", "nvfp4-pack-quantized", "tensor_group", NULL, 4, 16},
    [ALGO_NVFP4_SVD] = {"NVFP4_SVD", "nvfp4-pack-quantized", "tensor_group", NULL, 4, 16},
    [ALGO_MXFP4] = {"MXFP4", "mxfp4-pack-quantized", "group", NULL, 4, 32},
    [ALGO_FP8] = {"FP8", "float-quantized", "tensor", NULL, 8, 0},
    [ALGO_FP8_ROWS] = {"FP8_PER_CHANNEL_PER_TOKEN", "float-quantized", "channel", NULL, 8, 0},
};

static algo algo_of(const export_item *item) {
    if (item->plain)
        return ALGO_NONE;
    switch (item->to) {
    case DT_NVFP4:
        return item->rank ? ALGO_NVFP4_SVD : item->input_scale > 0 ? ALGO_NVFP4 : ALGO_NVFP4_W4A16;
    case DT_MXFP4:
        return ALGO_MXFP4;
    case DT_F8_E4M3:
        return item->row_scales ? ALGO_FP8_ROWS : ALGO_FP8;
    default:
        return ALGO_NONE;
    }
}

/* "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight"; NULL when it is no such name. */
static json_t *module_name(const export_item *item) {
    size_t n = strlen(item->name);
    return n > 7 && strcmp(item->name + n - 7, ".weight") == 0 ? json_stringn(item->name, n - 7) : NULL;
}

typedef struct survey {
    size_t counts[ALGO_COUNT];
    int n_algos;
    algo single;     /* when n_algos == 1 */
    bool kv_scales;  /* of an FP8 cache stand beside */
    size_t rank;     /* of the branches of ALGO_NVFP4_SVD, all alike */
    json_t *exclude; /* list of modules left as they are; owned */
} survey;

static nib_status no_memory(const export_plan *plan, nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its config", plan->out_path);
}

static nib_status survey_make(survey *s, const export_plan *plan, nib_error *err) {
    bool head = false, ok = true;
    *s = (survey){.exclude = json_array()};
    for (size_t i = 0; i < plan->n && s->exclude; i++) {
        const export_item *item = &plan->items[i];
        algo a = algo_of(item);
        s->counts[a]++;
        s->kv_scales |= item->t->place.slot == SLOT_K_SCALE;
        s->rank = item->rank ? item->rank : s->rank;
        head |= item->slot == SLOT_HEAD && a != ALGO_NONE;
        if (a == ALGO_NONE && item->t->n_dims == 2 && item->slot != SLOT_EMBED && item->slot != SLOT_HEAD) {
            json_t *name = module_name(item);
            ok &= !name || json_array_append_new(s->exclude, name) == 0;
        }
    }
    if (!s->exclude || !ok || (!head && json_array_append_new(s->exclude, json_string("lm_head")) != 0))
        return no_memory(plan, err);
    for (int a = ALGO_NONE + 1; a < ALGO_COUNT; a++)
        if (s->counts[a]) {
            s->n_algos++;
            s->single = (algo)a;
        }
    return NIB_OK;
}

/* Module names stored by ALGO, or the class name when there is but one. */
static json_t *targets_of(const export_plan *plan, const survey *s, algo wanted) {
    if (s->n_algos == 1)
        return json_pack("[s]", "Linear");
    json_t *list = json_array();
    for (size_t i = 0; list && i < plan->n; i++)
        if (algo_of(&plan->items[i]) == wanted)
            json_array_append_new(list, module_name(&plan->items[i]));
    return list;
}

static json_t *quantized_layers(const export_plan *plan) {
    json_t *layers = json_object();
    for (size_t i = 0; layers && i < plan->n; i++) {
        algo a = algo_of(&plan->items[i]);
        json_t *name = a != ALGO_NONE ? module_name(&plan->items[i]) : NULL;
        if (!name)
            continue;
        json_t *layer = json_pack("{s:s}", "quant_algo", words_of[a].modelopt);
        if (words_of[a].group_size)
            json_object_set_new(layer, "group_size", json_integer(words_of[a].group_size));
        json_object_set_new(layers, json_string_value(name), layer);
        json_decref(name);
    }
    return layers;
}

/* ---- ModelOpt ---- */

static void set_rank(json_t *q, const survey *s) {
    if (s->rank)
        json_object_set_new(q, "lora_rank", json_integer((json_int_t)s->rank));
}

static json_t *modelopt_file(const export_plan *plan, const survey *s) {
    bool mixed = s->n_algos > 1;
    json_t *q = json_pack("{s:s, s:o, s:O}", "quant_algo",
                          mixed ? "MIXED_PRECISION" : words_of[s->single].modelopt, "kv_cache_quant_algo",
                          s->kv_scales ? json_string("FP8") : json_null(), "exclude_modules", s->exclude);
    if (!mixed && words_of[s->single].group_size)
        json_object_set_new(q, "group_size", json_integer(words_of[s->single].group_size));
    if (mixed)
        json_object_set_new(q, "quantized_layers", quantized_layers(plan));
    set_rank(q, s);
    return json_pack("{s:{s:s, s:s}, s:o}", "producer", "name", "nibble", "version", NIB_VERSION,
                     "quantization", q);
}

static json_t *number_scheme(const algo_words *w) {
    json_t *scheme = json_pack("{s:i, s:s, s:b}", "num_bits", w->bits, "type", "float", "dynamic", 0);
    if (w->group_size)
        json_object_set_new(scheme, "group_size", json_integer(w->group_size));
    return scheme;
}

static json_t *modelopt_config(const export_plan *plan, const survey *s) {
    json_t *groups = json_object();
    int n = 0;
    for (int a = ALGO_NONE + 1; a < ALGO_COUNT; a++) {
        if (!s->counts[a])
            continue;
        char name[32];
        snprintf(name, sizeof name, "group_%d", n++);
        json_t *group = json_pack("{s:o, s:o}", "weights", number_scheme(&words_of[a]), "targets",
                                  targets_of(plan, s, (algo)a));
        if (a == ALGO_NVFP4)
            json_object_set_new(group, "input_activations", number_scheme(&words_of[a]));
        json_object_set_new(groups, name, group);
    }
    json_t *q =
        json_pack("{s:s, s:s, s:O, s:o, s:{s:s, s:s}}", "quant_method", "modelopt", "quant_algo",
                  s->n_algos > 1 ? "MIXED_PRECISION" : words_of[s->single].modelopt, "ignore", s->exclude,
                  "config_groups", groups, "producer", "name", "nibble", "version", NIB_VERSION);
    if (s->n_algos > 1)
        json_object_set_new(q, "quantized_layers", quantized_layers(plan));
    if (s->kv_scales)
        json_object_set_new(q, "kv_cache_scheme",
                            json_pack("{s:b, s:i, s:s}", "dynamic", 0, "num_bits", 8, "type", "float"));
    set_rank(q, s);
    return q;
}

/* ---- compressed-tensors ---- */

static json_t *ct_scheme(const algo_words *w, const char *dynamic) {
    json_t *scheme = json_pack("{s:i, s:s, s:s, s:b}", "num_bits", w->bits, "type", "float", "strategy",
                               w->strategy, "symmetric", 1);
    json_object_set_new(scheme, "dynamic", dynamic ? json_string(dynamic) : json_false());
    if (w->group_size)
        json_object_set_new(scheme, "group_size", json_integer(w->group_size));
    if (w->group_size)
        json_object_set_new(scheme, "scale_dtype",
                            json_string(w->group_size == 16 ? "torch.float8_e4m3fn" : "torch.uint8"));
    return scheme;
}

static json_t *kv_scheme(const survey *s) {
    return s->kv_scales ? json_pack("{s:i, s:s, s:s, s:b, s:b}", "num_bits", 8, "type", "float", "strategy",
                                    "tensor", "symmetric", 1, "dynamic", 0)
                        : json_null();
}

static json_t *ct_config(const export_plan *plan, const survey *s) {
    json_t *groups = json_object();
    int n = 0;
    for (int a = ALGO_NONE + 1; a < ALGO_COUNT; a++) {
        const algo_words *w = &words_of[a];
        if (!s->counts[a])
            continue;
        char name[32];
        snprintf(name, sizeof name, "group_%d", n++);
        json_t *inputs = w->inputs ? ct_scheme(w, w->inputs) : json_null();
        json_object_set_new(groups, name,
                            json_pack("{s:o, s:o, s:o, s:n, s:s}", "targets", targets_of(plan, s, (algo)a),
                                      "weights", ct_scheme(w, NULL), "input_activations", inputs,
                                      "output_activations", "format", w->format));
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:n, s:O, s:o}", "quant_method", "compressed-tensors", "format",
                     s->n_algos > 1 ? "mixed-precision" : words_of[s->single].format, "quantization_status",
                     "compressed", "kv_cache_scheme", kv_scheme(s), "global_compression_ratio", "ignore",
                     s->exclude, "config_groups", groups);
}

/* ---- config.json of a GGUF source ---- */

static bool set(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

/* The shortest decimal that is the same FP32: 1e-05, not 9.999999747378752e-06. */
static json_t *real(float value) {
    char text[64];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *numbers(const float *list, int n) {
    json_t *out = json_array();
    for (int i = 0; out && i < n; i++)
        json_array_append_new(out, real(list[i]));
    return out;
}

/* The scaling that GGUF's keys can say, of heads of N pairs. */
static json_t *scaling_words(const rope_params *rope, int n) {
    const char *name = rope_kind_name(rope->kind);
    switch (rope->kind) {
    case ROPE_LINEAR:
        return json_pack("{s:s, s:o}", "rope_type", name, "factor", real(rope->factor));
    case ROPE_YARN:
        return json_pack("{s:s, s:o, s:i, s:o, s:o, s:o}", "rope_type", name, "factor", real(rope->factor),
                         "original_max_position_embeddings", rope->original_context, "attention_factor",
                         real(rope->attention_factor), "beta_fast", real(rope->beta_fast), "beta_slow",
                         real(rope->beta_slow));
    case ROPE_LONGROPE:
        return json_pack("{s:s, s:i, s:o, s:o, s:o}", "rope_type", name, "original_max_position_embeddings",
                         rope->original_context, "attention_factor", real(rope->attention_factor),
                         "short_factor", numbers(rope->short_divisors, n), "long_factor",
                         numbers(rope->long_divisors, n));
    default:
        return json_null();
    }
}

/* How fast queries grow stands beside the scaling, or alone. */
static bool set_query_log(json_t **scaling, const hparams *hp) {
    if (hp->query_log == 0)
        return true;
    if (json_is_null(*scaling))
        *scaling = json_pack("{s:s, s:i}", "rope_type", "default", "original_max_position_embeddings",
                             hp->rope.original_context);
    return set(*scaling, "llama_4_scaling_beta", real(hp->query_log));
}

static json_t *scaling_of(const export_plan *plan, nib_status *status, nib_error *err) {
    const hparams *hp = &plan->in->hp;
    const tensor *freqs = model_file_find(plan->in, place_of(SLOT_ROPE_FREQS, PLACE_NO_LAYER));
    if (hp->rope.kind != ROPE_PLAIN && freqs) {
        *status = nib_fail(err, NIB_UNSUPPORTED,
                           "%s: has %s RoPE scaling and rope_freqs.weight too; config.json can say but one",
                           plan->in->path, rope_kind_name(hp->rope.kind));
        return NULL;
    }
    if (!freqs)
        return scaling_words(&hp->rope, hp->rope_dim / 2);
    /* Llama 3: the divisors are 1, then a ramp, then the factor; the other numbers are the family's */
    float divisors[512], factor = 0;
    if (freqs->cols > 512) {
        *status = nib_fail(err, NIB_UNSUPPORTED, "%s: rope_freqs.weight is too long", plan->in->path);
        return NULL;
    }
    tensor_decode_row(freqs, 0, divisors);
    for (size_t i = 0; i < freqs->cols; i++)
        factor = divisors[i] > factor ? divisors[i] : factor;
    const rope_params usual = {
        .theta = hp->rope.theta, .factor = factor, .low_freq = 1, .high_freq = 4, .original_context = 8192};
    for (size_t i = 0; i < freqs->cols; i++) {
        double expected = rope_llama3_divisor(&usual, hp->rope_dim, (int)i);
        if (fabs(divisors[i] - expected) > 1e-3 * expected) {
            *status = nib_fail(
                err, NIB_UNSUPPORTED,
                "%s: rope_freqs.weight is not Llama 3's scaling (low_freq_factor 1, high_freq_factor "
                "4, original context 8192); config.json cannot say it",
                plan->in->path);
            return NULL;
        }
    }
    return json_pack("{s:s, s:o, s:f, s:f, s:i}", "rope_type", "llama3", "factor", real(factor),
                     "low_freq_factor", 1.0, "high_freq_factor", 4.0, "original_max_position_embeddings",
                     8192);
}

static bool set_query_scalar(json_t *c, const hparams *hp) {
    double scalar = 1.0 / ((double)hp->attn_scale * (double)hp->attn_scale);
    bool whole = fabs(scalar - rint(scalar)) < 1e-4 * scalar; /* transformers asks for an integer */
    return set(c, "query_pre_attn_scalar",
               whole ? json_integer((json_int_t)rint(scalar)) : real((float)scalar));
}

static bool set_windows(json_t *c, const hparams *hp) {
    json_t *layers = json_array();
    bool ok = layers != NULL;
    for (int i = 0; ok && i < hp->n_layers; i++)
        ok = json_array_append_new(layers,
                                   json_string(hp->local[i] ? "sliding_attention" : "full_attention")) == 0;
    if (hp->sliding_window)
        ok = ok && set(c, "sliding_window", json_integer(hp->sliding_window));
    return set(c, "layer_types", layers) && ok;
}

/* What only some families say. */
static bool set_family(json_t *c, const hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    bool ok = !facts->query_scalar || set_query_scalar(c, hp);
    ok = ok && set(c, facts->act_key, json_string(facts->act));
    if (facts->local_rope)
        ok = ok && set(c, "rope_local_base_freq", real(hp->rope_local.theta));
    if (facts->query_scalar) /* families that scale so may have caps */
        ok = ok && set(c, "attn_logit_softcapping", hp->attn_cap != 0 ? real(hp->attn_cap) : json_null()) &&
             set(c, "final_logit_softcapping", hp->logit_cap != 0 ? real(hp->logit_cap) : json_null());
    if (facts->windows == WINDOWS_PERIOD)
        ok = ok && set_windows(c, hp);
    if (facts->windows == WINDOWS_ALL)
        ok = ok &&
             set(c, "sliding_window", hp->sliding_window ? json_integer(hp->sliding_window) : json_null());
    if (facts->multipliers)
        ok = ok && set(c, "embedding_multiplier", real(hp->embed_scale)) &&
             set(c, "attention_multiplier", real(hp->attn_scale)) &&
             set(c, "residual_multiplier", real(hp->residual_scale)) &&
             set(c, "logits_scaling", real(1 / hp->logit_scale));
    if (hp->rope_dim != hp->head_dim)
        ok = ok && set(c, "partial_rotary_factor", real((float)hp->rope_dim / (float)hp->head_dim));
    if (facts->no_rope_interval)
        ok = ok && set(c, "no_rope_layer_interval", json_integer(facts->no_rope_interval));
    return ok && (!facts->mlp_bias_key || set(c, "mlp_bias", json_false()));
}

static bool set_ids(json_t *c, const token_source *w) {
    bool ok = w->bos < 0 || set(c, "bos_token_id", json_integer(w->bos));
    ok = ok && (w->pad < 0 || set(c, "pad_token_id", json_integer(w->pad)));
    if (w->eos < 0)
        return ok;
    if (w->eot < 0 || w->eot == w->eos)
        return ok && set(c, "eos_token_id", json_integer(w->eos));
    return ok && set(c, "eos_token_id", json_pack("[i, i]", w->eos, w->eot));
}

static nib_status config_from_hparams(const export_plan *plan, json_t **out, nib_error *err) {
    const hparams *hp = &plan->in->hp;
    const family_facts *facts = family_get(hp->family);
    nib_status status = NIB_OK;
    json_t *c =
        json_pack("{s:[s], s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "architectures",
                  facts->hf_class, "model_type", facts->model_types[0], "torch_dtype", "bfloat16",
                  "hidden_size", hp->dim, "intermediate_size", hp->ffn_dim, "num_hidden_layers", hp->n_layers,
                  "num_attention_heads", hp->n_heads, "num_key_value_heads", hp->n_kv_heads, "head_dim",
                  hp->head_dim, "vocab_size", hp->vocab, "max_position_embeddings", hp->context_len);
    json_t *scaling = scaling_of(plan, &status, err);
    *out = c;
    bool ok = set_query_log(&scaling, hp);
    ok = ok && set(c, "rope_scaling", scaling);
    ok = ok && set(c, "rms_norm_eps", real(hp->norm_eps)) && set(c, "rope_theta", real(hp->rope.theta));
    ok = ok && set(c, "tie_word_embeddings", json_boolean(hp->tied)) &&
         set(c, "attention_bias", json_boolean(hp->o_bias));
    ok = ok && set_family(c, hp) && set_ids(c, &plan->in->words);
    return status != NIB_OK ? status : ok ? NIB_OK : no_memory(plan, err);
}

/* ---- all of it ---- */

nib_status hf_config_read(const model_file *in, json_t **out, nib_error *err) {
    char path[4096];
    *out = NULL;
    if (!in->directory)
        return nib_fail(err, NIB_BAD_FILE, "%s", in->network_note); /* what a lone safetensors file lacks */
    snprintf(path, sizeof path, "%s/config.json", in->directory);
    NIB_TRY(json_file_read(out, path, MAX_CONFIG_BYTES, err));
    return *out ? NIB_OK : nib_fail(err, NIB_BAD_FILE, "%s: has no config.json", in->directory);
}

/* Does a source's config.json tie a head that stands beside in truth? */
static bool ties(const json_t *config, const json_t *text) {
    return json_is_true(json_object_get(config, "tie_word_embeddings")) ||
           json_is_true(json_object_get(text, "tie_word_embeddings"));
}

static nib_status write_both(const export_plan *plan, const survey *s, json_t *config, const char *directory,
                             nib_error *err) {
    json_t *text = json_object_get(config, "text_config");
    bool ok = true;
    json_object_del(config, "quantization_config");
    json_object_del(text, "quantization_config");
    if (plan->unties_head || (plan->in->has_network && !plan->in->hp.tied && ties(config, text))) {
        ok &= set(config, "tie_word_embeddings", json_false());
        ok &= !text || set(text, "tie_word_embeddings", json_false());
    }
    bool modelopt = plan->out == OUT_MODELOPT;
    if (s->n_algos)
        ok &= set(config, "quantization_config", modelopt ? modelopt_config(plan, s) : ct_config(plan, s));
    if (!ok)
        return no_memory(plan, err);
    NIB_TRY(hf_side_write_json(directory, "config.json", config, err));
    if (!s->n_algos || !modelopt)
        return NIB_OK;
    json_t *file = modelopt_file(plan, s);
    nib_status status =
        file ? hf_side_write_json(directory, "hf_quant_config.json", file, err) : no_memory(plan, err);
    json_decref(file);
    return status;
}

static nib_status write_mark(const export_plan *plan, const char *directory, nib_error *err) {
    json_t *mark = json_pack("{s:s}", "nibble", NIB_VERSION);
    nib_status status = mark ? hf_side_write_json(directory, HF_SIDE_MARK, mark, err) : no_memory(plan, err);
    json_decref(mark);
    return status;
}

nib_status hf_config_write(const export_plan *plan, const char *directory, nib_error *err) {
    survey s;
    json_t *config = NULL;
    nib_status status = survey_make(&s, plan, err);
    if (status == NIB_OK)
        status =
            plan->in->gguf ? config_from_hparams(plan, &config, err) : hf_config_read(plan->in, &config, err);
    if (status == NIB_OK)
        status = write_both(plan, &s, config, directory, err);
    if (status == NIB_OK)
        status = write_mark(plan, directory, err);
    json_decref(config);
    json_decref(s.exclude);
    return status;
}
