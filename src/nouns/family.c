/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of families. Sources: transformers' configuration and modeling files of each, for defaults and
 * names; llama.cpp's loader and converter for GGUF.
 */
#include "nouns/family.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Four norms a layer; Hugging Face's post_attention_layernorm is another one than Llama's. */
static const family_name_row gemma_names[] = {
    {SLOT_POST_ATTN_NORM, "blk.N.post_attention_norm.weight", "layers.N.post_attention_layernorm.weight"},
    {SLOT_FFN_NORM, "blk.N.ffn_norm.weight", "layers.N.pre_feedforward_layernorm.weight"},
    {SLOT_POST_FFN_NORM, "blk.N.post_ffw_norm.weight", "layers.N.post_feedforward_layernorm.weight"},
    {SLOT_NONE, NULL, NULL},
};

/* Norms stand behind the halves, none before. */
static const family_name_row norm_after_names[] = {
    {SLOT_ATTN_NORM, NULL, NULL},
    {SLOT_FFN_NORM, NULL, NULL},
    {SLOT_POST_ATTN_NORM, "blk.N.post_attention_norm.weight", "layers.N.post_attention_layernorm.weight"},
    {SLOT_POST_FFN_NORM, "blk.N.post_ffw_norm.weight", "layers.N.post_feedforward_layernorm.weight"},
    {SLOT_NONE, NULL, NULL},
};

/* GGUF calls gate and up together what it calls up elsewhere. */
static const family_name_row phi_names[] = {
    {SLOT_GATE, NULL, NULL},
    {SLOT_UP, NULL, NULL},
    {SLOT_GATE_UP, "blk.N.ffn_up.weight", "layers.N.mlp.gate_up_proj.weight"},
    {SLOT_NONE, NULL, NULL},
};

/* What most rows say. */
#define COMMON                                                                                               \
    .norm_eps = 1e-6f, .embed_scale = 1, .residual_scale = 1, .logit_scale = 1, .rope_local = {.theta = 1e4f}

