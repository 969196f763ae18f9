/* SPDX-License-Identifier: Apache-2.0
 *
 * Names there and back: every slot of every family in both conventions, companions, and names that are none.
 */
#include "fixture.h"

#include "store/names.h"

static const char *const prefixes[] = {"model.", "language_model.model.", "model.language_model."};

static void test_there_and_back(void **state) {
    (void)state;
    char name[NAMES_MAX];
    slot s;
    int layer;
    for (int i = SLOT_EMBED; i < SLOT_COUNT; i++) {
        int wanted = i >= SLOT_ATTN_NORM ? 17 : -1;
        assert_true(names_to_gguf((slot)i, wanted, name));
        assert_true(names_from_gguf(strview_of(name), &s, &layer));
        assert_int_equal(s, i);
        assert_int_equal(layer, wanted);
        for (int f = FAMILY_LLAMA; f <= FAMILY_GEMMA3; f++) {
            bool gemma_only = i == SLOT_POST_ATTN_NORM || i == SLOT_POST_FFN_NORM;
            bool has = i != SLOT_ROPE_FREQS && (!gemma_only || f == FAMILY_GEMMA3);
            for (int p = 0; p < 3; p++) {
                assert_int_equal(names_to_hf((family)f, (slot)i, wanted, prefixes[p], name), has);
                if (!has)
                    continue;
                assert_true(names_from_hf((family)f, strview_of(name), &s, &layer));
                assert_int_equal(s, i);
                assert_int_equal(layer, wanted);
            }
        }
    }
}

static void check_hf(family f, const char *name, slot expected, int expected_layer) {
    slot s;
    int layer;
    assert_int_equal(names_from_hf(f, strview_of(name), &s, &layer), expected != SLOT_NONE);
    assert_int_equal(s, expected);
    assert_int_equal(layer, expected_layer);
}

static void test_spelled_out(void **state) {
    (void)state;
    char name[NAMES_MAX];
    slot s;
    int layer;
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.q_proj.weight", SLOT_Q, 3);
    check_hf(FAMILY_LLAMA, "model.layers.3.post_attention_layernorm.weight", SLOT_FFN_NORM, 3);
    check_hf(FAMILY_GEMMA3, "model.layers.3.post_attention_layernorm.weight", SLOT_POST_ATTN_NORM, 3);
    check_hf(FAMILY_GEMMA3, "language_model.model.layers.10.pre_feedforward_layernorm.weight", SLOT_FFN_NORM,
             10);
    check_hf(FAMILY_GEMMA3, "model.language_model.norm.weight", SLOT_FINAL_NORM, -1);
    check_hf(FAMILY_GEMMA3, "language_model.lm_head.weight", SLOT_HEAD, -1);
    check_hf(FAMILY_NONE, "model.layers.0.mlp.down_proj.weight", SLOT_DOWN, 0);
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.q_proj.bias", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers.03.self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers.999999.self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers..self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers.3.embed_tokens.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "vision_tower.layers.0.self_attn.q_proj.weight", SLOT_NONE, -1);
    assert_false(names_from_gguf(strview_of("blk.1.attn_q.bias"), &s, &layer));
    assert_false(names_from_gguf(strview_of("blk.x.attn_q.weight"), &s, &layer));
    assert_false(names_from_gguf(strview_of("attn_q.weight"), &s, &layer));
    assert_false(names_from_gguf(strview_of(""), &s, &layer));
    assert_true(names_to_gguf(SLOT_O, 2, name));
    assert_string_equal(name, "blk.2.attn_output.weight");
    assert_true(names_to_hf(FAMILY_GEMMA3, SLOT_HEAD, -1, "language_model.model.", name));
    assert_string_equal(name, "language_model.lm_head.weight");
    assert_true(names_to_hf(FAMILY_LLAMA, SLOT_HEAD, -1, "model.", name));
    assert_string_equal(name, "lm_head.weight");
    assert_true(
        names_hf_is_tower(strview_of("model.vision_tower.vision_model.embeddings.patch_embedding.weight")));
    assert_true(names_hf_is_tower(strview_of("multi_modal_projector.mm_soft_emb_norm.weight")));
    assert_false(names_hf_is_tower(strview_of("model.layers.0.mlp.up_proj.weight")));
    assert_true(names_hf_in_layer(strview_of("model.language_model.layers.0.anything")));
    assert_false(names_hf_in_layer(strview_of("model.norm.weight")));
    assert_true(names_gguf_in_layer(strview_of("blk.7.ffn_gate_exps.weight")));
    assert_false(names_gguf_in_layer(strview_of("blk.weight")));
}

static void test_companions(void **state) {
    (void)state;
    static const struct {
        const char *name, *stem;
        names_companion hf, gguf;
    } cases[] = {
        {"a.weight", "a", COMPANION_NONE, COMPANION_NONE},
        {"a.bias", "a.bias", COMPANION_NONE, COMPANION_NONE},
        {"a.weight_scale", "a", COMPANION_WEIGHT_SCALE, COMPANION_NONE},
        {"a.weight_scale_2", "a", COMPANION_WEIGHT_SCALE_2, COMPANION_NONE},
        {"a.input_scale", "a", COMPANION_INPUT_SCALE, COMPANION_INPUT_SCALE},
        {"a.weight_packed", "a", COMPANION_WEIGHT_PACKED, COMPANION_NONE},
        {"a.weight_global_scale", "a", COMPANION_WEIGHT_GLOBAL_SCALE, COMPANION_NONE},
        {"a.input_global_scale", "a", COMPANION_INPUT_GLOBAL_SCALE, COMPANION_NONE},
        {"a.k_scale", "a", COMPANION_KV_SCALE, COMPANION_NONE},
        {"a.scale", "a", COMPANION_NONE, COMPANION_SCALE},
        {"a.weight.scale", "a", COMPANION_NONE, COMPANION_SCALE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        strview stem;
        assert_int_equal(names_hf_companion(strview_of(cases[i].name), &stem), cases[i].hf);
        if (cases[i].hf != COMPANION_NONE)
            assert_true(strview_is(stem, cases[i].stem));
        assert_int_equal(names_gguf_companion(strview_of(cases[i].name), &stem), cases[i].gguf);
        if (cases[i].gguf != COMPANION_NONE)
            assert_true(strview_is(stem, cases[i].stem));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_spelled_out),
        cmocka_unit_test(test_companions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
