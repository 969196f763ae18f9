/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json to hparams. Defaults are those of transformers' config classes (LlamaConfig, Qwen3Config,
 * Gemma3TextConfig): Gemma's multimodal files leave out every value that equals its default.
 */
#include "store/config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "num/bf16.h"
#include "store/quote.h"

typedef struct reader {
    const json_t *object;
    const char *where;
    nib_error *err;
} reader;

/* ---- checked fields; null counts as missing ---- */

static const json_t *field(const reader *r, const char *key) {
    const json_t *value = json_object_get(r->object, key);
    return json_is_null(value) ? NULL : value;
}

static nib_status get_int(const reader *r, const char *key, int64_t min, int64_t max, int32_t *out) {
    const json_t *value = field(r, key);
    if (!value)
        return NIB_OK; /* OUT holds the default */
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no integer from %" PRId64 " to %" PRId64, r->where,
                        key, min, max);
    *out = (int32_t)json_integer_value(value);
    return NIB_OK;
}

static nib_status get_float(const reader *r, const char *key, double min, double max, float *out) {
    const json_t *value = field(r, key);
    if (!value)
        return NIB_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no number from %g to %g", r->where, key, min, max);
    *out = (float)number;
    return NIB_OK;
}

static nib_status get_bool(const reader *r, const char *key, bool *out) {
    const json_t *value = field(r, key);
    if (!value)
        return NIB_OK;
    if (!json_is_boolean(value))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is neither true nor false", r->where, key);
    *out = json_is_true(value);
    return NIB_OK;
}

static nib_status get_text(const reader *r, const char *key, const char **out) {
    const json_t *value = field(r, key);
    if (!value)
        return NIB_OK;
    if (!json_is_string(value))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no string", r->where, key);
    *out = json_string_value(value);
    return NIB_OK;
}

static nib_status get_object(const reader *r, const char *key, const json_t **out) {
    *out = field(r, key);
    if (*out && !json_is_object(*out))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no object", r->where, key);
    return NIB_OK;
}

/* KEY must be false or missing: nibble computes nothing else. */
static nib_status need_false(const reader *r, const char *key) {
    bool value = false;
    NIB_TRY(get_bool(r, key, &value));
    if (value)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: %s is set, which nibble does not compute", r->where,
                        key);
    return NIB_OK;
}

/* KEY must be 0 or missing. */
static nib_status need_zero(const reader *r, const char *key) {
    float value = 0;
    NIB_TRY(get_float(r, key, -1e30, 1e30, &value));
    if (value != 0)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: %s is %g, which nibble does not compute", r->where, key,
                        (double)value);
    return NIB_OK;
}

/* ---- RoPE ---- */

/* The scaling words of OBJECT: rope_scaling of older files, rope_parameters of newer ones. */
static nib_status read_rope(const reader *r, hparams *hp) {
    const char *type = "default";
    NIB_TRY(get_text(r, "type", &type));
    NIB_TRY(get_text(r, "rope_type", &type));
    NIB_TRY(get_float(r, "rope_theta", 1, 1e12, &hp->rope_theta));
    float partial = 1;
    NIB_TRY(get_float(r, "partial_rotary_factor", 0, 1, &partial));
    if (partial != 1)
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: partial_rotary_factor is %g, nibble rotates whole heads", r->where,
                        (double)partial);
    if (strcmp(type, "default") == 0)
        return NIB_OK;
    bool linear = strcmp(type, "linear") == 0;
    if (!linear && strcmp(type, "llama3") != 0)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: RoPE scaling \"%s\", nibble computes linear and llama3",
                        r->where, QUOTEZ(type));
    if (!field(r, "factor"))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: RoPE scaling without a factor", r->where);
    NIB_TRY(get_float(r, "factor", 1, 1e6, &hp->rope_factor));
    hp->rope_scaling = linear ? ROPE_LINEAR : ROPE_LLAMA3;
    if (linear)
        return NIB_OK;
    hp->rope_low_freq = hp->rope_high_freq = 0;
    NIB_TRY(get_float(r, "low_freq_factor", 1e-6, 1e6, &hp->rope_low_freq));
    NIB_TRY(get_float(r, "high_freq_factor", 1e-6, 1e6, &hp->rope_high_freq));
    hp->rope_original_context = hp->context_len;
    NIB_TRY(
        get_int(r, "original_max_position_embeddings", 1, CONFIG_MAX_CONTEXT, &hp->rope_original_context));
    if (!(hp->rope_low_freq > 0) || !(hp->rope_high_freq > hp->rope_low_freq))
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: llama3 RoPE scaling asks for low_freq_factor < high_freq_factor", r->where);
    return NIB_OK;
}

