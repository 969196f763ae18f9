/* SPDX-License-Identifier: Apache-2.0
 *
 * The rotary embedding as config.json tells it: rope_theta and rope_scaling of older files, rope_parameters
 * of newer ones, for all layers or one object per kind of layer. Words and defaults are those of transformers
 * modeling_rope_utils.py.
 */
#include <math.h>
#include <string.h>

#include "base/quote.h"
#include "store/config_parts.h"

/* ---- one kind of scaling each ---- */

static nib_status need_factor(const config_reader *r, rope_params *rope) {
    if (!config_field(r, "factor"))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: RoPE scaling without a factor", r->where);
    return config_float(r, "factor", 1, 1e6, &rope->factor);
}

static nib_status read_llama3(const config_reader *r, rope_params *rope) {
    NIB_TRY(need_factor(r, rope));
    NIB_TRY(config_float(r, "low_freq_factor", 1e-6, 1e6, &rope->low_freq));
    NIB_TRY(config_float(r, "high_freq_factor", 1e-6, 1e6, &rope->high_freq));
    if (!(rope->low_freq > 0) || !(rope->high_freq > rope->low_freq))
        return nib_fail(r->err, NIB_BAD_FILE,
                        "%s: llama3 RoPE scaling asks for low_freq_factor < high_freq_factor", r->where);
    return NIB_OK;
}

/* YaRN's temperature: 0.1 ln(factor) + 1, of the paper; DeepSeek's files give a weight to the logarithm, and
 * another one that divides. */
static float yarn_temperature(float factor, float weight) {
    return factor <= 1 ? 1 : 0.1f * weight * logf(factor) + 1;
}

static nib_status read_yarn(const config_reader *r, int32_t context_len, rope_params *rope) {
    float mscale = 0, mscale_all = 0;
    bool truncate = true;
    rope->factor = (float)context_len / (float)rope->original_context;
    NIB_TRY(config_float(r, "factor", 1, 1e6, &rope->factor));
    NIB_TRY(config_float(r, "beta_fast", 0, 1e6, &rope->beta_fast));
    NIB_TRY(config_float(r, "beta_slow", 0, 1e6, &rope->beta_slow));
    NIB_TRY(config_float(r, "mscale", 0, 1e3, &mscale));
    NIB_TRY(config_float(r, "mscale_all_dim", 0, 1e3, &mscale_all));
    NIB_TRY(config_bool(r, "truncate", &truncate));
    rope->beta_fast = rope->beta_fast > 0 ? rope->beta_fast : 32;
    rope->beta_slow = rope->beta_slow > 0 ? rope->beta_slow : 1;
    rope->no_truncate = !truncate;
    rope->attention_factor = mscale > 0 && mscale_all > 0 ? yarn_temperature(rope->factor, mscale) /
                                                                yarn_temperature(rope->factor, mscale_all)
                                                          : yarn_temperature(rope->factor, 1);
    NIB_TRY(config_float(r, "attention_factor", 1e-3, 1e3, &rope->attention_factor));
    if (!(rope->theta > 1) || !(rope->factor >= 1))
        return nib_fail(r->err, NIB_BAD_FILE, "%s: YaRN asks for a rope_theta above 1 and a factor from 1 on",
                        r->where);
    if (rope->beta_fast < rope->beta_slow)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: YaRN asks for beta_fast >= beta_slow", r->where);
    return NIB_OK;
}

