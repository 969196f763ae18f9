/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF metadata to hparams. Key names and defaults are those of llama.cpp's loader. Part of config.h.
 */
#include <math.h>
#include <stdio.h>

#include "base/quote.h"
#include "nouns/family.h"
#include "num/bf16.h"
#include "store/config.h"

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

/* A number per layer, all of them the same. */
static nib_status get_same(source *s, const gguf_key *k, int64_t min, int64_t max, int32_t *out) {
    bool ints = k->item_type == GGUF_I32 || k->item_type == GGUF_U32 || k->item_type == GGUF_I64 ||
                k->item_type == GGUF_U64;
    if (!ints || k->n_items == 0)
        return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is neither an integer nor an array of them",
                        s->g->where, s->name);
    int64_t first = gguf_item_int(k, 0);
    for (uint64_t i = 1; i < k->n_items; i++)
        if (gguf_item_int(k, i) != first)
            return nib_fail(s->err, NIB_UNSUPPORTED,
                            "%s: key %s differs by layer, which nibble does not compute", s->g->where,
                            s->name);
    if (first < min || first > max)
        return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is out of bounds, expected %lld to %lld",
                        s->g->where, s->name, (long long)min, (long long)max);
    *out = (int32_t)first;
    return NIB_OK;
}

/* OUT keeps its default when the key is not there. */
static nib_status get_int(source *s, const char *suffix, int64_t min, int64_t max, int32_t *out) {
    bool found;
    int64_t value;
    const gguf_key *k = gguf_find(s->g, key(s, suffix));
    if (k && k->type == GGUF_ARRAY)
        return get_same(s, k, min, max, out);
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
    if (rotated != hp->head_dim &&
        (!family_get(hp->family)->partial_rope || rotated < 2 || rotated % 2 || rotated > hp->head_dim))
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: RoPE over %d of %d, which nibble does not compute for %s", s->g->where, rotated,
                        hp->head_dim, s->arch);
    hp->rope_dim = rotated;
    if (experts)
        return nib_fail(s->err, NIB_UNSUPPORTED, "%s: a mixture of %d experts, which nibble does not compute",
                        s->g->where, experts);
    if (!gguf_find(s->g, key(s, "attention.layer_norm_rms_epsilon")))
        return nib_fail(s->err, NIB_BAD_FILE, "%s: key %s is missing", s->g->where, s->name);
    return get_float(s, "attention.layer_norm_rms_epsilon", 1e-12f, 1e-1f, &hp->norm_eps);
}

static nib_status read_scaling(source *s, hparams *hp, strview type) {
    const family_facts *facts = family_get(hp->family);
    rope_params *rope = &hp->rope;
    float attn_factor = 1, yarn_attn_factor = 1, yarn_log = 0.1f, mscale_all = 0;
    NIB_TRY(get_float(s, "rope.scaling.attn_factor", 1e-3f, 1e3f, &attn_factor));
    if (strview_is(type, "longrope")) {
        rope->kind = ROPE_LONGROPE; /* its divisors are tensors: model_gguf.c */
        rope->attention_factor = attn_factor;
        return NIB_OK;
    }
    if (!strview_is(type, "yarn"))
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: RoPE scaling \"%s\", nibble computes linear, yarn, longrope, and llama3 by "
                        "rope_freqs.weight",
                        s->g->where, QUOTE(type));
    rope->kind = ROPE_YARN;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    NIB_TRY(get_float(s, "rope.scaling.yarn_attn_factor", 1e-3f, 1e3f, &yarn_attn_factor));
    NIB_TRY(get_float(s, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, &rope->beta_fast));
    NIB_TRY(get_float(s, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, &rope->beta_slow));
    NIB_TRY(get_float(s, "rope.scaling.yarn_log_multiplier", 0, 1e3f,
                      facts->query_log ? &mscale_all : &yarn_log));
    if (rope->factor < 1 || rope->theta <= 1 || rope->beta_fast < rope->beta_slow)
        return nib_fail(s->err, NIB_BAD_FILE,
                        "%s: YaRN asks for a factor from 1 on, a frequency base above 1 and beta_fast >= "
                        "beta_slow",
                        s->g->where);
    float usual = 1 + 0.1f * logf(rope->factor);
    rope->attention_factor =
        attn_factor * yarn_attn_factor *
        (facts->query_log ? usual / (1 + 0.1f * mscale_all * logf(rope->factor)) /* mscale is 1 */
                          : 1 + yarn_log * logf(rope->factor));
    return NIB_OK;
}

static nib_status read_rope(source *s, hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    strview type = {NULL, 0};
    bool found;
    float factor = 0;
    hp->rope = (rope_params){.theta = 1e4f, .original_context = hp->context_len};
    NIB_TRY(get_float(s, "rope.freq_base", 1, 1e12f, &hp->rope.theta));
    NIB_TRY(get_float(s, "rope.scale_linear", 0, 1e6f, &factor)); /* the older name */
    NIB_TRY(get_float(s, "rope.scaling.factor", 0, 1e6f, &factor));
    NIB_TRY(gguf_get_text(s->g, key(s, "rope.scaling.type"), &type, &found, s->err));
    hp->rope.factor = factor != 0 ? factor : 1;
    const bool scaled = found && !strview_is(type, "none") && !strview_is(type, "linear");
    if (scaled || facts->query_log)
        NIB_TRY(get_int(s, "rope.scaling.original_context_length", 1, CONFIG_MAX_CONTEXT,
                        &hp->rope.original_context));
    if (scaled)
        NIB_TRY(read_scaling(s, hp, type));
    else if (!(found && strview_is(type, "none")) && hp->rope.factor != 1)
        hp->rope.kind = ROPE_LINEAR;
    hp->rope_local = hp->rope;
    if (facts->local_unscaled)
        hp->rope_local = (rope_params){.theta = hp->rope.theta};
    if (facts->local_rope)
        hp->rope_local = (rope_params){.theta = facts->defaults.rope_local.theta};
    return facts->local_rope ? get_float(s, "rope.freq_base_swa", 1, 1e12f, &hp->rope_local.theta) : NIB_OK;
}

