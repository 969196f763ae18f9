/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables behind names.h: one row per slot, one suffix per companion.
 */
#include "store/names.h"

#include <stdio.h>

#include "nouns/family.h"

/* Names as files write them. N stands for the number of the layer, E for that of the expert; names have no
 * capitals of their own. NULL: the convention has none. */
typedef struct name_row {
    slot slot;
    const char *gguf;
    const char *hf;   /* without the checkpoint's prefix */
    bool all_experts; /* the tensor stacks them */
} name_row;

static const name_row common[] = {
    {SLOT_EMBED, "token_embd.weight", "embed_tokens.weight", false},
    {SLOT_FINAL_NORM, "output_norm.weight", "norm.weight", false},
    {SLOT_HEAD, "output.weight", "lm_head.weight", false},
    {SLOT_ROPE_FREQS, "rope_freqs.weight", NULL, false},
    {SLOT_ROPE_LONG, "rope_factors_long.weight", NULL, false},
    {SLOT_ROPE_SHORT, "rope_factors_short.weight", NULL, false},
    {SLOT_ATTN_NORM, "blk.N.attn_norm.weight", "layers.N.input_layernorm.weight", false},
    {SLOT_Q, "blk.N.attn_q.weight", "layers.N.self_attn.q_proj.weight", false},
    {SLOT_K, "blk.N.attn_k.weight", "layers.N.self_attn.k_proj.weight", false},
    {SLOT_V, "blk.N.attn_v.weight", "layers.N.self_attn.v_proj.weight", false},
    {SLOT_QKV, "blk.N.attn_qkv.weight", "layers.N.self_attn.qkv_proj.weight", false},
    {SLOT_O, "blk.N.attn_output.weight", "layers.N.self_attn.o_proj.weight", false},
    {SLOT_Q_BIAS, "blk.N.attn_q.bias", "layers.N.self_attn.q_proj.bias", false},
    {SLOT_K_BIAS, "blk.N.attn_k.bias", "layers.N.self_attn.k_proj.bias", false},
    {SLOT_V_BIAS, "blk.N.attn_v.bias", "layers.N.self_attn.v_proj.bias", false},
    {SLOT_O_BIAS, "blk.N.attn_output.bias", "layers.N.self_attn.o_proj.bias", false},
    {SLOT_Q_NORM, "blk.N.attn_q_norm.weight", "layers.N.self_attn.q_norm.weight", false},
    {SLOT_K_NORM, "blk.N.attn_k_norm.weight", "layers.N.self_attn.k_norm.weight", false},
    {SLOT_POST_ATTN_NORM, "blk.N.post_attention_norm.weight", NULL, false},
    {SLOT_FFN_NORM, "blk.N.ffn_norm.weight", "layers.N.post_attention_layernorm.weight", false},
    {SLOT_GATE, "blk.N.ffn_gate.weight", "layers.N.mlp.gate_proj.weight", false},
    {SLOT_UP, "blk.N.ffn_up.weight", "layers.N.mlp.up_proj.weight", false},
    {SLOT_GATE_UP, NULL, "layers.N.mlp.gate_up_proj.weight", false},
    {SLOT_DOWN, "blk.N.ffn_down.weight", "layers.N.mlp.down_proj.weight", false},
    {SLOT_POST_FFN_NORM, "blk.N.post_ffw_norm.weight", NULL, false},
    {SLOT_K_SCALE, NULL, "layers.N.self_attn.k_proj.k_scale", false},
    {SLOT_K_SCALE, NULL, "layers.N.self_attn.k_proj.output_scale", false}, /* compressed-tensors, older */
    {SLOT_K_SCALE, NULL, "layers.N.self_attn.k_scale", false},             /* compressed-tensors */
    {SLOT_K_SCALE, NULL, "layers.N.self_attn.attn.k_scale", false},        /* as vLLM saves it */
    {SLOT_V_SCALE, NULL, "layers.N.self_attn.v_proj.v_scale", false},
    {SLOT_V_SCALE, NULL, "layers.N.self_attn.v_proj.output_scale", false},
    {SLOT_V_SCALE, NULL, "layers.N.self_attn.v_scale", false},
    {SLOT_V_SCALE, NULL, "layers.N.self_attn.attn.v_scale", false},
    {SLOT_ROUTER, "blk.N.ffn_gate_inp.weight", "layers.N.mlp.gate.weight", false},
    {SLOT_GATE, "blk.N.ffn_gate.E.weight", "layers.N.mlp.experts.E.gate_proj.weight", false},
    {SLOT_UP, "blk.N.ffn_up.E.weight", "layers.N.mlp.experts.E.up_proj.weight", false},
    {SLOT_DOWN, "blk.N.ffn_down.E.weight", "layers.N.mlp.experts.E.down_proj.weight", false},
    {SLOT_GATE, "blk.N.ffn_gate_exps.weight", "layers.N.mlp.experts.gate_proj", true},
    {SLOT_UP, "blk.N.ffn_up_exps.weight", "layers.N.mlp.experts.up_proj", true},
    {SLOT_GATE_UP, "blk.N.ffn_gate_up_exps.weight", "layers.N.mlp.experts.gate_up_proj", true},
    {SLOT_DOWN, "blk.N.ffn_down_exps.weight", "layers.N.mlp.experts.down_proj", true},
};
#define N_COMMON (sizeof common / sizeof common[0])

