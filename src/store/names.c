/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables behind names.h: one row per slot, one suffix per companion.
 */
#include "store/names.h"

#include <stdio.h>

typedef struct name_row {
    slot slot;
    bool in_layer;
    const char *gguf; /* without "blk.N." and ".weight" */
    const char *hf;   /* without prefix, "layers.N." and ".weight"; NULL: none */
} name_row;

static const name_row common[] = {
    {SLOT_EMBED, false, "token_embd", "embed_tokens"},
    {SLOT_FINAL_NORM, false, "output_norm", "norm"},
    {SLOT_HEAD, false, "output", "lm_head"},
    {SLOT_ROPE_FREQS, false, "rope_freqs", NULL},
    {SLOT_ATTN_NORM, true, "attn_norm", "input_layernorm"},
    {SLOT_Q, true, "attn_q", "self_attn.q_proj"},
    {SLOT_K, true, "attn_k", "self_attn.k_proj"},
    {SLOT_V, true, "attn_v", "self_attn.v_proj"},
    {SLOT_O, true, "attn_output", "self_attn.o_proj"},
    {SLOT_Q_NORM, true, "attn_q_norm", "self_attn.q_norm"},
    {SLOT_K_NORM, true, "attn_k_norm", "self_attn.k_norm"},
    {SLOT_POST_ATTN_NORM, true, "post_attention_norm", NULL},
    {SLOT_FFN_NORM, true, "ffn_norm", "post_attention_layernorm"},
    {SLOT_GATE, true, "ffn_gate", "mlp.gate_proj"},
    {SLOT_UP, true, "ffn_up", "mlp.up_proj"},
    {SLOT_DOWN, true, "ffn_down", "mlp.down_proj"},
    {SLOT_POST_FFN_NORM, true, "post_ffw_norm", NULL},
};
#define N_COMMON (sizeof common / sizeof common[0])

/* Gemma has four norms a layer; Hugging Face's post_attention_layernorm means another one there. */
static const name_row gemma[] = {
    {SLOT_POST_ATTN_NORM, true, "post_attention_norm", "post_attention_layernorm"},
    {SLOT_FFN_NORM, true, "ffn_norm", "pre_feedforward_layernorm"},
    {SLOT_POST_FFN_NORM, true, "post_ffw_norm", "post_feedforward_layernorm"},
};
#define N_GEMMA (sizeof gemma / sizeof gemma[0])

static const char *hf_of(family f, const name_row *row) {
    for (size_t i = 0; f == FAMILY_GEMMA3 && i < N_GEMMA; i++)
        if (gemma[i].slot == row->slot)
            return gemma[i].hf;
    return row->hf;
}

/* ---- views ---- */

static bool drop_prefix(strview *v, const char *prefix) {
    size_t n = strlen(prefix);
    if (v->n < n || memcmp(v->p, prefix, n) != 0)
        return false;
    *v = (strview){v->p + n, v->n - n};
    return true;
}

static bool drop_suffix(strview *v, const char *suffix) {
    size_t n = strlen(suffix);
    if (v->n < n || memcmp(v->p + v->n - n, suffix, n) != 0)
        return false;
    v->n -= n;
    return true;
}

/* "12." in front: a plain number without leading zeros, below HPARAMS_MAX_LAYERS times a margin (the caller
 * compares with its own layer count). */
static bool drop_layer(strview *v, int *layer) {
    size_t i = 0;
    int n = 0;
    while (i < v->n && i < 5 && v->p[i] >= '0' && v->p[i] <= '9')
        n = n * 10 + (v->p[i++] - '0');
    if (i == 0 || i == v->n || v->p[i] != '.' || (i > 1 && v->p[0] == '0'))
        return false;
    *v = (strview){v->p + i + 1, v->n - i - 1};
    *layer = n;
    return true;
}

/* ---- GGUF ---- */

bool names_from_gguf(strview name, slot *s, int *layer) {
    *s = SLOT_NONE;
    *layer = -1;
    int number = -1;
    bool in_layer = drop_prefix(&name, "blk.");
    if ((in_layer && !drop_layer(&name, &number)) || !drop_suffix(&name, ".weight"))
        return false;
    for (size_t i = 0; i < N_COMMON; i++) {
        if (common[i].in_layer == in_layer && strview_is(name, common[i].gguf)) {
            *s = common[i].slot;
            *layer = number;
            return true;
        }
    }
    return false;
}