static const family_facts families[FAMILY_COUNT] = {
    [FAMILY_NONE] = {.name = "none"},

    /* SmolLM2, Llama 2 and 3: pre-norm attention and SwiGLU, nothing else. */
    [FAMILY_LLAMA] = {.name = "llama",
                      .gguf_arch = "llama",
                      .model_types = {"llama"},
                      .hf_class = "LlamaForCausalLM",
                      .act_key = "hidden_act",
                      .act = "silu",
                      .gguf_interleaved = true,
                      .rope_freqs = true,
                      .attention_bias = true,
                      .mlp_bias_key = true,
                      .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 11008, .n_heads = 32,
                                   .vocab = 32000, .context_len = 2048, .rope = {.theta = 1e4f}}},

    /* Llama with a sliding window over every layer, in its older files; GGUF calls it llama too. mistral3 is
     * a multimodal file around this or ministral3. */
    [FAMILY_MISTRAL] = {.name = "mistral",
                        .gguf_arch = "llama",
                        .model_types = {"mistral", "mistral3"},
                        .hf_class = "MistralForCausalLM",
                        .nested = true,
                        .act_key = "hidden_act",
                        .act = "silu",
                        .gguf_interleaved = true,
                        .windows = WINDOWS_ALL,
                        .window = 4096,
                        .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 14336, .n_heads = 32,
                                     .n_kv_heads = 8, .vocab = 32000, .context_len = 131072,
                                     .rope = {.theta = 1e4f}}},

    /* Qwen 2 and 2.5: Llama with biases on q, k and v. */
    [FAMILY_QWEN2] = {.name = "qwen2",
                      .gguf_arch = "qwen2",
                      .model_types = {"qwen2"},
                      .hf_class = "Qwen2ForCausalLM",
                      .act_key = "hidden_act",
                      .act = "silu",
                      .windows = WINDOWS_LAST,
                      .window = 4096,
                      .window_first = 28,
                      .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 22016, .n_heads = 32,
                                   .vocab = 151936, .context_len = 32768, .qkv_bias = true,
                                   .rope = {.theta = 1e4f}}},

    /* An RMS norm per head on q and k, before RoPE, and a head_dim that does not follow from dim. */
    [FAMILY_QWEN3] = {.name = "qwen3",
                      .gguf_arch = "qwen3",
                      .model_types = {"qwen3"},
                      .hf_class = "Qwen3ForCausalLM",
                      .act_key = "hidden_act",
                      .act = "silu",
                      .attention_bias = true,
                      .windows = WINDOWS_LAST,
                      .window = 4096,
                      .window_first = 28,
                      .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 22016, .n_heads = 32,
                                   .head_dim = 128, .vocab = 151936, .context_len = 32768,
                                   .qk_norm = QK_NORM_HEAD, .rope = {.theta = 1e4f}}},

    /* Embeddings times sqrt(dim), each branch normed again before it joins the residual stream, GELU; every
     * other layer sees a sliding window; scores and logits are capped. */
    [FAMILY_GEMMA2] = {.name = "gemma2",
                       .gguf_arch = "gemma2",
                       .model_types = {"gemma2"},
                       .attention_bias = true,
                       .hf_class = "Gemma2ForCausalLM",
                       .act_key = "hidden_activation",
                       .act = "gelu_pytorch_tanh",
                       .names = gemma_names,
                       .windows = WINDOWS_PERIOD,
                       .window = 4096,
                       .window_period = 2,
                       .embed_sqrt_dim = true,
                       .query_scalar = 256,
                       .gguf_wide_layers = 46,
                       .soft_caps = true,
                       .defaults = {COMMON, .n_layers = 26, .dim = 2304, .ffn_dim = 9216, .n_heads = 8,
                                    .n_kv_heads = 4, .head_dim = 256, .vocab = 256000, .context_len = 8192,
                                    .glu = GLU_GELU_TANH, .norms = NORM_AROUND, .norm_plus_one = true,
                                    .tied = true, .attn_cap = 50, .logit_cap = 30, .rope = {.theta = 1e4f}}},

    /* The same with norms of q and k instead of caps; five layers of six see a window and turn by a RoPE base
     * of their own. */
    [FAMILY_GEMMA3] = {.name = "gemma3",
                       .gguf_arch = "gemma3",
                       .model_types = {"gemma3_text", "gemma3"},
                       .attention_bias = true,
                       .hf_class = "Gemma3ForCausalLM",
                       .act_key = "hidden_activation",
                       .act = "gelu_pytorch_tanh",
                       .names = gemma_names,
                       .windows = WINDOWS_PERIOD,
                       .window = 4096,
                       .window_period = 6,
                       .embed_sqrt_dim = true,
                       .query_scalar = 256,
                       .gguf_wide_layers = 62,
                       .local_rope = true,
                       .nested = true,
                       .gate_scales_unread = true,
                       .defaults = {COMMON, .n_layers = 26, .dim = 2304, .ffn_dim = 9216, .n_heads = 8,
                                    .n_kv_heads = 4, .head_dim = 256, .vocab = 262208, .context_len = 131072,
                                    .glu = GLU_GELU_TANH, .norms = NORM_AROUND, .qk_norm = QK_NORM_HEAD,
                                    .norm_plus_one = true, .tied = true, .rope = {.theta = 1e6f}}},

    /* Granite 3: Llama with four multipliers. */
    [FAMILY_GRANITE] = {.name = "granite",
                        .gguf_arch = "granite",
                        .model_types = {"granite"},
                        .hf_class = "GraniteForCausalLM",
                        .act_key = "hidden_act",
                        .act = "silu",
                        .gguf_interleaved = true,
                        .rope_freqs = true,
                        .attention_bias = true,
                        .multipliers = true,
                        .mlp_bias_key = true,
                        .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 11008, .n_heads = 32,
                                     .vocab = 32000, .context_len = 2048, .rope = {.theta = 1e4f}}},

    /* Llama whose every fourth layer has no RoPE. */
    [FAMILY_SMOLLM3] = {.name = "smollm3",
                        .gguf_arch = "smollm3",
                        .model_types = {"smollm3"},
                        .hf_class = "SmolLM3ForCausalLM",
                        .act_key = "hidden_act",
                        .act = "silu",
                        .gguf_interleaved = true,
                        .attention_bias = true,
                        .no_rope_interval = 4,
                        .mlp_bias_key = true,
                        .defaults = {COMMON, .n_layers = 36, .dim = 2048, .ffn_dim = 11008, .n_heads = 16,
                                     .n_kv_heads = 4, .vocab = 128256, .context_len = 32768, .tied = true,
                                     .rope = {.theta = 2e6f}}},

    /* Phi 3 and 4: Llama with q, k and v in one tensor, gate and up in another. */
    [FAMILY_PHI3] = {.name = "phi3",
                     .gguf_arch = "phi3",
                     .model_types = {"phi3"},
                     .hf_class = "Phi3ForCausalLM",
                     .act_key = "hidden_act",
                     .act = "silu",
                     .names = phi_names,
                     .windows = WINDOWS_ALL,
                     .partial_rope = true,
                     .defaults = {COMMON, .n_layers = 32, .dim = 3072, .ffn_dim = 8192, .n_heads = 32,
                                  .vocab = 32064, .context_len = 4096, .joined = true,
                                  .rope = {.theta = 1e4f}}},

    /* OLMo 2: each half is normed before it joins the residual stream and not before it begins; q and k are
     * normed over all their heads. */
    [FAMILY_OLMO2] = {.name = "olmo2",
                      .gguf_arch = "olmo2",
                      .model_types = {"olmo2"},
                      .hf_class = "Olmo2ForCausalLM",
                      .act_key = "hidden_act",
                      .act = "silu",
                      .names = norm_after_names,
                      .attention_bias = true,
                      .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 11008, .n_heads = 32,
                                   .vocab = 50304, .context_len = 2048, .norms = NORM_AFTER,
                                   .qk_norm = QK_NORM_ROW, .rope = {.theta = 1e4f}}},

    /* OLMo 2, three layers of four of which see a window and turn unscaled; GGUF calls it olmo2 too. */
    [FAMILY_OLMO3] = {.name = "olmo3",
                      .gguf_arch = "olmo2",
                      .model_types = {"olmo3"},
                      .hf_class = "Olmo3ForCausalLM",
                      .act_key = "hidden_act",
                      .act = "silu",
                      .names = norm_after_names,
                      .attention_bias = true,
                      .windows = WINDOWS_PERIOD,
                      .window = 4096,
                      .window_period = 4,
                      .local_unscaled = true,
                      .defaults = {.norm_eps = 1e-5f,
                                   .embed_scale = 1,
                                   .residual_scale = 1,
                                   .logit_scale = 1,
                                   .rope_local = {.theta = 5e5f},
                                   .n_layers = 32,
                                   .dim = 4096,
                                   .ffn_dim = 11008,
                                   .n_heads = 32,
                                   .vocab = 50304,
                                   .context_len = 2048,
                                   .norms = NORM_AFTER,
                                   .qk_norm = QK_NORM_ROW,
                                   .rope = {.theta = 5e5f}}},

    /* EXAONE 4: norms behind the halves, and per head on q and k. In the larger models three layers of four
     * see a window, and the fourth has no RoPE. */
    [FAMILY_EXAONE4] = {.name = "exaone4",
                        .gguf_arch = "exaone4",
                        .model_types = {"exaone4"},
                        .hf_class = "Exaone4ForCausalLM",
                        .act_key = "hidden_act",
                        .act = "silu",
                        .names = norm_after_names,
                        .windows = WINDOWS_PERIOD,
                        .window = 4096,
                        .window_period = 4,
                        .global_no_rope = true,
                        .defaults = {COMMON, .n_layers = 32, .dim = 4096, .ffn_dim = 16384, .n_heads = 32,
                                     .n_kv_heads = 32, .vocab = 102400, .context_len = 2048,
                                     .norms = NORM_AFTER, .qk_norm = QK_NORM_HEAD, .rope = {.theta = 1e4f}}},

    /* Ministral 3: Mistral without windows whose queries grow with the logarithm of their position. GGUF
     * calls Mistral Small 3 so too, which does not say that they do. */
    [FAMILY_MINISTRAL3] = {.name = "ministral3",
                           .gguf_arch = "mistral3",
                           .model_types = {"ministral3"},
                           .hf_class = "Ministral3ForCausalLM",
                           .act_key = "hidden_act",
                           .act = "silu",
                           .gguf_interleaved = true,
                           .windows = WINDOWS_ALL,
                           .query_log = true,
                           .defaults = {.norm_eps = 1e-5f,
                                        .embed_scale = 1,
                                        .residual_scale = 1,
                                        .logit_scale = 1,
                                        .rope_local = {.theta = 1e4f},
                                        .n_layers = 34,
                                        .dim = 4096,
                                        .ffn_dim = 14336,
                                        .n_heads = 32,
                                        .n_kv_heads = 8,
                                        .head_dim = 128,
                                        .vocab = 131072,
                                        .context_len = 262144,
                                        .rope = {.theta = 1e6f}}},
};

