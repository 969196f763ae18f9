/* SPDX-License-Identifier: Apache-2.0
 *
 * From the words of config.json to RoPE tables, against transformers (tests/golden/rope/rope.json, made by
 * tests/tools/make_rope_goldens.py).
 */
#include "fixture.h"

#include <math.h>

#include "base/mapfile.h"
#include "nouns/family.h"
#include "store/config.h"

static void check_case(const json_t *c) {
    hparams hp;
    nib_error err = {""};
    const char *name = json_string_value(json_object_get(c, "name"));
    const json_t *config = json_object_get(c, "config"), *expected = json_object_get(c, "inv_freq");
    if (config_from_json(&hp, config, name, &err) != NIB_OK)
        fail_msg("%s", err.text);
    float inv_freq[64];
    int n = hp.head_dim / 2;
    assert_true(n <= 64 && json_array_size(expected) == (size_t)n);
    rope_inv_freq(inv_freq, &hp.rope, hp.head_dim, (int32_t)json_integer_value(json_object_get(c, "context")),
                  NULL);
    for (int i = 0; i < n; i++) {
        double want = json_number_value(json_array_get(expected, (size_t)i));
        if (fabs(inv_freq[i] - want) > 2e-6 * want)
            fail_msg("%s: pair %d turns by %.9g, transformers by %.9g", name, i, (double)inv_freq[i], want);
    }
    double factor = json_number_value(json_object_get(c, "attention_factor"));
    if (fabs((double)rope_attention_factor(&hp.rope) - factor) > 1e-6 * factor)
        fail_msg("%s: an attention factor of %.9g, transformers has %.9g", name,
                 (double)rope_attention_factor(&hp.rope), factor);
}

static void test_transformers(void **state) {
    (void)state;
    mapfile map;
    json_t *root;
    nib_error err = {""};
    assert_int_equal(mapfile_open(&map, TESTS_DIR "/golden/rope/rope.json", &err), NIB_OK);
    assert_int_equal(json_read(&root, map.bytes, map.size, "rope.json", &err), NIB_OK);
    const json_t *cases = json_object_get(root, "cases"), *c;
    size_t i;
    bool seen[ROPE_LONGROPE + 1] = {false};
    assert_true(json_array_size(cases) >= 18);
    json_array_foreach((json_t *)cases, i, c) {
        const json_t *config = json_object_get(c, "config");
        const json_t *words = json_object_get(config, "rope_scaling");
        words = words ? words : json_object_get(config, "rope_parameters");
        for (int k = 0; k <= ROPE_LONGROPE; k++)
            seen[k] |= strcmp(rope_kind_name((rope_kind)k),
                              json_string_value(json_object_get(words, "rope_type"))) == 0;
        check_case(c);
    }
    for (int k = ROPE_LINEAR; k <= ROPE_LONGROPE; k++)
        assert_true(seen[k]);
    json_decref(root);
    mapfile_close(&map);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