/* The pattern of ROW in family F's files, in GGUF's or in Hugging Face's. */
static const char *pattern_of(family f, const name_row *row, bool gguf) {
    const family_name_row *own = family_get(f)->names;
    for (; own && own->slot; own++)
        if (own->slot == row->slot)
            return gguf ? own->gguf : own->hf;
    return gguf ? row->gguf : row->hf;
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

/* A plain number in front, without leading zeros, of five digits at most: the caller compares with its own
 * counts. */
static bool drop_number(strview *v, int *number) {
    size_t i = 0;
    int n = 0;
    while (i < v->n && i < 5 && v->p[i] >= '0' && v->p[i] <= '9')
        n = n * 10 + (v->p[i++] - '0');
    if (i == 0 || (i > 1 && v->p[0] == '0'))
        return false;
    *v = (strview){v->p + i, v->n - i};
    *number = n;
    return true;
}

/* ---- patterns ---- */

/* Does NAME begin with PATTERN? *NAME is what follows it then. */
static bool drop_pattern(strview *name, const char *pattern, place *out) {
    strview rest = *name;
    for (const char *p = pattern; *p; p++) {
        if (*p == 'N' || *p == 'E') {
            if (!drop_number(&rest, *p == 'N' ? &out->layer : &out->expert))
                return false;
        } else if (rest.n == 0 || rest.p[0] != *p) {
            return false;
        } else {
            rest = (strview){rest.p + 1, rest.n - 1};
        }
    }
    *name = rest;
    return true;
}

static bool matches(strview name, const char *pattern, const name_row *row, place *out) {
    place found = {row->slot, PLACE_NO_LAYER, row->all_experts ? PLACE_ALL_EXPERTS : PLACE_NO_EXPERT};
    if (!pattern || !drop_pattern(&name, pattern, &found) || name.n > 0)
        return false;
    *out = found;
    return true;
}

/* Is ROW, of the name PATTERN, the one for P? */
static bool is_row_of(const name_row *row, const char *pattern, place p) {
    if (!pattern || row->slot != p.slot || place_is_in_layer(row->slot) != (p.layer >= 0))
        return false;
    if (row->all_experts || p.expert < 0)
        return p.expert == (row->all_experts ? PLACE_ALL_EXPERTS : PLACE_NO_EXPERT) && !strchr(pattern, 'E');
    return strchr(pattern, 'E') != NULL;
}

static void write_name(const char *prefix, const char *pattern, place p, char out[NAMES_MAX]) {
    int n = snprintf(out, NAMES_MAX, "%s", prefix);
    for (; *pattern && n < NAMES_MAX - 1; pattern++) {
        size_t room = NAMES_MAX - (size_t)n;
        if (*pattern == 'N' || *pattern == 'E')
            n += snprintf(out + n, room, "%d", *pattern == 'N' ? p.layer : p.expert);
        else
            n += snprintf(out + n, room, "%c", *pattern);
    }
}

static bool read_name(family f, strview name, bool gguf, place *out) {
    *out = place_of(SLOT_NONE, PLACE_NO_LAYER);
    for (size_t i = 0; i < N_COMMON; i++)
        if (matches(name, pattern_of(f, &common[i], gguf), &common[i], out))
            return true;
    return false;
}

static bool make_name(family f, place p, bool gguf, const char *prefix, char out[NAMES_MAX]) {
    out[0] = '\0';
    for (size_t i = 0; i < N_COMMON; i++) {
        const char *pattern = pattern_of(f, &common[i], gguf);
        if (is_row_of(&common[i], pattern, p)) {
            write_name(prefix, pattern, p, out);
            return true;
        }
    }
    return false;
}

/* ---- GGUF ---- */

bool names_from_gguf(family f, strview name, place *out) {
    return read_name(f, name, true, out);
}

bool names_to_gguf(family f, place p, char out[NAMES_MAX]) {
    return make_name(f, p, true, "", out);
}

bool names_gguf_in_layer(strview name) {
    place in;
    return drop_pattern(&name, "blk.N.", &in);
}

/* ---- Hugging Face ---- */

static void drop_hf_prefix(strview *name) {
    if (!drop_prefix(name, "model.language_model.") && !drop_prefix(name, "language_model.model.") &&
        !drop_prefix(name, "model."))
        drop_prefix(name, "language_model."); /* language_model.lm_head.weight */
}

bool names_from_hf(family f, strview name, place *out) {
    drop_hf_prefix(&name);
    return read_name(f, name, false, out);
}

bool names_to_hf(family f, place p, const char *prefix, char out[NAMES_MAX]) {
    if (p.slot == SLOT_HEAD) /* beside the model, not in it */
        prefix = strcmp(prefix, "language_model.model.") == 0 ? "language_model." : "";
    return make_name(f, p, false, prefix, out);
}

bool names_hf_in_layer(strview name) {
    place in;
    drop_hf_prefix(&name);
    return drop_pattern(&name, "layers.N.", &in);
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
        {".weight_scale_inv", COMPANION_WEIGHT_SCALE},
        {".weight_scale_2", COMPANION_WEIGHT_SCALE_2},
        {".input_scale", COMPANION_INPUT_SCALE},
        {".activation_scale", COMPANION_INPUT_SCALE}, /* of FP8 files by transformers */
        {".weight_packed", COMPANION_WEIGHT_PACKED},
        {".weight_global_scale", COMPANION_WEIGHT_GLOBAL_SCALE},
        {".input_global_scale", COMPANION_INPUT_GLOBAL_SCALE},
        {".k_scale", COMPANION_KV_SCALE},
        {".v_scale", COMPANION_KV_SCALE},
        {".kv_scale", COMPANION_KV_SCALE},
        {".q_scale", COMPANION_KV_SCALE},
        {".prob_scale", COMPANION_KV_SCALE},
        {".output_scale", COMPANION_KV_SCALE},
        {NAMES_BRANCH_DOWN, COMPANION_BRANCH_DOWN},
        {NAMES_BRANCH_UP, COMPANION_BRANCH_UP},
    };
    return match(suffixes, sizeof suffixes / sizeof suffixes[0], name, stem);
}

names_companion names_gguf_companion(strview name, strview *stem) {
    static const suffix suffixes[] = {
        {".weight.scale", COMPANION_SCALE},      {".scale", COMPANION_SCALE},
        {".input_scale", COMPANION_INPUT_SCALE}, {NAMES_BRANCH_DOWN, COMPANION_BRANCH_DOWN},
        {NAMES_BRANCH_UP, COMPANION_BRANCH_UP},
    };
    return match(suffixes, sizeof suffixes / sizeof suffixes[0], name, stem);
}
