/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json to hparams: defaults of each family, both spellings of RoPE, windows, and what is refused as a
 * network of another kind. Damaged files are tests/golden/bad's business.
 */
#include "fixture.h"

#include <math.h>

#include "store/config.h"

static nib_status read_text(const char *text, hparams *hp, nib_error *err) {
    json_t *root;
    NIB_TRY(json_read(&root, text, strlen(text), "config.json", err));
    nib_status status = config_from_json(hp, root, "config.json", err);
    json_decref(root);
    return status;
}

static hparams read_sound(const char *text) {
    hparams hp;
    nib_error err = {""};
    ASSERT_OK(read_text(text, &hp, &err));
    return hp;
}

static void expect_unsupported(const char *text, const char *words) {
    hparams hp;
    nib_error err = {""};
    assert_int_equal(read_text(text, &hp, &err), NIB_UNSUPPORTED);
    assert_words(&err, words);
}

static int n_local(const hparams *hp) {
    int n = 0;
    for (int i = 0; i < hp->n_layers; i++)
        n += hp->local[i];
    return n;
}

/* Gemma 2: every other layer sees a window, the first too; caps that a null takes away. */
static void test_caps(void **state) {
    (void)state;
    hparams usual = read_sound("{\"model_type\":\"gemma2\"}");
    assert_true(usual.attn_cap == 50 && usual.logit_cap == 30 && usual.sliding_window == 4096);
    assert_int_equal(n_local(&usual), 13);
    assert_true(usual.local[0] && !usual.local[1]);
    assert_true(usual.rope_local.theta == usual.rope.theta && usual.qk_norm == QK_NORM_NONE);
    hparams none = read_sound("{\"model_type\":\"gemma2\",\"attn_logit_softcapping\":null,"
                              "\"final_logit_softcapping\":20.0}");
    assert_true(none.attn_cap == 0 && none.logit_cap == 20);
}

/* OLMo 3: three layers of four see a window; they turn by the same base, unscaled. */
static void test_unscaled_windows(void **state) {
    (void)state;
    hparams hp = read_sound("{\"model_type\":\"olmo3\",\"rope_theta\":1000,\"rope_scaling\":"
                            "{\"rope_type\":\"linear\",\"factor\":4}}");
    assert_true(hp.rope.kind == ROPE_LINEAR && hp.rope_local.kind == ROPE_PLAIN);
    assert_true(hp.rope.theta == 1000 && hp.rope_local.theta == 1000 && hp.norm_eps == 1e-5f);
    assert_int_equal(n_local(&hp), 24);
    assert_true(hp.local[0] && !hp.local[3] && hp.qk_norm == QK_NORM_ROW);
}

static void test_defaults(void **state) {
    (void)state;
    hparams llama = read_sound("{\"model_type\":\"llama\"}");
    assert_int_equal(llama.n_layers, 32);
    assert_int_equal(llama.n_kv_heads, 32);
    assert_int_equal(llama.head_dim, 128);
    assert_false(llama.tied || llama.norm_plus_one || llama.rope_interleaved);
    assert_true(llama.rope.theta == 1e4f && llama.rope_local.theta == 1e4f && llama.embed_scale == 1);
    assert_true(llama.attn_scale == 1 / sqrtf(128));
    hparams qwen =
        read_sound("{\"model_type\":\"qwen3\",\"hidden_size\":1024,\"num_attention_heads\":16,"
                   "\"num_key_value_heads\":8,\"rope_theta\":1000000,\"tie_word_embeddings\":true}");
    assert_int_equal(qwen.head_dim, 128); /* not 1024 / 16 */
    assert_true(qwen.tied && qwen.rope.theta == 1e6f && qwen.sliding_window == 0);
    hparams gemma = read_sound("{\"model_type\":\"gemma3\",\"torch_dtype\":\"bfloat16\",\"text_config\":"
                               "{\"hidden_size\":3072,\"num_hidden_layers\":62}}");
    assert_int_equal(gemma.vocab, 262208);
    assert_int_equal(gemma.head_dim, 256);
    assert_int_equal(gemma.n_kv_heads, 4);
    assert_int_equal(gemma.context_len, 131072);
    assert_true(gemma.tied && gemma.norm_plus_one && gemma.norm_eps == 1e-6f);
    assert_true(gemma.embed_scale == 55.5f); /* sqrt(3072) in BF16 */
    assert_true(gemma.attn_scale == 0.0625f && gemma.rope.theta == 1e6f && gemma.rope_local.theta == 1e4f);
    assert_int_equal(gemma.sliding_window, 4096);
    assert_int_equal(n_local(&gemma), 52); /* every sixth of 62 is global */
    assert_true(gemma.local[0] && !gemma.local[5] && gemma.local[60] && gemma.local[61]);
}

