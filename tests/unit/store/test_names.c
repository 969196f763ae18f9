/* SPDX-License-Identifier: Apache-2.0
 *
 * Names there and back: every slot of every family in both conventions, companions, and names that are none.
 */
#include "fixture.h"

#include "store/names.h"

static const char *const prefixes[] = {"model.", "language_model.model.", "model.language_model."};

/* NAME, written for WANTED, is read as WANTED. */
static void check_back(bool gguf, family f, const char *name, place wanted) {
    place found;
    assert_true(gguf ? names_from_gguf(f, strview_of(name), &found)
                     : names_from_hf(f, strview_of(name), &found));
    if (!place_equal(found, wanted))
        fail_msg("%s is read as %s, layer %d, expert %d", name, slot_name(found.slot), found.layer,
                 found.expert);
}

static void test_there_and_back(void **state) {
    (void)state;
    char name[NAMES_MAX];
    for (int i = SLOT_EMBED; i < SLOT_COUNT; i++) {
        place wanted = place_of((slot)i, place_is_in_layer((slot)i) ? 17 : PLACE_NO_LAYER);
        bool hf_only = i == SLOT_GATE_UP || i == SLOT_K_SCALE || i == SLOT_V_SCALE;
        assert_int_equal(names_to_gguf(FAMILY_NONE, wanted, name), !hf_only);
        if (name[0])
            check_back(true, FAMILY_NONE, name, wanted);
        for (int f = FAMILY_LLAMA; f < FAMILY_COUNT; f++) {
            bool after =
                f == FAMILY_OLMO2 || f == FAMILY_OLMO3 || f == FAMILY_EXAONE4; /* norms behind only */
            bool both = f == FAMILY_GEMMA2 || f == FAMILY_GEMMA3;
            bool behind = i == SLOT_POST_ATTN_NORM || i == SLOT_POST_FFN_NORM;
            bool before = i == SLOT_ATTN_NORM || i == SLOT_FFN_NORM;
            bool gguf_only = i == SLOT_ROPE_FREQS || i == SLOT_ROPE_LONG || i == SLOT_ROPE_SHORT;
            bool parts_only = f == FAMILY_PHI3 && (i == SLOT_GATE || i == SLOT_UP);
            bool has = !gguf_only && !parts_only && (!behind || after || both) && !(before && after);
            for (int p = 0; p < 3; p++) {
                assert_int_equal(names_to_hf((family)f, wanted, prefixes[p], name), has);
                if (has)
                    check_back(false, (family)f, name, wanted);
            }
        }
    }
}

/* One expert's tensor and the stack of all, both ways. */
static void test_experts(void **state) {
    (void)state;
    static const struct {
        place place;
        const char *gguf, *hf;
    } cases[] = {
        {{SLOT_GATE, 3, 0}, "blk.3.ffn_gate.0.weight", "model.layers.3.mlp.experts.0.gate_proj.weight"},
        {{SLOT_UP, 0, 127}, "blk.0.ffn_up.127.weight", "model.layers.0.mlp.experts.127.up_proj.weight"},
        {{SLOT_DOWN, 47, 9}, "blk.47.ffn_down.9.weight", "model.layers.47.mlp.experts.9.down_proj.weight"},
        {{SLOT_GATE, 3, PLACE_ALL_EXPERTS},
         "blk.3.ffn_gate_exps.weight",
         "model.layers.3.mlp.experts.gate_proj"},
        {{SLOT_UP, 3, PLACE_ALL_EXPERTS}, "blk.3.ffn_up_exps.weight", "model.layers.3.mlp.experts.up_proj"},
        {{SLOT_DOWN, 3, PLACE_ALL_EXPERTS},
         "blk.3.ffn_down_exps.weight",
         "model.layers.3.mlp.experts.down_proj"},
        {{SLOT_GATE_UP, 3, PLACE_ALL_EXPERTS},
         "blk.3.ffn_gate_up_exps.weight",
         "model.layers.3.mlp.experts.gate_up_proj"},
        {{SLOT_ROUTER, 3, PLACE_NO_EXPERT}, "blk.3.ffn_gate_inp.weight", "model.layers.3.mlp.gate.weight"},
    };
    char name[NAMES_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(names_to_gguf(FAMILY_NONE, cases[i].place, name));
        assert_string_equal(name, cases[i].gguf);
        check_back(true, FAMILY_NONE, name, cases[i].place);
        assert_true(names_to_hf(FAMILY_QWEN3, cases[i].place, "model.", name));
        assert_string_equal(name, cases[i].hf);
        check_back(false, FAMILY_QWEN3, name, cases[i].place);
    }
    /* of no expert, no layer, or a layer too many */
    assert_false(names_to_gguf(FAMILY_NONE, (place){SLOT_Q, 3, 1}, name));
    assert_false(names_to_gguf(FAMILY_NONE, (place){SLOT_Q, 3, PLACE_ALL_EXPERTS}, name));
    assert_false(names_to_gguf(FAMILY_NONE, (place){SLOT_Q, PLACE_NO_LAYER, PLACE_NO_EXPERT}, name));
    assert_false(names_to_gguf(FAMILY_NONE, (place){SLOT_EMBED, 0, PLACE_NO_EXPERT}, name));
    assert_false(names_to_hf(FAMILY_QWEN3, (place){SLOT_ATTN_NORM, 0, 0}, "model.", name));
}