/* Gemma: rope_parameters holds an object per kind of layer. */
static nib_status read_rope_by_layer(const reader *r, const json_t *parameters, hparams *hp) {
    reader both = {parameters, r->where, r->err};
    const json_t *global, *local;
    NIB_TRY(get_object(&both, "full_attention", &global));
    NIB_TRY(get_object(&both, "sliding_attention", &local));
    if (global)
        NIB_TRY(read_rope(&(reader){global, r->where, r->err}, hp));
    if (!local)
        return NIB_OK;
    hparams of_local = *hp;
    of_local.rope_theta = hp->rope_theta_local;
    of_local.rope_scaling = ROPE_PLAIN;
    NIB_TRY(read_rope(&(reader){local, r->where, r->err}, &of_local));
    if (of_local.rope_scaling != ROPE_PLAIN)
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: RoPE scaling of sliding_attention layers, which nibble does "
                        "not compute",
                        r->where);
    hp->rope_theta_local = of_local.rope_theta;
    return NIB_OK;
}

static nib_status read_all_rope(const reader *r, hparams *hp) {
    const json_t *parameters, *scaling;
    NIB_TRY(get_float(r, "rope_theta", 1, 1e12, &hp->rope_theta));
    NIB_TRY(get_float(r, "rope_local_base_freq", 1, 1e12, &hp->rope_theta_local));
    NIB_TRY(get_object(r, "rope_parameters", &parameters));
    NIB_TRY(get_object(r, "rope_scaling", &scaling));
    reader inner = {parameters, r->where, r->err};
    if (parameters && (field(&inner, "full_attention") || field(&inner, "sliding_attention")))
        NIB_TRY(read_rope_by_layer(r, parameters, hp));
    else if (parameters)
        NIB_TRY(read_rope(&inner, hp));
    if (scaling)
        NIB_TRY(read_rope(&(reader){scaling, r->where, r->err}, hp));
    if (hp->family != FAMILY_GEMMA3)
        hp->rope_theta_local = hp->rope_theta;
    return NIB_OK;
}

/* ---- layers ---- */

static nib_status read_layer_types(const reader *r, hparams *hp, bool *found) {
    const json_t *list = field(r, "layer_types");
    *found = list != NULL;
    if (!list)
        return NIB_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)hp->n_layers)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: layer_types is no list of %d layers", r->where,
                        hp->n_layers);
    for (int i = 0; i < hp->n_layers; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));
        if (!type)
            return nib_fail(r->err, NIB_BAD_FILE, "%s: layer_types[%d] is no string", r->where, i);
        hp->local[i] = strcmp(type, "sliding_attention") == 0;
        if (!hp->local[i] && strcmp(type, "full_attention") != 0)
            return nib_fail(r->err, NIB_UNSUPPORTED,
                            "%s: layer_types[%d] is \"%s\", nibble computes full_attention "
                            "and sliding_attention",
                            r->where, i, QUOTEZ(type));
    }
    return NIB_OK;
}

static bool any_local(const hparams *hp) {
    for (int i = 0; i < hp->n_layers; i++)
        if (hp->local[i])
            return true;
    return false;
}