static void test_embed_scale(void **state) {
    (void)state;
    assert_true(read_sound("{\"model_type\":\"gemma3_text\",\"hidden_size\":640,\"num_attention_heads\":4}")
                    .embed_scale == sqrtf(640));
    assert_true(read_sound("{\"model_type\":\"gemma3_text\",\"hidden_size\":640,\"num_attention_heads\":4,"
                           "\"dtype\":\"bfloat16\"}")
                    .embed_scale == 25.25f);
    float half = read_sound("{\"model_type\":\"gemma3_text\",\"hidden_size\":640,\"num_attention_heads\":4,"
                            "\"dtype\":\"float16\"}")
                     .embed_scale;
    assert_true(half == 25.296875f);
}

#define LLAMA3                                                                                               \
    "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"                                      \
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\""

static void test_rope(void **state) {
    (void)state;
    const char *const spellings[] = {
        "{\"model_type\":\"llama\",\"rope_theta\":500000.0,\"rope_scaling\":{" LLAMA3 "}}",
        "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_theta\":500000.0," LLAMA3 "}}"};
    for (int i = 0; i < 2; i++) {
        hparams hp = read_sound(spellings[i]);
        assert_int_equal(hp.rope.kind, ROPE_LLAMA3);
        assert_true(hp.rope.theta == 5e5f && hp.rope_local.theta == 5e5f && hp.rope.factor == 32);
        assert_true(hp.rope.low_freq == 1 && hp.rope.high_freq == 4);
        assert_int_equal(hp.rope.original_context, 8192);
    }
    hparams linear =
        read_sound("{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}");
    assert_true(linear.rope.kind == ROPE_LINEAR && linear.rope.factor == 2);
    const char *const gemmas[] = {
        "{\"model_type\":\"gemma3_text\",\"rope_theta\":2000000,\"rope_local_base_freq\":20000,"
        "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}",
        "{\"model_type\":\"gemma3_text\",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\","
        "\"factor\":8,\"rope_theta\":2000000},\"sliding_attention\":{\"rope_type\":\"default\","
        "\"rope_theta\":20000}}}"};
    for (int i = 0; i < 2; i++) {
        hparams hp = read_sound(gemmas[i]);
        assert_true(hp.rope.kind == ROPE_LINEAR && hp.rope.factor == 8);
        assert_true(hp.rope.theta == 2e6f && hp.rope_local.theta == 2e4f);
    }
    expect_unsupported("{\"model_type\":\"llama\",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
                       "which nibble does not compute for llama");
    hparams local = read_sound("{\"model_type\":\"gemma3_text\",\"rope_parameters\":{\"sliding_attention\":"
                               "{\"rope_type\":\"linear\",\"factor\":8}}}");
    assert_true(local.rope.kind == ROPE_PLAIN && local.rope_local.kind == ROPE_LINEAR);
    assert_true(local.rope_local.theta == 1e4f && local.rope_local.factor == 8);
}

static void expect_bad(const char *text, const char *words) {
    hparams hp;
    nib_error err = {""};
    assert_int_equal(read_text(text, &hp, &err), NIB_BAD_FILE);
    assert_words(&err, words);
}