/* A list of divisors, one per pair of a head. */
static nib_status read_divisors(const config_reader *r, const char *key, int32_t n, float *out) {
    const json_t *list = config_field(r, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return nib_fail(r->err, NIB_BAD_FILE, "%s: %s is no list of %d numbers", r->where, key, n);
    for (int32_t i = 0; i < n; i++) {
        double value = json_number_value(json_array_get(list, (size_t)i));
        if (!(value > 0 && value <= 1e9))
            return nib_fail(r->err, NIB_BAD_FILE, "%s: %s[%d] is no number above 0", r->where, key, i);
        out[i] = (float)value;
    }
    return NIB_OK;
}

static nib_status read_longrope(const config_reader *r, const hparams *hp, rope_params *rope) {
    int32_t n = hp->rope_dim / 2;
    if (n > ROPE_MAX_PAIRS)
        return nib_fail(r->err, NIB_UNSUPPORTED, "%s: longrope for heads of %d, nibble computes up to %d",
                        r->where, hp->rope_dim, 2 * ROPE_MAX_PAIRS);
    NIB_TRY(read_divisors(r, "short_factor", n, rope->short_divisors));
    NIB_TRY(read_divisors(r, "long_factor", n, rope->long_divisors));
    rope->factor = (float)hp->context_len / (float)rope->original_context;
    NIB_TRY(config_float(r, "factor", 1e-6, 1e6, &rope->factor));
    if (rope->original_context < 2) /* its logarithm divides */
        return nib_fail(r->err, NIB_BAD_FILE, "%s: longrope asks for an original context of at least 2",
                        r->where);
    rope->attention_factor =
        rope->factor <= 1 ? 1 : sqrtf(1 + logf(rope->factor) / logf((float)rope->original_context));
    return config_float(r, "attention_factor", 1e-3, 1e3, &rope->attention_factor);
}

/* ---- one object ---- */

static nib_status read_kind(const config_reader *r, const char *name, rope_kind *out) {
    for (int k = ROPE_PLAIN; k <= ROPE_LONGROPE; k++) {
        if (strcmp(name, rope_kind_name((rope_kind)k)) == 0) {
            *out = (rope_kind)k;
            return NIB_OK;
        }
    }
    return nib_fail(r->err, NIB_UNSUPPORTED,
                    "%s: RoPE scaling \"%s\", nibble computes linear, llama3, yarn, dynamic and longrope",
                    r->where, QUOTEZ(name));
}

/* Which part of each head turns: the first of it. */
static nib_status read_partial(const config_reader *r, hparams *hp) {
    float partial = 1;
    if (!config_field(r, "partial_rotary_factor"))
        return NIB_OK;
    NIB_TRY(config_float(r, "partial_rotary_factor", 0, 1, &partial));
    int32_t n = (int32_t)((float)hp->head_dim * partial);
    if (n != hp->head_dim && (!family_get(hp->family)->partial_rope || n < 2 || n % 2))
        return nib_fail(
            r->err, NIB_UNSUPPORTED,
            "%s: partial_rotary_factor is %g of heads of %d, which nibble does not compute for %s", r->where,
            (double)partial, hp->head_dim, family_name(hp->family));
    hp->rope_dim = n;
    return NIB_OK;
}

/* The words of OBJECT to ROPE, which holds what stands outside it. */
static nib_status read_one(const config_reader *r, hparams *hp, rope_params *rope) {
    const char *type = "default";
    int32_t original = rope->original_context;
    NIB_TRY(config_text(r, "type", &type));
    NIB_TRY(config_text(r, "rope_type", &type));
    NIB_TRY(config_float(r, "rope_theta", 1, 1e12, &rope->theta));
    NIB_TRY(read_partial(r, hp));
    *rope = (rope_params){.theta = rope->theta, .original_context = hp->context_len};
    NIB_TRY(read_kind(r, type, &rope->kind));
    if (family_get(hp->family)->query_log)
        NIB_TRY(config_float(r, "llama_4_scaling_beta", 0, 1e3, &hp->query_log));
    else
        NIB_TRY(config_need_zero(r, "llama_4_scaling_beta"));
    if (hp->query_log != 0 && rope->kind == ROPE_DYNAMIC) /* whose base goes by another length */
        return nib_fail(r->err, NIB_UNSUPPORTED,
                        "%s: llama_4_scaling_beta beside dynamic RoPE scaling, which nibble does not compute",
                        r->where);
    if (rope->kind == ROPE_LLAMA3 || rope->kind == ROPE_YARN || rope->kind == ROPE_LONGROPE ||
        hp->query_log != 0) {
        NIB_TRY(config_int(r, "original_max_position_embeddings", 1, CONFIG_MAX_CONTEXT,
                           &rope->original_context));
        if (original) /* beside the object: it goes before the one inside (Phi 3) */
            rope->original_context = original;
    }
    switch (rope->kind) {
    case ROPE_PLAIN:
        break;
    case ROPE_LINEAR:
    case ROPE_DYNAMIC:
        return need_factor(r, rope);
    case ROPE_LLAMA3:
        return read_llama3(r, rope);
    case ROPE_YARN:
        return read_yarn(r, hp->context_len, rope);
    case ROPE_LONGROPE:
        return read_longrope(r, hp, rope);
    }
    return NIB_OK;
}

/* An object per kind of layer. */
static nib_status read_by_layer(const config_reader *r, const json_t *parameters, hparams *hp) {
    config_reader both = {parameters, r->where, r->err};
    const json_t *global, *local;
    NIB_TRY(config_object(&both, "full_attention", &global));
    NIB_TRY(config_object(&both, "sliding_attention", &local));
    if (global)
        NIB_TRY(read_one(&(config_reader){global, r->where, r->err}, hp, &hp->rope));
    if (local)
        NIB_TRY(read_one(&(config_reader){local, r->where, r->err}, hp, &hp->rope_local));
    return NIB_OK;
}

nib_status config_rope(const config_reader *r, hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    const json_t *parameters, *scaling;
    bool by_layer = false;
    hp->rope_dim = hp->head_dim;
    NIB_TRY(read_partial(r, hp));
    NIB_TRY(
        config_int(r, "original_max_position_embeddings", 1, CONFIG_MAX_CONTEXT, &hp->rope.original_context));
    NIB_TRY(config_float(r, "rope_theta", 1, 1e12, &hp->rope.theta));
    NIB_TRY(config_float(r, "rope_local_base_freq", 1, 1e12, &hp->rope_local.theta));
    NIB_TRY(config_object(r, "rope_parameters", &parameters));
    NIB_TRY(config_object(r, "rope_scaling", &scaling));
    config_reader inner = {parameters, r->where, r->err};
    if (parameters)
        by_layer = config_field(&inner, "full_attention") || config_field(&inner, "sliding_attention");
    if (by_layer)
        NIB_TRY(read_by_layer(r, parameters, hp));
    else if (parameters)
        NIB_TRY(read_one(&inner, hp, &hp->rope));
    if (scaling)
        NIB_TRY(read_one(&(config_reader){scaling, r->where, r->err}, hp, &hp->rope));
    if (facts->local_unscaled && !by_layer)
        hp->rope_local = (rope_params){.theta = hp->rope.theta};
    else if (!facts->local_rope && !facts->local_unscaled)
        hp->rope_local = hp->rope;
    if (facts->local_unscaled &&
        (hp->rope_local.kind != ROPE_PLAIN || hp->rope_local.theta != hp->rope.theta))
        return nib_fail(
            r->err, NIB_UNSUPPORTED,
            "%s: RoPE of sliding_attention is scaled or of another base than full_attention's, which "
            "nibble does not compute for %s",
            r->where, family_name(hp->family));
    return NIB_OK;
}