/* Which layers look at a window only, and how wide it is. */
static nib_status read_windows(const reader *r, hparams *hp) {
    bool found, use = hp->family == FAMILY_GEMMA3;
    int32_t window = 4096, pattern = 6, first = 28; /* the classes' defaults */
    if (hp->family == FAMILY_LLAMA)
        return NIB_OK; /* transformers gives Llama no windows, whatever the file says */
    if (hp->family == FAMILY_QWEN3)
        NIB_TRY(get_bool(r, "use_sliding_window", &use));
    NIB_TRY(get_int(r, "sliding_window", 1, CONFIG_MAX_CONTEXT, &window));
    NIB_TRY(get_int(r, "sliding_window_pattern", 1, HPARAMS_MAX_LAYERS, &pattern));
    NIB_TRY(get_int(r, "max_window_layers", 0, INT32_MAX, &first));
    NIB_TRY(read_layer_types(r, hp, &found));
    for (int i = 0; i < hp->n_layers && !found; i++)
        hp->local[i] = hp->family == FAMILY_GEMMA3 ? (i + 1) % pattern != 0 : use && i >= first;
    hp->sliding_window = use && any_local(hp) ? window : 0;
    if (any_local(hp) && !use)
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: layer_types has sliding layers, use_sliding_window is false", r->where);
    if (any_local(hp) && hp->family == FAMILY_QWEN3 && hp->rope_scaling != ROPE_PLAIN)
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: RoPE scaling together with sliding windows, which nibble "
                        "does not compute for qwen3",
                        r->where);
    return NIB_OK;
}

/* ---- families ---- */

static const hparams llama_defaults = {.family = FAMILY_LLAMA,
                                       .n_layers = 32,
                                       .dim = 4096,
                                       .ffn_dim = 11008,
                                       .n_heads = 32,
                                       .vocab = 32000,
                                       .context_len = 2048,
                                       .norm_eps = 1e-6f,
                                       .rope_theta = 1e4f};
static const hparams qwen3_defaults = {.family = FAMILY_QWEN3,
                                       .n_layers = 32,
                                       .dim = 4096,
                                       .ffn_dim = 22016,
                                       .n_heads = 32,
                                       .head_dim = 128,
                                       .vocab = 151936,
                                       .context_len = 32768,
                                       .norm_eps = 1e-6f,
                                       .rope_theta = 1e4f};
static const hparams gemma3_defaults = {.family = FAMILY_GEMMA3,
                                        .n_layers = 26,
                                        .dim = 2304,
                                        .ffn_dim = 9216,
                                        .n_heads = 8,
                                        .n_kv_heads = 4,
                                        .head_dim = 256,
                                        .vocab = 262208,
                                        .context_len = 131072,
                                        .norm_eps = 1e-6f,
                                        .norm_plus_one = true,
                                        .tied = true,
                                        .rope_theta = 1e6f,
                                        .rope_theta_local = 1e4f};

/* transformers rounds Gemma's factor to the dtype the weights are loaded in, which the file names. */
static float embed_scale(const hparams *hp, const char *dtype_name) {
    float scale = sqrtf((float)hp->dim);
    if (strcmp(dtype_name, "bfloat16") == 0)
        return bf16_to_f32(bf16_from_f32(scale));
    if (strcmp(dtype_name, "float16") == 0)
        return f16_to_f32(f16_from_f32(scale));
    return scale;
}

static nib_status read_gemma(const reader *r, hparams *hp, const char *dtype_name) {
    float scalar = 256;
    const char *act = "gelu_pytorch_tanh";
    NIB_TRY(get_text(r, "hidden_activation", &act));
    if (strcmp(act, "gelu_pytorch_tanh") != 0)
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: hidden_activation is \"%s\", nibble computes "
                        "gelu_pytorch_tanh",
                        r->where, QUOTEZ(act));
    NIB_TRY(need_zero(r, "attn_logit_softcapping"));
    NIB_TRY(need_zero(r, "final_logit_softcapping"));
    NIB_TRY(need_false(r, "use_bidirectional_attention"));
    NIB_TRY(get_float(r, "query_pre_attn_scalar", 1e-3, 1e6, &scalar));
    hp->attn_scale = 1 / sqrtf(scalar);
    hp->embed_scale = embed_scale(hp, dtype_name);
    return NIB_OK;
}

