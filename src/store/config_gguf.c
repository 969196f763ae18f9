/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF metadata to hparams. Key names and defaults are those of llama.cpp's loader for the architectures
 * llama, qwen3 and gemma3. Part of config.h.
 */
#include <math.h>
#include <stdio.h>

#include "num/bf16.h"
#include "store/config.h"
#include "store/quote.h"

typedef struct source {
    const gguf *g;
    const char *arch;
    char name[96]; /* the key last asked for */
    nib_error *err;
} source;

static const char *key(source *s, const char *suffix) {
    snprintf(s->name, sizeof s->name, "%s.%s", s->arch, suffix);
    return s->name;
}

/* OUT keeps its default when the key is not there. */
static nib_status get_int(source *s, const char *suffix, int64_t min, int64_t max, int32_t *out) {
    bool found;
    int64_t value;
    const gguf_key *k = gguf_find(s->g, key(s, suffix));
    if (k && k->type == GGUF_ARRAY)
        return nib_fail(s->err, NIB_UNSUPPORTED, "%s: key %s differs by layer, which nibble does not compute",
                        s->g->where, s->name);
    NIB_TRY(gguf_get_int(s->g, s->name, min, max, &value, &found, s->err));
    if (found)
        *out = (int32_t)value;
    return NIB_OK;
}

static nib_status need_int(source *s, const char *suffix, int64_t min, int64_t max, int32_t *out) {
    if (!gguf_find(s->g, key(s, suffix)))
        return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is missing", s->g->where, s->name);
    return get_int(s, suffix, min, max, out);
}

static nib_status get_float(source *s, const char *suffix, float min, float max, float *out) {
    bool found;
    float value;
    NIB_TRY(gguf_get_float(s->g, key(s, suffix), &value, &found, s->err));
    if (found && !(value >= min && value <= max))
        return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is %g, expected %g to %g", s->g->where, s->name,
                        (double)value, (double)min, (double)max);
    if (found)
        *out = value;
    return NIB_OK;
}

static nib_status read_shape(source *s, hparams *hp) {
    NIB_TRY(need_int(s, "block_count", 1, HPARAMS_MAX_LAYERS, &hp->n_layers));
    NIB_TRY(need_int(s, "embedding_length", 1, CONFIG_MAX_DIM, &hp->dim));
    NIB_TRY(need_int(s, "feed_forward_length", 1, CONFIG_MAX_DIM, &hp->ffn_dim));
    NIB_TRY(need_int(s, "attention.head_count", 1, CONFIG_MAX_HEADS, &hp->n_heads));
    NIB_TRY(need_int(s, "context_length", 1, CONFIG_MAX_CONTEXT, &hp->context_len));
    hp->n_kv_heads = hp->n_heads;
    NIB_TRY(get_int(s, "attention.head_count_kv", 1, CONFIG_MAX_HEADS, &hp->n_kv_heads));
    NIB_TRY(get_int(s, "attention.key_length", 1, CONFIG_MAX_HEAD_DIM, &hp->head_dim));
    if (hp->head_dim == 0 && hp->dim % hp->n_heads)
        return nib_fail(s->err, NIB_BAD_FILE, "%s: embedding_length %d is no multiple of head_count %d",
                        s->g->where, hp->dim, hp->n_heads);
    if (hp->head_dim == 0)
        hp->head_dim = hp->dim / hp->n_heads;
    int32_t value_length = hp->head_dim, rotated = hp->head_dim, experts = 0;
    NIB_TRY(get_int(s, "attention.value_length", 1, CONFIG_MAX_HEAD_DIM, &value_length));
    NIB_TRY(get_int(s, "rope.dimension_count", 0, CONFIG_MAX_HEAD_DIM, &rotated));
    NIB_TRY(get_int(s, "expert_count", 0, 65536, &experts));
    if (value_length != hp->head_dim)
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: keys of %d and values of %d per head, nibble computes equal "
                        "ones",
                        s->g->where, hp->head_dim, value_length);
    if (rotated != hp->head_dim)
        return nib_fail(s->err, NIB_UNSUPPORTED, "%s: RoPE over %d of %d, nibble rotates whole heads",
                        s->g->where, rotated, hp->head_dim);
    if (experts)
        return nib_fail(s->err, NIB_UNSUPPORTED, "%s: a mixture of %d experts, which nibble does not compute",
                        s->g->where, experts);
    if (!gguf_find(s->g, key(s, "attention.layer_norm_rms_epsilon")))
        return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is missing", s->g->where, s->name);
    return get_float(s, "attention.layer_norm_rms_epsilon", 1e-12f, 1e-1f, &hp->norm_eps);
}

