/* SPDX-License-Identifier: Apache-2.0
 *
 * Tiny Hugging Face directories for the conversion tests: two layers, drawn BF16 weights, a byte-level
 * tokenizer of a few words.
 */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../golden/num/golden.h"
#include "export/safetensors_write.h"
#include "num/bf16.h"
#include "store/names.h"

#define TINY_DIM    64
#define TINY_FFN    128
#define TINY_HEADS  4
#define TINY_KV     2
#define TINY_LAYERS 2
#define TINY_VOCAB  96

static char tiny_root[200];

static inline const char *tiny_path(const char *name) {
    static char paths[64][400];
    static int turn;
    char *p = paths[turn++ % 64];
    snprintf(p, sizeof paths[0], "%s/%s", tiny_root, name);
    return p;
}

static inline int tiny_remove(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

static inline int tiny_setup(void **state) {
    (void)state; /* memory if there is any: the writers sync every file */
    const char *base = getenv("TMPDIR");
    if (!base)
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(tiny_root, sizeof tiny_root, "%s/nibble-convert-XXXXXX", base);
    return mkdtemp(tiny_root) ? 0 : -1;
}

static inline int tiny_teardown(void **state) {
    (void)state;
    return nftw(tiny_root, tiny_remove, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void tiny_text(const char *directory, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static inline int tiny_head_dim(family f) {
    return f == FAMILY_LLAMA ? TINY_DIM / TINY_HEADS : 32;
}

static inline size_t tiny_rows(family f, slot s) {
    size_t d = (size_t)tiny_head_dim(f);
    switch (s) {
    case SLOT_EMBED:
    case SLOT_HEAD:
        return TINY_VOCAB;
    case SLOT_Q:
        return TINY_HEADS * d;
    case SLOT_K:
    case SLOT_V:
        return TINY_KV * d;
    case SLOT_GATE:
    case SLOT_UP:
        return TINY_FFN;
    case SLOT_O:
    case SLOT_DOWN:
        return TINY_DIM;
    default:
        return 1;
    }
}

static inline size_t tiny_cols(family f, slot s) {
    switch (s) {
    case SLOT_O:
        return (size_t)(TINY_HEADS * tiny_head_dim(f));
    case SLOT_DOWN:
        return TINY_FFN;
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
        return (size_t)tiny_head_dim(f);
    default:
        return TINY_DIM;
    }
}

static inline bool tiny_has(family f, slot s, bool tied) {
    switch (s) {
    case SLOT_HEAD:
        return !tied;
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
        return f != FAMILY_LLAMA;
    case SLOT_POST_ATTN_NORM:
    case SLOT_POST_FFN_NORM:
        return f == FAMILY_GEMMA3;
    case SLOT_EMBED:
    case SLOT_FINAL_NORM:
    case SLOT_ATTN_NORM:
    case SLOT_Q:
    case SLOT_K:
    case SLOT_V:
    case SLOT_O:
    case SLOT_FFN_NORM:
    case SLOT_GATE:
    case SLOT_UP:
    case SLOT_DOWN:
        return true;
    default:
        return false;
    }
}

/* Weights that BF16 holds, some 0.05 wide; norms about 0 for Gemma (1 + w), else about 1. */
static inline void tiny_weights(family f, slot s, int layer, uint16_t *out, size_t n) {
    bool norm = tiny_rows(f, s) == 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t w = golden_word(1000 + (uint64_t)s * 10 + (uint64_t)(layer + 1), i);
        float x = 0;
        for (int k = 0; k < 4; k++)
            x += (float)((int)(w >> (16 * k) & 0xffff) - 32768) * 0x1p-20f;
        out[i] = bf16_from_f32(norm ? x + (f == FAMILY_GEMMA3 ? 0.0f : 1.0f) : x);
    }
}

static const char tiny_tokenizer[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 0, \"content\": \"<|im_end|>\", \"special\": true, "
    "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false}],"
    " \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
    "\"Digits\","
    " \"individual_digits\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": "
    "true,"
    " \"use_regex\": true}]}, \"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\":"
    " true, \"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"byte_fallback\": "
    "false,"
    " \"vocab\": {\"<|im_end|>\": 0, \"a\": 1, \"b\": 2, \"ab\": 3, \"c\": 4}, \"merges\": [\"a b\"]}}";

static inline void tiny_config(const char *directory, family f, bool tied) {
    static const char *const types[] = {
        [FAMILY_LLAMA] = "llama", [FAMILY_QWEN3] = "qwen3", [FAMILY_GEMMA3] = "gemma3_text"};
    char text[2048];
    snprintf(text, sizeof text,
             "{\"model_type\": \"%s\", \"architectures\": [\"X\"], \"torch_dtype\": \"bfloat16\", "
             "\"hidden_size\": %d, "
             "\"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
             "\"num_key_value_heads\": %d, \"head_dim\": %d, \"vocab_size\": %d, "
             "\"max_position_embeddings\": 256, "
             "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": %s, "
             "\"query_pre_attn_scalar\": %d, \"sliding_window\": %s, \"eos_token_id\": 0%s}",
             types[f], TINY_DIM, TINY_FFN, TINY_LAYERS, TINY_HEADS, TINY_KV, tiny_head_dim(f), TINY_VOCAB,
             tied ? "true" : "false", tiny_head_dim(f), f == FAMILY_GEMMA3 ? "64" : "null",
             f == FAMILY_GEMMA3 ? ", \"layer_types\": [\"sliding_attention\", \"full_attention\"]" : "");
    tiny_text(directory, "config.json", text);
}

/* SPOIL, if any, is set as the bits of the first weight of layer 1's up projection. */
static inline const char *tiny_model(const char *name, family f, bool tied, uint16_t spoil) {
    const char *directory = tiny_path(name);
    char path[512], hf[NAMES_MAX];
    static uint16_t weights[TINY_FFN * TINY_FFN];
    nib_error err;
    safetensors_write *w;
    assert_int_equal(mkdir(directory, 0777), 0);
    tiny_config(directory, f, tied);
    tiny_text(directory, "tokenizer.json", tiny_tokenizer);
    tiny_text(directory, "tokenizer_config.json",
              "{\"eos_token\": \"<|im_end|>\", \"chat_template\": \"{{ x }}\"}");
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    assert_int_equal(safetensors_write_open(&w, path, &err), NIB_OK);
    for (int pass = 0; pass < 2; pass++) {
        for (int layer = -1; layer < TINY_LAYERS; layer++)
            for (int s = 0; s < SLOT_COUNT; s++) {
                size_t dims[2] = {tiny_rows(f, (slot)s), tiny_cols(f, (slot)s)};
                if (!tiny_has(f, (slot)s, tied) || place_is_in_layer((slot)s) != (layer >= 0))
                    continue;
                assert_true(names_to_hf(f, place_of((slot)s, layer), "model.", hf));
                if (pass == 0) {
                    safetensors_write_tensor(w, hf, DT_BF16, dims[0] == 1 ? 1 : 2,
                                             dims[0] == 1 ? dims + 1 : dims);
                    continue;
                }
                tiny_weights(f, (slot)s, layer, weights, dims[0] * dims[1]);
                if (spoil && s == SLOT_UP && layer == 1)
                    weights[0] = spoil;
                assert_int_equal(safetensors_write_data(w, weights, dims[0] * dims[1] * 2, &err), NIB_OK);
            }
        if (pass == 0)
            assert_int_equal(safetensors_write_begin(w, &err), NIB_OK);
    }
    assert_int_equal(safetensors_write_commit(w, NULL, &err), NIB_OK);
    return directory;
}

#endif