/* Mistral 3 is a file around one of two networks; Ministral 3's queries grow, others' must not. */
static void test_growing_queries(void **state) {
    (void)state;
#define YARN                                                                                                 \
    "\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":1e6,\"factor\":16,"                          \
    "\"original_max_position_embeddings\":16384,\"mscale\":1,\"mscale_all_dim\":1,\"llama_4_scaling_beta\":" \
    "0.1}"
    hparams hp =
        read_sound("{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"ministral3\"," YARN "}}");
    assert_int_equal(hp.family, FAMILY_MINISTRAL3);
    assert_true(hp.query_log == 0.1f && hp.rope.original_context == 16384 && hp.rope.attention_factor == 1);
#define PLAIN(TYPE)                                                                                          \
    "{\"model_type\":\"ministral3\",\"max_position_embeddings\":262144,\"rope_parameters\":{\"rope_type\":"  \
    "\"" TYPE "\",\"factor\":2,\"original_max_position_embeddings\":16384,\"llama_4_scaling_beta\":0.1}}"
    hp = read_sound(PLAIN("default"));
    assert_true(hp.rope.kind == ROPE_PLAIN && hp.rope.original_context == 16384);
    expect_unsupported(PLAIN("dynamic"), "beside dynamic RoPE");
#undef PLAIN
    hp = read_sound("{\"model_type\":\"mistral3\",\"text_config\":{\"hidden_size\":64}}");
    assert_true(hp.family == FAMILY_MISTRAL && hp.query_log == 0 && hp.dim == 64);
    expect_unsupported("{\"model_type\":\"mistral\"," YARN "}", "llama_4_scaling_beta");
#undef YARN
}

#define QWEN(WORDS)                                                                                          \
    "{\"model_type\":\"qwen3\",\"max_position_embeddings\":8192,\"head_dim\":4,\"rope_scaling\":{" WORDS "}" \
    "}"

/* YaRN and the rest: what may be left out, and what cannot be. The numbers that follow from the words are
 * compared with transformers' in test_rope_goldens.c. */
static void test_stretched(void **state) {
    (void)state;
    hparams hp = read_sound(QWEN("\"rope_type\":\"yarn\",\"original_max_position_embeddings\":2048"));
    assert_true(hp.rope.kind == ROPE_YARN && hp.rope.factor == 4); /* 8192 / 2048 */
    assert_true(hp.rope.beta_fast == 32 && hp.rope.beta_slow == 1 && !hp.rope.no_truncate);
    assert_true(hp.rope_local.kind == ROPE_YARN); /* Qwen's windows turn like the rest */
    hp = read_sound(QWEN("\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":null,\"beta_slow\":0"));
    assert_true(hp.rope.original_context == 8192 && hp.rope.beta_fast == 32 && hp.rope.beta_slow == 1);
    hp = read_sound("{\"model_type\":\"qwen3\",\"original_max_position_embeddings\":512,\"rope_scaling\":"
                    "{\"rope_type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":1024}}");
    assert_int_equal(hp.rope.original_context, 512); /* the outer one goes first */
    hp = read_sound(QWEN("\"type\":\"dynamic\",\"factor\":2,\"original_max_position_embeddings\":7"));
    assert_true(hp.rope.kind == ROPE_DYNAMIC && hp.rope.original_context == 8192);
    expect_bad(QWEN("\"rope_type\":\"dynamic\""), "RoPE scaling without a factor");
    expect_bad(QWEN("\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":1,\"beta_slow\":2"),
               "beta_fast >= beta_slow");
    expect_bad(QWEN("\"rope_type\":\"yarn\",\"factor\":2,\"rope_theta\":1"), "rope_theta above 1");
    expect_bad(QWEN("\"rope_type\":\"yarn\",\"original_max_position_embeddings\":16384"), "factor from 1 on");
    expect_bad(QWEN("\"rope_type\":\"longrope\",\"short_factor\":[1,1]"),
               "long_factor is no list of 2 numbers");
    expect_bad(QWEN("\"rope_type\":\"longrope\",\"short_factor\":[1,0],\"long_factor\":[1,1]"),
               "short_factor[1] is no number above 0");
    expect_bad(QWEN("\"rope_type\":\"longrope\",\"short_factor\":[1,1],\"long_factor\":[1,1],"
                    "\"original_max_position_embeddings\":1"),
               "an original context of at least 2");
    expect_unsupported(QWEN("\"rope_type\":\"proportional\""), "RoPE scaling \"proportional\"");
    expect_unsupported(
        "{\"model_type\":\"llama\",\"head_dim\":1024,\"rope_scaling\":{\"rope_type\":\"longrope\"}}",
        "longrope for heads of 1024");
}