static void check_hf(family f, const char *name, slot expected, int expected_layer) {
    place found;
    assert_int_equal(names_from_hf(f, strview_of(name), &found), expected != SLOT_NONE);
    assert_true(place_equal(found, place_of(expected, expected_layer)));
}

static void test_spelled_out(void **state) {
    (void)state;
    char name[NAMES_MAX];
    place at;
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.q_proj.weight", SLOT_Q, 3);
    check_hf(FAMILY_LLAMA, "model.layers.3.post_attention_layernorm.weight", SLOT_FFN_NORM, 3);
    check_hf(FAMILY_GEMMA3, "model.layers.3.post_attention_layernorm.weight", SLOT_POST_ATTN_NORM, 3);
    check_hf(FAMILY_GEMMA3, "language_model.model.layers.10.pre_feedforward_layernorm.weight", SLOT_FFN_NORM,
             10);
    check_hf(FAMILY_GEMMA3, "model.language_model.norm.weight", SLOT_FINAL_NORM, -1);
    check_hf(FAMILY_GEMMA3, "language_model.lm_head.weight", SLOT_HEAD, -1);
    check_hf(FAMILY_NONE, "model.layers.0.mlp.down_proj.weight", SLOT_DOWN, 0);
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.q_proj.bias", SLOT_Q_BIAS, 3);
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.k_scale", SLOT_K_SCALE, 3);
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.attn.v_scale", SLOT_V_SCALE, 3);
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.v_proj.output_scale", SLOT_V_SCALE, 3);
    check_hf(FAMILY_LLAMA, "model.layers.3.self_attn.kv_scale", SLOT_NONE, -1);
    check_hf(FAMILY_PHI3, "model.layers.3.mlp.gate_up_proj.weight", SLOT_GATE_UP, 3);
    assert_true(names_from_gguf(FAMILY_PHI3, strview_of("blk.1.ffn_up.weight"), &at));
    assert_int_equal(at.slot, SLOT_GATE_UP);
    check_hf(FAMILY_LLAMA, "model.layers.03.self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers.999999.self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers..self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "model.layers.3.embed_tokens.weight", SLOT_NONE, -1);
    check_hf(FAMILY_QWEN3, "model.layers.3.mlp.experts.01.up_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_QWEN3, "model.layers.3.mlp.experts..up_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "self_attn.q_proj.weight", SLOT_NONE, -1);
    check_hf(FAMILY_LLAMA, "vision_tower.layers.0.self_attn.q_proj.weight", SLOT_NONE, -1);
    assert_false(names_from_gguf(FAMILY_NONE, strview_of("blk.1.attn_q.scale"), &at));
    assert_false(names_from_gguf(FAMILY_NONE, strview_of("blk.x.attn_q.weight"), &at));
    assert_false(names_from_gguf(FAMILY_NONE, strview_of("attn_q.weight"), &at));
    assert_false(names_from_gguf(FAMILY_NONE, strview_of(""), &at));
    assert_true(names_to_gguf(FAMILY_NONE, place_of(SLOT_O, 2), name));
    assert_string_equal(name, "blk.2.attn_output.weight");
    assert_true(
        names_to_hf(FAMILY_GEMMA3, place_of(SLOT_HEAD, PLACE_NO_LAYER), "language_model.model.", name));
    assert_string_equal(name, "language_model.lm_head.weight");
    assert_true(names_to_hf(FAMILY_LLAMA, place_of(SLOT_HEAD, PLACE_NO_LAYER), "model.", name));
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
        {"a.activation_scale", "a", COMPANION_INPUT_SCALE, COMPANION_NONE},
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
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_spelled_out),
        cmocka_unit_test(test_companions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