/* Which layers see a window: a list, or all but every Nth, counted from 1. */
static nib_status read_windows(source *s, hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    int32_t period = facts->window_period;
    NIB_TRY(get_int(s, "attention.sliding_window", 0, CONFIG_MAX_CONTEXT, &hp->sliding_window));
    if (hp->sliding_window == 0)
        return NIB_OK;
    for (int i = 0; i < hp->n_layers && facts->windows == WINDOWS_ALL; i++)
        hp->local[i] = true;
    if (facts->windows == WINDOWS_ALL)
        return NIB_OK;
    if (facts->windows != WINDOWS_PERIOD)
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: a sliding window in architecture %s, which nibble does not compute", s->g->where,
                        s->arch);
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

static nib_status read_multipliers(source *s, hparams *hp) {
    float attention = 0, logits = 1;
    NIB_TRY(get_float(s, "embedding_scale", 1e-6f, 1e6f, &hp->embed_scale));
    NIB_TRY(get_float(s, "residual_scale", 1e-6f, 1e6f, &hp->residual_scale));
    NIB_TRY(get_float(s, "logit_scale", 1e-6f, 1e6f, &logits));
    NIB_TRY(get_float(s, "attention.scale", 0, 1e6f, &attention));
    hp->logit_scale = 1 / logits;
    hp->attn_scale =
        attention > 0 ? attention : 1 / sqrtf((float)hp->head_dim); /* 0: as if it were not there */
    return NIB_OK;
}

static nib_status read_layers(source *s, hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    float cap = 0;
    NIB_TRY(get_float(s, "attn_logit_softcapping", 0, 1e6f, &hp->attn_cap));
    NIB_TRY(get_float(s, "final_logit_softcapping", -1e6f, 1e6f, facts->soft_caps ? &hp->logit_cap : &cap));
    if (hp->logit_cap < 0)
        return nib_fail(s->err, NIB_BAD_FILE, "%s: final_logit_softcapping is %g, expected 0 or more",
                        s->g->where, (double)hp->logit_cap);
    if (cap != 0 || (hp->attn_cap != 0 && !facts->soft_caps))
        return nib_fail(s->err, NIB_UNSUPPORTED,
                        "%s: logits capped at %g and scores at %g, which nibble does not compute for %s",
                        s->g->where, (double)cap, (double)hp->attn_cap, s->arch);
    if (facts->query_log)
        NIB_TRY(get_float(s, "attention.temperature_scale", 0, 1e3f, &hp->query_log));
    hp->rope_interleaved = facts->gguf_interleaved;
    hp->attn_scale = family_gguf_attn_scale(hp);
    if (facts->multipliers)
        NIB_TRY(read_multipliers(s, hp));
    for (int i = 0; i < hp->n_layers && facts->no_rope_interval; i++) /* llama.cpp knows it by heart */
        hp->no_rope[i] = (i + 1) % facts->no_rope_interval == 0;
    for (int i = 0; i < hp->n_layers && facts->global_no_rope; i++)
        hp->no_rope[i] = hp->sliding_window && !hp->local[i];
    if (facts->embed_sqrt_dim) /* rounded as the model was trained; llama.cpp does not (0.2 % on 270M's) */
        hp->embed_scale = bf16_to_f32(bf16_from_f32(sqrtf((float)hp->dim)));
    return NIB_OK;
}

nib_status config_from_gguf(hparams *hp, const gguf *g, int32_t vocab, bool tied, nib_error *err) {
    *hp = (hparams){0};
    strview arch;
    NIB_TRY(gguf_get_text(g, "general.architecture", &arch, NULL, err));
    char window[96];
    snprintf(window, sizeof window, "%.*s.attention.sliding_window", (int)(arch.n < 48 ? arch.n : 48),
             arch.p);
    family f = family_from_architecture(arch.p, arch.n, gguf_find(g, window));
    if (f == FAMILY_NONE) {
        char list[FAMILY_LIST_MAX];
        return nib_fail(err, NIB_UNSUPPORTED, "%s: architecture \"%s\", nibble computes %s", g->where,
                        QUOTE(arch), family_list(list));
    }
    source s = {.g = g, .arch = family_get(f)->gguf_arch, .err = err};
    *hp = family_get(f)->defaults;
    hp->family = f;
    hp->vocab = vocab;
    hp->tied = tied;
    hp->norm_plus_one = false; /* the converter adds the 1 */
    hp->head_dim = 0;
    NIB_TRY(read_shape(&s, hp));
    NIB_TRY(read_rope(&s, hp));
    NIB_TRY(config_check(hp, g->where, err));
    NIB_TRY(read_windows(&s, hp));
    return read_layers(&s, hp);
}