const family_facts *family_get(family f) {
    assert(f >= FAMILY_NONE && f < FAMILY_COUNT);
    return &families[f];
}

const char *family_name(family f) {
    return family_get(f)->name;
}

family family_from_model_type(const char *type) {
    for (int f = FAMILY_NONE + 1; f < FAMILY_COUNT; f++)
        for (int i = 0; i < FAMILY_MAX_TYPES && families[f].model_types[i]; i++)
            if (strcmp(type, families[f].model_types[i]) == 0)
                return (family)f;
    return FAMILY_NONE;
}

family family_from_architecture(const char *name, size_t n, bool windowed) {
    family found = FAMILY_NONE;
    for (int f = FAMILY_NONE + 1; f < FAMILY_COUNT; f++)
        if (strlen(families[f].gguf_arch) == n && memcmp(families[f].gguf_arch, name, n) == 0 &&
            (found == FAMILY_NONE || (windowed && families[f].windows == WINDOWS_PERIOD)))
            found = (family)f;
    return found;
}

const char *family_list(char out[FAMILY_LIST_MAX]) {
    int n = 0;
    for (int f = FAMILY_NONE + 1; f < FAMILY_COUNT; f++)
        n += snprintf(out + n, FAMILY_LIST_MAX - (size_t)n, "%s%s",
                      f == FAMILY_NONE + 1    ? ""
                      : f == FAMILY_COUNT - 1 ? " and "
                                              : ", ",
                      families[f].name);
    return out;
}

float family_gguf_attn_scale(const hparams *hp) {
    const family_facts *facts = family_get(hp->family);
    if (facts->multipliers)
        return hp->attn_scale; /* which GGUF says */
    bool wide = facts->gguf_wide_layers && hp->n_layers == facts->gguf_wide_layers;
    return 1 / sqrtf((float)(wide ? hp->dim / hp->n_heads : hp->head_dim));
}