static nib_status read_plain(const reader *r, hparams *hp) {
    const char *act = "silu";
    NIB_TRY(get_text(r, "hidden_act", &act));
    if (strcmp(act, "silu") != 0)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: hidden_act is \"%s\", nibble computes silu", r->where,
                        QUOTEZ(act));
    NIB_TRY(need_false(r, "mlp_bias"));
    hp->attn_scale = 1 / sqrtf((float)hp->head_dim);
    hp->embed_scale = 1;
    return NIB_OK;
}

static nib_status read_shape(const reader *r, hparams *hp) {
    NIB_TRY(get_int(r, "num_hidden_layers", 1, HPARAMS_MAX_LAYERS, &hp->n_layers));
    NIB_TRY(get_int(r, "hidden_size", 1, CONFIG_MAX_DIM, &hp->dim));
    NIB_TRY(get_int(r, "intermediate_size", 1, CONFIG_MAX_DIM, &hp->ffn_dim));
    NIB_TRY(get_int(r, "num_attention_heads", 1, CONFIG_MAX_HEADS, &hp->n_heads));
    if (hp->n_kv_heads == 0)
        hp->n_kv_heads = hp->n_heads;
    NIB_TRY(get_int(r, "num_key_value_heads", 1, CONFIG_MAX_HEADS, &hp->n_kv_heads));
    if (hp->head_dim == 0 && !field(r, "head_dim") && hp->dim % hp->n_heads)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: hidden_size %d is no multiple of num_attention_heads %d",
                        r->where, hp->dim, hp->n_heads);
    if (hp->head_dim == 0)
        hp->head_dim = hp->dim / hp->n_heads;
    NIB_TRY(get_int(r, "head_dim", 1, CONFIG_MAX_HEAD_DIM, &hp->head_dim));
    NIB_TRY(get_int(r, "vocab_size", 1, CONFIG_MAX_VOCAB, &hp->vocab));
    NIB_TRY(get_int(r, "max_position_embeddings", 1, CONFIG_MAX_CONTEXT, &hp->context_len));
    NIB_TRY(get_float(r, "rms_norm_eps", 1e-12, 1e-1, &hp->norm_eps));
    return need_false(r, "attention_bias");
}

nib_status config_check(const hparams *hp, const char *where, nib_error *err) {
    if (hp->n_heads % hp->n_kv_heads)
        return nib_fail(err, NIB_BAD_FILE, "%s: %d attention heads are no multiple of %d key-value heads",
                        where, hp->n_heads, hp->n_kv_heads);
    if (hp->head_dim % 2 || hp->head_dim < 2 || hp->head_dim > CONFIG_MAX_HEAD_DIM)
        return nib_fail(err, NIB_BAD_FILE, "%s: a head dimension of %d, expected an even number from 2 to %d",
                        where, hp->head_dim, CONFIG_MAX_HEAD_DIM);
    if ((int64_t)hp->n_heads * hp->head_dim > CONFIG_MAX_DIM)
        return nib_fail(err, NIB_BAD_FILE, "%s: %d heads of %d are wider than %d", where, hp->n_heads,
                        hp->head_dim, CONFIG_MAX_DIM);
    return NIB_OK;
}

/* The object that describes the text network, and its defaults. */
static nib_status find_family(const json_t *root, const json_t **text, hparams *hp, const char *where,
                              nib_error *err) {
    reader r = {root, where, err};
    const char *type = "";
    const json_t *nested;
    NIB_TRY(get_text(&r, "model_type", &type));
    NIB_TRY(get_object(&r, "text_config", &nested));
    *text = root;
    if (strcmp(type, "llama") == 0)
        *hp = llama_defaults;
    else if (strcmp(type, "qwen3") == 0)
        *hp = qwen3_defaults;
    else if (strcmp(type, "gemma3") == 0 || strcmp(type, "gemma3_text") == 0)
        *hp = gemma3_defaults;
    else
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: model_type is \"%s\", nibble computes llama, qwen3 and gemma3", where,
                        QUOTEZ(type));
    if (nested && hp->family == FAMILY_GEMMA3)
        *text = nested;
    return NIB_OK;
}