bool names_to_gguf(slot s, int layer, char out[NAMES_MAX]) {
    out[0] = '\0';
    for (size_t i = 0; i < N_COMMON; i++) {
        if (common[i].slot != s)
            continue;
        if (common[i].in_layer)
            snprintf(out, NAMES_MAX, "blk.%d.%s.weight", layer, common[i].gguf);
        else
            snprintf(out, NAMES_MAX, "%s.weight", common[i].gguf);
        return true;
    }
    return false;
}

bool names_gguf_in_layer(strview name) {
    int layer;
    return drop_prefix(&name, "blk.") && drop_layer(&name, &layer);
}

/* ---- Hugging Face ---- */

static void drop_hf_prefix(strview *name) {
    if (!drop_prefix(name, "model.language_model.") && !drop_prefix(name, "language_model.model.") &&
        !drop_prefix(name, "model."))
        drop_prefix(name, "language_model."); /* language_model.lm_head.weight */
}

bool names_from_hf(family f, strview name, slot *s, int *layer) {
    *s = SLOT_NONE;
    *layer = -1;
    int number = -1;
    drop_hf_prefix(&name);
    bool in_layer = drop_prefix(&name, "layers.");
    if ((in_layer && !drop_layer(&name, &number)) || !drop_suffix(&name, ".weight"))
        return false;
    for (size_t i = 0; i < N_COMMON; i++) {
        const char *hf = hf_of(f, &common[i]);
        if (hf && common[i].in_layer == in_layer && strview_is(name, hf)) {
            *s = common[i].slot;
            *layer = number;
            return true;
        }
    }
    return false;
}

bool names_to_hf(family f, slot s, int layer, const char *prefix, char out[NAMES_MAX]) {
    out[0] = '\0';
    const char *hf = NULL;
    bool in_layer = false;
    for (size_t i = 0; i < N_COMMON; i++) {
        if (common[i].slot == s) {
            hf = hf_of(f, &common[i]);
            in_layer = common[i].in_layer;
        }
    }
    if (!hf)
        return false;
    if (s == SLOT_HEAD) /* beside the model, not in it */
        prefix = strcmp(prefix, "language_model.model.") == 0 ? "language_model." : "";
    if (in_layer)
        snprintf(out, NAMES_MAX, "%slayers.%d.%s.weight", prefix, layer, hf);
    else
        snprintf(out, NAMES_MAX, "%s%s.weight", prefix, hf);
    return true;
}

bool names_hf_in_layer(strview name) {
    int layer;
    drop_hf_prefix(&name);
    return drop_prefix(&name, "layers.") && drop_layer(&name, &layer);
}

bool names_hf_is_tower(strview name) {
    static const char *const starts[] = {"vision_tower.",          "vision_model.", "visual.",
                                         "multi_modal_projector.", "mm_projector.", "audio_tower.",
                                         "embed_vision.",          "embed_audio."};
    drop_prefix(&name, "model.");
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        strview rest = name;
        if (drop_prefix(&rest, starts[i]))
            return true;
    }
    return false;
}

/* ---- companions ---- */

typedef struct suffix {
    const char *text;
    names_companion companion;
} suffix;

static names_companion match(const suffix *list, size_t n, strview name, strview *stem) {
    *stem = name;
    for (size_t i = 0; i < n; i++)
        if (drop_suffix(stem, list[i].text))
            return list[i].companion;
    drop_suffix(stem, ".weight");
    return COMPANION_NONE;
}

names_companion names_hf_companion(strview name, strview *stem) {
    static const suffix suffixes[] = {
        {".weight_scale", COMPANION_WEIGHT_SCALE},
        {".weight_scale_2", COMPANION_WEIGHT_SCALE_2},
        {".input_scale", COMPANION_INPUT_SCALE},
        {".weight_packed", COMPANION_WEIGHT_PACKED},
        {".weight_global_scale", COMPANION_WEIGHT_GLOBAL_SCALE},
        {".input_global_scale", COMPANION_INPUT_GLOBAL_SCALE},
        {".k_scale", COMPANION_KV_SCALE},
        {".v_scale", COMPANION_KV_SCALE},
    };
    return match(suffixes, sizeof suffixes / sizeof suffixes[0], name, stem);
}

names_companion names_gguf_companion(strview name, strview *stem) {
    static const suffix suffixes[] = {
        {".weight.scale", COMPANION_SCALE},
        {".scale", COMPANION_SCALE},
        {".input_scale", COMPANION_INPUT_SCALE},
    };
    return match(suffixes, sizeof suffixes / sizeof suffixes[0], name, stem);
}