static void test_windows(void **state) {
    (void)state;
    hparams hp = read_sound("{\"model_type\":\"qwen3\",\"num_hidden_layers\":4,\"use_sliding_window\":true,"
                            "\"sliding_window\":64,\"max_window_layers\":3}");
    assert_true(!hp.local[2] && hp.local[3] && hp.sliding_window == 64);
    hp = read_sound("{\"model_type\":\"qwen3\",\"num_hidden_layers\":4,\"sliding_window\":64}");
    assert_true(n_local(&hp) == 0 && hp.sliding_window == 0);
    hp = read_sound("{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":4,\"sliding_window\":7,"
                    "\"sliding_window_pattern\":2}");
    assert_true(hp.local[0] && !hp.local[1] && hp.local[2] && !hp.local[3] && hp.sliding_window == 7);
    hp = read_sound("{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":2,"
                    "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}");
    assert_true(!hp.local[0] && hp.local[1]);
    hp = read_sound(
        "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":1,\"layer_types\":[\"full_attention\"]}");
    assert_int_equal(hp.sliding_window, 0);
    hp = read_sound("{\"model_type\":\"qwen3\",\"num_hidden_layers\":4,\"use_sliding_window\":true,"
                    "\"sliding_window\":null,\"max_window_layers\":0}");
    assert_true(n_local(&hp) == 0 && hp.sliding_window == 0);
    expect_bad("{\"model_type\":\"gemma3_text\",\"sliding_window\":null}", "there is no sliding_window");
    expect_bad("{\"model_type\":\"qwen3\",\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]}",
               "use_sliding_window is false");
    expect_unsupported("{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":1,\"layer_types\":[\"mamba\"]}",
                       "layer_types[0] is \"mamba\"");
}

/* What the rows of the table say, and what may change it. */
static void test_families(void **state) {
    (void)state;
    hparams hp = read_sound("{\"model_type\":\"llama\",\"attention_bias\":true}");
    assert_true(hp.qkv_bias && hp.o_bias);
    hp = read_sound("{\"model_type\":\"qwen2\",\"sliding_window\":64}");
    assert_true(hp.qkv_bias && !hp.o_bias && hp.qk_norm == QK_NORM_NONE && hp.sliding_window == 0);
    hp = read_sound("{\"model_type\":\"mistral\",\"attention_bias\":true,\"num_hidden_layers\":3}");
    assert_true(!hp.qkv_bias && hp.n_kv_heads == 8 && hp.sliding_window == 4096 && n_local(&hp) == 3);
    hp = read_sound("{\"model_type\":\"mistral\",\"sliding_window\":null}");
    assert_true(hp.sliding_window == 0 && n_local(&hp) == 0);
    hp = read_sound(
        "{\"model_type\":\"granite\",\"embedding_multiplier\":12,\"attention_multiplier\":0.015625,"
        "\"residual_multiplier\":0.25,\"logits_scaling\":8}");
    assert_true(hp.embed_scale == 12 && hp.attn_scale == 0.015625f && hp.residual_scale == 0.25f);
    assert_true(hp.logit_scale == 0.125f);
    hp = read_sound("{\"model_type\":\"granite\"}");
    assert_true(hp.embed_scale == 1 && hp.attn_scale == 1 && hp.residual_scale == 1 && hp.logit_scale == 1);
    hp = read_sound("{\"model_type\":\"smollm3\",\"num_hidden_layers\":8}");
    for (int i = 0; i < 8; i++)
        assert_int_equal(hp.no_rope[i], i % 4 == 3);
    hp = read_sound("{\"model_type\":\"smollm3\",\"num_hidden_layers\":2,\"no_rope_layers\":[0,1]}");
    assert_true(hp.no_rope[0] && !hp.no_rope[1]);
    expect_bad("{\"model_type\":\"smollm3\",\"num_hidden_layers\":2,\"no_rope_layers\":[0]}",
               "no_rope_layers is no list of 2 layers");
    expect_bad("{\"model_type\":\"smollm3\",\"num_hidden_layers\":1,\"no_rope_layers\":[\"x\"]}",
               "no_rope_layers[0] is no integer");
    expect_unsupported("{\"model_type\":\"smollm3\",\"use_sliding_window\":true}",
                       "use_sliding_window is set");
    hp = read_sound("{\"model_type\":\"phi3\",\"original_max_position_embeddings\":4096}");
    assert_true(hp.joined && hp.n_kv_heads == 32 && hp.rope.kind == ROPE_PLAIN);
}

