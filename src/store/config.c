/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json to hparams. It begins with the defaults of the family's row: multimodal files leave out every
 * value that equals its default.
 */
#include "store/config.h"

#include <math.h>
#include <string.h>

#include "base/quote.h"
#include "num/bf16.h"
#include "store/config_parts.h"

/* ---- layers ---- */

static nib_status read_layer_types(const config_reader *r, hparams *hp, bool *found) {
    const json_t *list = config_field(r, "layer_types");
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

/* Does layer I see a window only, as the family's rule has it? */
static bool is_local(const family_facts *facts, int i, int32_t period, int32_t first) {
    switch (facts->windows) {
    case WINDOWS_NONE:
        return false;
    case WINDOWS_ALL:
        return true;
    case WINDOWS_LAST:
        return i >= first;
    case WINDOWS_PERIOD:
        return period > 0 && (i + 1) % period != 0;
    }
    return false;
}

/* sliding_window_pattern: every how-manyth layer sees everything; a number, or a word as long ("LLLG"). */
static nib_status read_period(const config_reader *r, int32_t *period) {
    const json_t *field = config_field(r, "sliding_window_pattern");
    const char *word = json_string_value(field);
    if (!word)
        return config_int(r, "sliding_window_pattern", 1, HPARAMS_MAX_LAYERS, period);
    size_t n = strspn(word, "L");
    if (strcmp(word + n, "G") != 0 || n >= HPARAMS_MAX_LAYERS)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: sliding_window_pattern is \"%s\", nibble reads L...LG",
                        r->where, QUOTEZ(word));
    *period = (int32_t)n + 1;
    return NIB_OK;
}

/* Which layers look at a window only, and how wide it is. */
static nib_status read_windows(const config_reader *r, hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    bool found, use = facts->windows != WINDOWS_LAST;
    int32_t window = facts->window, period = facts->window_period, first = facts->window_first;
    if (facts->windows == WINDOWS_NONE)
        return NIB_OK; /* transformers gives the family no windows, whatever the file says */
    if (facts->windows == WINDOWS_LAST)
        NIB_TRY(config_bool(r, "use_sliding_window", &use));
    if (json_is_null(json_object_get(r->object, "sliding_window")))
        window = 0; /* said to be none, which is not the default */
    NIB_TRY(config_int(r, "sliding_window", 1, CONFIG_MAX_CONTEXT, &window));
    NIB_TRY(read_period(r, &period));
    NIB_TRY(config_int(r, "max_window_layers", 0, INT32_MAX, &first));
    NIB_TRY(read_layer_types(r, hp, &found));
    if ((facts->windows != WINDOWS_PERIOD || facts->global_no_rope) && window == 0)
        use = false;
    for (int i = 0; i < hp->n_layers && !found; i++)
        hp->local[i] = use && is_local(facts, i, period, first);
    if (any_local(hp) && !(use && window))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: layer_types has sliding layers, %s", r->where,
                        use ? "there is no sliding_window" : "use_sliding_window is false");
    hp->sliding_window = any_local(hp) ? window : 0;
    return NIB_OK;
}

/* ---- families ---- */

/* transformers rounds Gemma's factor to the dtype the weights are loaded in, which the file names. */
static float embed_scale(const hparams *hp, const char *dtype_name) {
    float scale = sqrtf((float)hp->dim);
    if (strcmp(dtype_name, "bfloat16") == 0)
        return bf16_to_f32(bf16_from_f32(scale));
    if (strcmp(dtype_name, "float16") == 0)
        return f16_to_f32(f16_from_f32(scale));
    return scale;
}

static nib_status read_multipliers(const config_reader *r, hparams *hp) {
    float logits = 1;
    hp->attn_scale = 1; /* not head_dim^-1/2 */
    NIB_TRY(config_float(r, "embedding_multiplier", 1e-6, 1e6, &hp->embed_scale));
    NIB_TRY(config_float(r, "attention_multiplier", 1e-6, 1e6, &hp->attn_scale));
    NIB_TRY(config_float(r, "residual_multiplier", 1e-6, 1e6, &hp->residual_scale));
    NIB_TRY(config_float(r, "logits_scaling", 1e-6, 1e6, &logits));
    hp->logit_scale = 1 / logits;
    return NIB_OK;
}

/* no_rope_layers holds a 1 for every layer with RoPE, a 0 for the others. */
static nib_status read_no_rope(const config_reader *r, hparams *hp) {
    int32_t interval = family_get(hp->family)->no_rope_interval;
    const json_t *list = config_field(r, "no_rope_layers");
    NIB_TRY(config_need_false(r, "use_sliding_window"));
    NIB_TRY(config_int(r, "no_rope_layer_interval", 1, INT32_MAX, &interval));
    if (list && (!json_is_array(list) || json_array_size(list) != (size_t)hp->n_layers))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: no_rope_layers is no list of %d layers", r->where,
                        hp->n_layers);
    for (int i = 0; i < hp->n_layers; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        if (list && !json_is_integer(value))
            return nib_fail(r->err, NIB_BAD_FILE, "%s: no_rope_layers[%d] is no integer", r->where, i);
        hp->no_rope[i] = list ? json_integer_value(value) == 0 : (i + 1) % interval == 0;
    }
    return NIB_OK;
}

/* A null says that there is none, which is not the default. */
static nib_status read_cap(const config_reader *r, const family_facts *facts, const char *key, float *cap) {
    if (!facts->soft_caps)
        return config_need_zero(r, key);
    if (json_is_null(json_object_get(r->object, key)))
        *cap = 0;
    return config_float(r, key, 1e-3, 1e6, cap);
}

