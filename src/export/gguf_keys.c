/* SPDX-License-Identifier: Apache-2.0
 *
 * hparams as llama.cpp's keys. What those keys cannot say is refused.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "export/export_parts.h"
#include "nouns/family.h"

typedef struct key_writer {
    gguf_write *out;
    const char *arch;
    char name[96];
} key_writer;

static const char *key(key_writer *k, const char *suffix) {
    snprintf(k->name, sizeof k->name, "%s.%s", k->arch, suffix);
    return k->name;
}

static void number(key_writer *k, const char *suffix, int32_t value) {
    gguf_write_u32(k->out, key(k, suffix), (uint32_t)value);
}

static void real(key_writer *k, const char *suffix, float value) {
    gguf_write_f32(k->out, key(k, suffix), value);
}

/* llama3's scaling is a tensor (write_gguf.c). */
static nib_status write_scaling(key_writer *k, const export_plan *plan, nib_error *err) {
    const rope_params *rope = &plan->in->hp.rope;
    if (rope->kind == ROPE_PLAIN || rope->kind == ROPE_LLAMA3)
        return NIB_OK;
    if (rope->kind == ROPE_DYNAMIC || rope->kind == ROPE_LONGROPE || rope->no_truncate)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: RoPE scaling \"%s\"%s, which nibble does not write to GGUF", plan->in->path,
                        rope_kind_name(rope->kind), rope->no_truncate ? " without truncation" : "");
    gguf_write_text(k->out, key(k, "rope.scaling.type"), strview_of(rope_kind_name(rope->kind)));
    real(k, "rope.scaling.factor", rope->factor);
    if (rope->kind == ROPE_LINEAR)
        return NIB_OK;
    if (rope->beta_fast != 32 || rope->beta_slow != 1)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: YaRN with beta_fast %g and beta_slow %g; GGUF's readers take 32 and 1",
                        plan->in->path, (double)rope->beta_fast, (double)rope->beta_slow);
    bool by_mscale = family_get(plan->in->hp.family)->query_log; /* then mscale and mscale_all_dim of 1 */
    float usual = by_mscale ? 1 : 1 + 0.1f * logf(rope->factor); /* which readers multiply with the key */
    if (by_mscale)
        real(k, "rope.scaling.yarn_log_multiplier", 1);
    number(k, "rope.scaling.original_context_length", rope->original_context);
    if (fabsf(rope->attention_factor - usual) > 1e-6f)
        real(k, "rope.scaling.attn_factor", rope->attention_factor / usual);
    return NIB_OK;
}

/* All but every Nth layer, as llama.cpp assumes; another order is a list. */
static void write_windows(key_writer *k, const hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    bool local[HPARAMS_MAX_LAYERS], usual = true;
    for (int i = 0; i < hp->n_layers; i++) {
        local[i] = hp->local[i];
        usual &= local[i] == ((i + 1) % facts->window_period != 0);
    }
    number(k, "attention.sliding_window", hp->sliding_window);
    if (!usual)
        gguf_write_array(k->out, key(k, "attention.sliding_window_pattern"), GGUF_BOOL, local,
                         (size_t)hp->n_layers);
    if (facts->local_rope && hp->rope_local.theta != facts->defaults.rope_local.theta)
        real(k, "rope.freq_base_swa", hp->rope_local.theta);
}

static nib_status check_scale(const export_plan *plan, nib_error *err) {
    const hparams *hp = &plan->in->hp;
    float expected = family_gguf_attn_scale(hp);
    if (fabsf(hp->attn_scale - expected) > 1e-6f * expected)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: query_pre_attn_scalar is %g; GGUF has no key for it and its readers take %g",
                        plan->in->path, 1 / ((double)hp->attn_scale * (double)hp->attn_scale),
                        1 / ((double)expected * (double)expected));
    return NIB_OK;
}

/* Readers know by heart which layers of a family have no RoPE. */
static nib_status check_no_rope(const export_plan *plan, nib_error *err) {
    const hparams *hp = &plan->in->hp;
    const family_facts *facts = family_get(hp->family);
    int32_t interval = facts->no_rope_interval;
    for (int i = 0; i < hp->n_layers; i++)
        if (hp->no_rope[i] != ((interval && (i + 1) % interval == 0) ||
                               (facts->global_no_rope && hp->sliding_window && !hp->local[i])))
            return nib_fail(err, NIB_UNSUPPORTED,
                            "%s: layer %d is %s RoPE; GGUF has no key for it and its readers expect another",
                            plan->in->path, i, hp->no_rope[i] ? "without" : "with");
    return NIB_OK;
}

nib_status gguf_keys_write(const export_plan *plan, gguf_write *out, nib_error *err) {
    const hparams *hp = &plan->in->hp;
    key_writer k = {.out = out, .arch = family_get(hp->family)->gguf_arch};
    const char *end = plan->in->path + strlen(plan->in->path), *name;
    while (end > plan->in->path && end[-1] == '/')
        end--;
    for (name = end; name > plan->in->path && name[-1] != '/';)
        name--;
    gguf_write_text(out, "general.architecture", strview_of(k.arch));
    gguf_write_text(out, "general.type", strview_of("model"));
    gguf_write_text(out, "general.name", (strview){name, (size_t)(end - name)});
    number(&k, "block_count", hp->n_layers);
    number(&k, "context_length", hp->context_len);
    number(&k, "embedding_length", hp->dim);
    number(&k, "feed_forward_length", hp->ffn_dim);
    number(&k, "attention.head_count", hp->n_heads);
    number(&k, "attention.head_count_kv", hp->n_kv_heads);
    number(&k, "attention.key_length", hp->head_dim);
    number(&k, "attention.value_length", hp->head_dim);
    number(&k, "vocab_size", hp->vocab);
    real(&k, "attention.layer_norm_rms_epsilon", hp->norm_eps);
    real(&k, "rope.freq_base", hp->rope.theta);
    if (family_get(hp->family)->gguf_interleaved || hp->rope_dim != hp->head_dim)
        number(&k, "rope.dimension_count", hp->rope_dim);
    if (family_get(hp->family)->multipliers) {
        real(&k, "embedding_scale", hp->embed_scale);
        real(&k, "residual_scale", hp->residual_scale);
        real(&k, "logit_scale", 1 / hp->logit_scale);
        real(&k, "attention.scale", hp->attn_scale);
    }
    if (hp->query_log != 0) { /* by that length under any scaling */
        real(&k, "attention.temperature_scale", hp->query_log);
        number(&k, "rope.scaling.original_context_length", hp->rope.original_context);
    }
    if (family_get(hp->family)->soft_caps) {
        real(&k, "attn_logit_softcapping", hp->attn_cap);
        real(&k, "final_logit_softcapping", hp->logit_cap);
    }
    NIB_TRY(check_no_rope(plan, err));
    NIB_TRY(write_scaling(&k, plan, err));
    if (hp->sliding_window && family_get(hp->family)->windows != WINDOWS_PERIOD)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: a sliding window, which GGUF readers do not know for %s",
                        plan->in->path, k.arch);
    if (hp->sliding_window)
        write_windows(&k, hp);
    return check_scale(plan, err);
}