static void test_other_networks(void **state) {
    (void)state;
    hparams hp;
    nib_error err = {""};
    expect_unsupported("{\"model_type\":\"qwen3_moe\"}", "model_type is \"qwen3_moe\"");
    expect_unsupported("{}", "model_type is \"\"");
    expect_unsupported("{\"model_type\":\"llava\",\"text_config\":{\"model_type\":\"llama\"}}", "\"llava\"");
    expect_unsupported("{\"model_type\":\"llama\",\"mlp_bias\":true}", "mlp_bias is set");
    expect_unsupported("{\"model_type\":\"gemma3_text\",\"final_logit_softcapping\":30.0}",
                       "final_logit_softcapping is 30");
    expect_unsupported("{\"model_type\":\"gemma3_text\",\"use_bidirectional_attention\":true}",
                       "bidirectional");
    expect_unsupported("{\"model_type\":\"gemma3_text\",\"hidden_activation\":\"relu\"}",
                       "hidden_activation");
    assert_int_equal(read_text("{\"model_type\":\"llama\",\"mlp_bias\":true}", &hp, &err), NIB_UNSUPPORTED);
    assert_int_equal(hp.family, FAMILY_LLAMA); /* known all the same */
}

static nib_status quantization(const char *config, bool modelopt, config_quant *out, nib_error *err) {
    json_t *root, *side = modelopt ? json_object() : NULL;
    NIB_TRY(json_read(&root, config, strlen(config), "config.json", err));
    nib_status status = config_quantization(out, root, side, "config.json", err);
    json_decref(root);
    json_decref(side);
    return status;
}

static void test_quantization(void **state) {
    (void)state;
    static const struct {
        const char *config;
        bool modelopt;
        nib_status status;
        config_quant quant;
        const char *words;
    } cases[] = {
        {"{}", false, NIB_OK, CONFIG_QUANT_NONE, ""},
        {"{}", true, NIB_OK, CONFIG_QUANT_MODELOPT, ""},
        {"{\"quantization_config\":{\"quant_method\":\"modelopt\"}}", false, NIB_OK, CONFIG_QUANT_MODELOPT,
         ""},
        {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"nvfp4-pack-"
         "quantized\"}}",
         false, NIB_OK, CONFIG_QUANT_COMPRESSED, ""},
        {"{\"text_config\":{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"}}}", false,
         NIB_OK, CONFIG_QUANT_COMPRESSED, ""},
        {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}}",
         false, NIB_UNSUPPORTED, 0, "format \"pack-quantized\""},
        {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"transform_config\":{\"a\":1}}}",
         false, NIB_UNSUPPORTED, 0, "rotations"},
        {"{\"quantization_config\":{\"quant_method\":\"awq\"}}", false, NIB_UNSUPPORTED, 0, "\"awq\""},
        {"{\"quantization_config\":[]}", false, NIB_BAD_FILE, 0, "no object"},
        {"{\"quantization_config\":{\"quant_method\":4}}", false, NIB_BAD_FILE, 0,
         "quant_method is no string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        config_quant quant = CONFIG_QUANT_NONE;
        nib_error err = {""};
        assert_int_equal(quantization(cases[i].config, cases[i].modelopt, &quant, &err), cases[i].status);
        if (cases[i].status == NIB_OK)
            assert_int_equal(quant, cases[i].quant);
        else
            assert_words(&err, cases[i].words);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_growing_queries),
        cmocka_unit_test(test_unscaled_windows),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_embed_scale),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_stretched),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_other_networks),
        cmocka_unit_test(test_quantization),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