/* What is multiplied, and what must be as the family has it. */
static nib_status read_layers(const config_reader *r, hparams *hp, const char *dtype_name) {
    const family_facts *facts = family_get(hp->family);
    const char *act = facts->act;
    float scalar = (float)(facts->query_scalar ? facts->query_scalar : hp->head_dim);
    NIB_TRY(config_text(r, facts->act_key, &act));
    if (strcmp(act, facts->act) != 0)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: %s is \"%s\", nibble computes %s", r->where,
                        facts->act_key, QUOTEZ(act), facts->act);
    bool bias = false;
    NIB_TRY(config_bool(r, "attention_bias", &bias));
    if (facts->attention_bias)
        hp->qkv_bias = hp->o_bias = bias;
    NIB_TRY(config_need_false(r, "mlp_bias"));
    NIB_TRY(read_cap(r, facts, "attn_logit_softcapping", &hp->attn_cap));
    NIB_TRY(read_cap(r, facts, "final_logit_softcapping", &hp->logit_cap));
    NIB_TRY(config_need_false(r, "use_bidirectional_attention"));
    if (facts->query_scalar)
        NIB_TRY(config_float(r, "query_pre_attn_scalar", 1e-3, 1e6, &scalar));
    hp->attn_scale = 1 / sqrtf(scalar);
    if (facts->embed_sqrt_dim)
        hp->embed_scale = embed_scale(hp, dtype_name);
    if (facts->no_rope_interval)
        NIB_TRY(read_no_rope(r, hp));
    for (int i = 0; i < hp->n_layers && facts->global_no_rope; i++)
        hp->no_rope[i] = hp->sliding_window && !hp->local[i];
    return facts->multipliers ? read_multipliers(r, hp) : NIB_OK;
}

static nib_status read_shape(const config_reader *r, hparams *hp) {
    NIB_TRY(config_int(r, "num_hidden_layers", 1, HPARAMS_MAX_LAYERS, &hp->n_layers));
    NIB_TRY(config_int(r, "hidden_size", 1, CONFIG_MAX_DIM, &hp->dim));
    NIB_TRY(config_int(r, "intermediate_size", 1, CONFIG_MAX_DIM, &hp->ffn_dim));
    NIB_TRY(config_int(r, "num_attention_heads", 1, CONFIG_MAX_HEADS, &hp->n_heads));
    if (hp->n_kv_heads == 0)
        hp->n_kv_heads = hp->n_heads;
    NIB_TRY(config_int(r, "num_key_value_heads", 1, CONFIG_MAX_HEADS, &hp->n_kv_heads));
    if (hp->head_dim == 0 && !config_field(r, "head_dim") && hp->dim % hp->n_heads)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: hidden_size %d is no multiple of num_attention_heads %d",
                        r->where, hp->dim, hp->n_heads);
    if (hp->head_dim == 0)
        hp->head_dim = hp->dim / hp->n_heads;
    NIB_TRY(config_int(r, "head_dim", 1, CONFIG_MAX_HEAD_DIM, &hp->head_dim));
    NIB_TRY(config_int(r, "vocab_size", 1, CONFIG_MAX_VOCAB, &hp->vocab));
    NIB_TRY(config_int(r, "max_position_embeddings", 1, CONFIG_MAX_CONTEXT, &hp->context_len));
    return config_float(r, "rms_norm_eps", 1e-12, 1e-1, &hp->norm_eps);
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
    config_reader r = {root, where, err};
    const char *type = "";
    const json_t *nested;
    NIB_TRY(config_text(&r, "model_type", &type));
    NIB_TRY(config_object(&r, "text_config", &nested));
    *text = root;
    family f = family_from_model_type(type);
    if (nested && family_get(f)->nested) {
        r.object = *text = nested;
        NIB_TRY(config_text(&r, "model_type", &type));
        f = family_from_model_type(type);
    }
    if (f == FAMILY_NONE) {
        char list[FAMILY_LIST_MAX];
        return nib_fail(err, NIB_UNSUPPORTED, "%s: model_type is \"%s\", nibble computes %s", where,
                        QUOTEZ(type), family_list(list));
    }
    *hp = family_get(f)->defaults;
    hp->family = f;
    return NIB_OK;
}

nib_status config_from_json(hparams *hp, const json_t *root, const char *where, nib_error *err) {
    *hp = (hparams){0};
    const json_t *text;
    if (!json_is_object(root))
        return nib_fail(err, NIB_BAD_FILE, "%s: expected a JSON object", where);
    NIB_TRY(find_family(root, &text, hp, where, err));
    config_reader outer = {root, where, err}, r = {text, where, err};
    NIB_TRY(read_shape(&r, hp));
    NIB_TRY(config_rope(&r, hp));
    NIB_TRY(read_windows(&r, hp));
    NIB_TRY(config_bool(&outer, "tie_word_embeddings", &hp->tied));
    NIB_TRY(config_bool(&r, "tie_word_embeddings", &hp->tied));
    const char *dtype_name = "float32";
    NIB_TRY(config_text(&outer, "torch_dtype", &dtype_name));
    NIB_TRY(config_text(&outer, "dtype", &dtype_name));
    NIB_TRY(config_text(&r, "torch_dtype", &dtype_name));
    NIB_TRY(config_text(&r, "dtype", &dtype_name));
    NIB_TRY(config_check(hp, where, err));
    return read_layers(&r, hp, dtype_name);
}