nib_status config_from_json(hparams *hp, const json_t *root, const char *where, nib_error *err) {
    *hp = (hparams){0};
    const json_t *text;
    if (!json_is_object(root))
        return nib_fail(err, NIB_BAD_FILE, "%s: expected a JSON object", where);
    NIB_TRY(find_family(root, &text, hp, where, err));
    reader outer = {root, where, err}, r = {text, where, err};
    NIB_TRY(read_shape(&r, hp));
    NIB_TRY(read_all_rope(&r, hp));
    NIB_TRY(read_windows(&r, hp));
    NIB_TRY(get_bool(&outer, "tie_word_embeddings", &hp->tied));
    NIB_TRY(get_bool(&r, "tie_word_embeddings", &hp->tied));
    const char *dtype_name = "float32";
    NIB_TRY(get_text(&outer, "torch_dtype", &dtype_name));
    NIB_TRY(get_text(&outer, "dtype", &dtype_name));
    NIB_TRY(get_text(&r, "torch_dtype", &dtype_name));
    NIB_TRY(get_text(&r, "dtype", &dtype_name));
    NIB_TRY(config_check(hp, where, err));
    return hp->family == FAMILY_GEMMA3 ? read_gemma(&r, hp, dtype_name) : read_plain(&r, hp);
}

/* ---- how it is quantized ---- */

static bool among(const char *text, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, list[i]) == 0)
            return true;
    return false;
}

static nib_status check_compressed(const reader *r) {
    static const char *const formats[] = {"nvfp4-pack-quantized", "mxfp4-pack-quantized", "float-quantized",
                                          "mixed-precision", "dense"};
    const char *format = "dense";
    const json_t *transform;
    NIB_TRY(get_text(r, "format", &format));
    if (!among(format, formats, sizeof formats / sizeof formats[0]))
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: compressed-tensors format \"%s\", nibble reads "
                        "nvfp4-pack-quantized, mxfp4-pack-quantized, float-quantized and mixed-precision",
                        r->where, QUOTEZ(format));
    NIB_TRY(get_object(r, "transform_config", &transform));
    if (json_object_size(transform))
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: transform_config asks for rotations, which nibble does not "
                        "compute",
                        r->where);
    return NIB_OK;
}

nib_status config_quantization(config_quant *out, const json_t *config, const json_t *hf_quant_config,
                               const char *where, nib_error *err) {
    *out = hf_quant_config ? CONFIG_QUANT_MODELOPT : CONFIG_QUANT_NONE;
    reader root = {config, where, err};
    const json_t *quantization = NULL, *nested = NULL;
    NIB_TRY(get_object(&root, "quantization_config", &quantization));
    if (!quantization) { /* beside the text network's values in older multimodal files */
        NIB_TRY(get_object(&root, "text_config", &nested));
        NIB_TRY(get_object(&(reader){nested, where, err}, "quantization_config", &quantization));
    }
    if (!quantization)
        NIB_TRY(get_object(&root, "compression_config", &quantization));
    if (!quantization)
        return NIB_OK;
    reader r = {quantization, where, err};
    const char *method = "";
    NIB_TRY(get_text(&r, "quant_method", &method));
    if (strcmp(method, "modelopt") == 0 || strcmp(method, "modelopt_fp4") == 0) {
        *out = CONFIG_QUANT_MODELOPT;
        return NIB_OK;
    }
    if (strcmp(method, "compressed-tensors") != 0)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: quant_method is \"%s\", nibble reads modelopt and "
                        "compressed-tensors",
                        where, QUOTEZ(method));
    *out = CONFIG_QUANT_COMPRESSED;
    return check_compressed(&r);
}