static nib_status read_rope(source *s, hparams *hp) {
    strview type = {NULL, 0};
    bool found;
    float factor = 0;
    hp->rope_theta = 1e4f;
    NIB_TRY(get_float(s, "rope.freq_base", 1, 1e12f, &hp->rope_theta));
    hp->rope_theta_local = hp->family == FAMILY_GEMMA3 ? 1e4f : hp->rope_theta;
    if (hp->family == FAMILY_GEMMA3)
        NIB_TRY(get_float(s, "rope.freq_base_swa", 1, 1e12f, &hp->rope_theta_local));
    NIB_TRY(get_float(s, "rope.scale_linear", 0, 1e6f, &factor)); /* the older name */
    NIB_TRY(get_float(s, "rope.scaling.factor", 0, 1e6f, &factor));
    NIB_TRY(gguf_get_text(s->g, key(s, "rope.scaling.type"), &type, &found, s->err));
    if (found && strview_is(type, "none"))
        factor = 1;
    else if (found && !strview_is(type, "linear"))
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: RoPE scaling \"%s\", nibble computes linear, and llama3 by "
                        "rope_freqs.weight",
                        s->g->where, QUOTE(type));
    if (factor != 0 && factor != 1) {
        hp->rope_scaling = ROPE_LINEAR;
        hp->rope_factor = factor;
    }
    return NIB_OK;
}

/* Gemma: every 6th layer looks at all tokens, unless the file gives a period or a list. */
static nib_status read_windows(source *s, hparams *hp) {
    int32_t period = 6;
    NIB_TRY(get_int(s, "attention.sliding_window", 0, CONFIG_MAX_CONTEXT, &hp->sliding_window));
    if (hp->sliding_window == 0)
        return NIB_OK;
    const gguf_key *list = gguf_find(s->g, key(s, "attention.sliding_window_pattern"));
    if (list && list->type == GGUF_ARRAY) {
        if (list->item_type != GGUF_BOOL || list->n_items != (uint64_t)hp->n_layers)
            return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is no list of %d bools", s->g->where, s->name,
                            hp->n_layers);
        for (int i = 0; i < hp->n_layers; i++)
            hp->local[i] = gguf_item_int(list, (uint64_t)i) != 0;
        return NIB_OK;
    }
    NIB_TRY(get_int(s, "attention.sliding_window_pattern", 0, HPARAMS_MAX_LAYERS, &period));
    for (int i = 0; i < hp->n_layers; i++)
        hp->local[i] = period == 0 || i % period < period - 1;
    return NIB_OK;
}

static nib_status read_gemma(source *s, hparams *hp) {
    float cap = 0;
    NIB_TRY(read_windows(s, hp));
    NIB_TRY(get_float(s, "final_logit_softcapping", -1e6f, 1e6f, &cap));
    if (cap != 0)
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: final_logit_softcapping is %g, which nibble does not compute", s->g->where,
                        (double)cap);
    /* The format has no key for it: llama.cpp knows the 27B model (query_pre_attn_scalar 168) by its layers.
     */
    hp->attn_scale = 1 / sqrtf((float)(hp->n_layers == 62 ? hp->dim / hp->n_heads : hp->head_dim));
    /* Rounded as the model was trained; llama.cpp does not round (0.2 % on 270M's embeddings). */
    hp->embed_scale = bf16_to_f32(bf16_from_f32(sqrtf((float)hp->dim)));
    return NIB_OK;
}

nib_status config_from_gguf(hparams *hp, const gguf *g, int32_t vocab, bool tied, nib_error *err) {
    static const struct {
        const char *name;
        family family;
    } archs[] = {{"llama", FAMILY_LLAMA}, {"qwen3", FAMILY_QWEN3}, {"gemma3", FAMILY_GEMMA3}};
    *hp = (hparams){.vocab = vocab, .tied = tied};
    strview arch;
    NIB_TRY(gguf_get_text(g, "general.architecture", &arch, NULL, err));
    source s = {.g = g, .err = err};
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        if (strview_is(arch, archs[i].name)) {
            s.arch = archs[i].name;
            hp->family = archs[i].family;
        }
    }
    if (!s.arch)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: architecture \"%s\", nibble computes llama, qwen3 and gemma3", g->where,
                        QUOTE(arch));
    NIB_TRY(read_shape(&s, hp));
    NIB_TRY(read_rope(&s, hp));
    NIB_TRY(config_check(hp, g->where, err));
    if (hp->family == FAMILY_GEMMA3)
        return read_gemma(&s, hp);
    int32_t window = 0;
    NIB_TRY(get_int(&s, "attention.sliding_window", 0, CONFIG_MAX_CONTEXT, &window));
    if (window)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: a sliding window in architecture %s, which nibble does not compute", g->where,
                        s.arch);
    hp->rope_interleaved = hp->family == FAMILY_LLAMA; /* the converter permutes Llama's Q and K rows */
    hp->attn_scale = 1 / sqrtf((float)hp->head_dim);
    hp->embed_scale = 1;
    return NIB_OK;
}
