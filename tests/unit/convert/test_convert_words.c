/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversion of whole models, by what stands beside the tensors: tokens, templates and settings arrive in the
 * other container, and what it cannot say is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "convert_models.h"

static json_t *read_json(const char *directory, const char *name) {
    char path[512];
    json_t *root;
    mapfile m;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_int_equal(mapfile_open(&m, path, &err), NIB_OK);
    assert_int_equal(json_read(&root, m.bytes, m.size, path, &err), NIB_OK);
    mapfile_close(&m);
    return root;
}

static void write_json(const char *directory, const char *name, json_t *root) {
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    tiny_text(directory, name, text);
    mem_free(text);
    json_decref(root);
}

static int32_t bos_of(const char *in, const char *name, int8_t add_bos) {
    model_file *f = open_model(make(in, name, (convert_options){.out = OUT_GGUF}, NULL));
    int32_t bos = f->words.bos;
    assert_int_equal(f->words.n_tokens, TINY_VOCAB);
    assert_int_equal(f->words.add_bos, add_bos);
    model_file_close(f);
    return bos;
}

/* BOS: the post-processor's, else config.json's, else tokenizer_config.json's. Tokens beyond the embedding
 * have no place in a GGUF file (Gemma 3's image token); pieces of the model there are an error. */
static void test_special_tokens(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    json_t *root = read_json(hf, "tokenizer.json");
    assert_int_equal(json_array_append_new(
                         json_object_get(root, "added_tokens"),
                         json_pack("{s:i, s:s, s:b}", "id", TINY_VOCAB, "content", "<image>", "special", 1)),
                     0);
    write_json(hf, "tokenizer.json", root);
    assert_int_equal(bos_of(hf, "none.gguf", 0), -1);
    tiny_text(hf, "tokenizer_config.json", "{\"bos_token\": \"b\"}");
    assert_int_equal(bos_of(hf, "tokenizer-config.gguf", 0), 2);
    root = read_json(hf, "config.json");
    json_object_set_new(root, "bos_token_id", json_integer(4));
    write_json(hf, "config.json", root);
    assert_int_equal(bos_of(hf, "config.gguf", 0), 4);
    root = read_json(hf, "tokenizer.json");
    json_object_set_new(root, "post_processor",
                        json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}]}", "type", "TemplateProcessing",
                                  "single", "SpecialToken", "id", "ab", "type_id", 0, "Sequence", "id", "A",
                                  "type_id", 0));
    write_json(hf, "tokenizer.json", root);
    assert_int_equal(bos_of(hf, "post-processor.gguf", 1), 3);
    root = read_json(hf, "tokenizer.json");
    json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), "d",
                        json_integer(TINY_VOCAB));
    write_json(hf, "tokenizer.json", root);
    assert_int_equal(try_convert(hf, tiny_path("x.gguf"), (convert_options){.out = OUT_GGUF}, NULL),
                     NIB_BAD_FILE);
}

/* What nibble would refuse to read in the GGUF file is refused before it is written. */
static void test_words_gguf_cannot_hold(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0), *out = tiny_path("x.gguf");
    const convert_options o = {.out = OUT_GGUF};
    tiny_text(hf, "chat_template.jinja", "\xff{{ x }}");
    assert_int_equal(try_convert(hf, out, o, NULL), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "hf: the chat template is no UTF-8 text"));
    tiny_text(hf, "chat_template.jinja", "{{ x }}");
    static char piece[65537];
    memset(piece, 'a', 65536);
    json_t *root = read_json(hf, "tokenizer.json");
    json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), piece, json_integer(5));
    write_json(hf, "tokenizer.json", root);
    assert_int_equal(try_convert(hf, out, o, NULL), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "the piece of id 5 has 65536 bytes, expected at most 65535"));
    assert_int_equal(access(out, F_OK), -1);
}

/* Llama 3's words under each of their names, in a file that does not say whether BOS goes in front. */
static void test_llama3_words(void **state) {
    (void)state;
    static const char *const names[] = {"llama-bpe", "llama3", "llama-v3", "qwen2"};
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    const char *gguf = make(hf, "g.gguf", (convert_options){.out = OUT_GGUF}, NULL);
    for (size_t i = 0; i < 4; i++)
        for (int given = -1; given <= 0; given++) {
            char name[32];
            snprintf(name, sizeof name, "%s%d", names[i], given);
            const char *out = tiny_path(name);
            model_file *f = open_model(gguf);
            convert_report r;
            f->words.pre = strview_of(names[i]);
            f->words.bos = 3;
            f->words.add_bos = (int8_t)given;
            assert_int_equal(convert(f, out, &(convert_options){0}, &r, &err), NIB_OK);
            model_file_close(f);
            json_t *root = read_json(out, "tokenizer.json");
            const char *type =
                json_string_value(json_object_get(json_object_get(root, "post_processor"), "type"));
            const json_t *whole = json_object_get(json_object_get(root, "model"), "ignore_merges");
            assert_string_equal(type, i < 3 && given < 0 ? "TemplateProcessing" : "ByteLevel");
            assert_int_equal(json_is_true(whole), i < 3);
            json_decref(root);
        }
}

static void test_two_rope_scalings(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    json_t *root = read_json(hf, "config.json");
    json_object_set_new(root, "rope_scaling",
                        json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", 8.0,
                                  "low_freq_factor", 1.0, "high_freq_factor", 4.0,
                                  "original_max_position_embeddings", 8192));
    write_json(hf, "config.json", root);
    model_file *f = open_model(make(hf, "g.gguf", (convert_options){.out = OUT_GGUF}, NULL));
    convert_report r;
    assert_int_equal(convert(f, tiny_path("one"), &(convert_options){0}, &r, &err), NIB_OK);
    f->hp.rope.kind = ROPE_LINEAR;
    f->hp.rope.factor = 2;
    assert_int_equal(convert(f, tiny_path("two"), &(convert_options){0}, &r, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "rope_freqs.weight too"));
    assert_int_equal(access(tiny_path("two"), F_OK), -1);
    model_file_close(f);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, tiny_setup, tiny_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_special_tokens),
        TEST(test_words_gguf_cannot_hold),
        TEST(test_llama3_words),
        TEST(test_two_rope_scalings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
