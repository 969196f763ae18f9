/* SPDX-License-Identifier: Apache-2.0
 *
 * The sound models of tests/golden/bad/good, one per convention: what is folded, its values written out here
 * from the formats' definitions, words, split files; and heads beside tied embeddings, unaligned data,
 * careless metadata.
 */
#include "fixture.h"

#include <math.h>

#include "base/mem.h"
#include "store/gguf.h"
#include "store/model_file.h"

#define UP "model.layers.0.mlp.up_proj"

static model_file *open_good(const char *name) {
    char path[512];
    model_file *f;
    nib_error err = {""};
    snprintf(path, sizeof path, "%s/golden/bad/good/%s", TESTS_DIR, name);
    ASSERT_OK(model_file_open(&f, path, &err));
    return f;
}

static double e2m1(unsigned code) {
    static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -values[code & 7] : values[code & 7];
}

static double e4m3(unsigned code) {
    int exponent = (int)(code >> 3 & 15), mantissa = (int)(code & 7);
    double v = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    return code & 128 ? -v : v;
}

/* Byte I of the script's codes(). */
static unsigned code_byte(size_t i) {
    return (unsigned)(i * 37 + 11) % 256;
}

static double code_at(size_t element) {
    return e2m1(element % 2 ? code_byte(element / 2) >> 4 : code_byte(element / 2) & 15);
}

static const tensor *find_up(const model_file *f) {
    const tensor *t = model_file_find(f, place_of(SLOT_UP, 0));
    assert_non_null(t);
    assert_int_equal(t->rows, 8);
    assert_int_equal(t->cols, 32);
    return t;
}

static void check_values(const tensor *t, double (*value)(size_t row, size_t col)) {
    float row[32];
    for (size_t r = 0; r < t->rows; r++) {
        tensor_decode_row(t, r, row);
        for (size_t c = 0; c < t->cols; c++)
            if ((double)row[c] != value(r, c))
                fail_msg("[%zu, %zu] is %g, expected %g", r, c, (double)row[c], value(r, c));
    }
}

static double nvfp4_value(size_t r, size_t c) {
    return code_at(r * 32 + c) * e4m3((unsigned)(0x30 + r * 2 + c / 16)) * 0.25;
}

static double mxfp4_value(size_t r, size_t c) {
    return code_at(r * 32 + c) * ldexp(1, (int)(120 + r) - 127);
}

static double fp8_tensor_value(size_t r, size_t c) {
    return e4m3((unsigned)((r * 32 + c) % 0x7F)) * 0.5;
}

static double fp8_row_value(size_t r, size_t c) {
    static const double scales[8] = {1, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875}; /* BF16 0x3F80 + 16 r */
    return e4m3((unsigned)((r * 32 + c) % 0x7F)) * scales[r];
}

static void test_conventions(void **state) {
    (void)state;
    static const struct {
        const char *path, *name, *format;
        quant_convention convention;
        dtype dtype;
        float input_scale;
        size_t n_tensors; /* companions are none */
        double (*value)(size_t, size_t);
    } cases[] = {
        {"modelopt", UP ".weight", "NVFP4", QUANT_MODELOPT, DT_NVFP4, 0.5f, 14,
         nvfp4_value}, /* and a k_scale */
        {"compressed", UP ".weight_packed", "NVFP4", QUANT_COMPRESSED_TENSORS, DT_NVFP4, 0.5f, 13,
         nvfp4_value},
        {"mxfp4", UP ".weight_packed", "MXFP4", QUANT_COMPRESSED_TENSORS, DT_MXFP4, 0, 13, mxfp4_value},
        {"fp8-tensor", UP ".weight", "F8_E4M3", QUANT_MODELOPT, DT_F8_E4M3, 0.125f, 13, fp8_tensor_value},
        {"fp8-rows", UP ".weight", "F8_E4M3", QUANT_MODELOPT, DT_F8_E4M3, 0.125f, 13, fp8_row_value},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_file *f = open_good(cases[i].path);
        const tensor *t = find_up(f);
        assert_true(f->has_network);
        assert_int_equal(f->convention, cases[i].convention);
        assert_int_equal(f->n_tensors, cases[i].n_tensors);
        assert_string_equal(t->name, cases[i].name);
        assert_string_equal(model_file_format_name(f, t), cases[i].format);
        assert_int_equal(t->dtype, cases[i].dtype);
        assert_true(t->input_scale == cases[i].input_scale);
        check_values(t, cases[i].value);
        model_file_close(f);
    }
}

/* FP8 with a scale per tile of 128 x 128, under either name and rank, or per 32 columns. */
static void test_tiles(void **state) {
    (void)state;
    static const char *const paths[] = {"fp8-tiles", "fp8-tiles-4d", "mxfp8"};
    float row[160];
    for (size_t i = 0; i < 3; i++) {
        model_file *f = open_good(paths[i]);
        const tensor *t = model_file_find(f, place_of(SLOT_UP, 0));
        assert_true(f->has_network && t->tile_scales && t->dtype == DT_F8_E4M3);
        for (size_t r = 0; r < t->rows; r++) {
            tensor_decode_row(t, r, row);
            for (size_t c = 0; c < t->cols; c++) {
                double scale = i == 2 ? ldexp(1, (int)(120 + 2 * r + c / 32) - 127) : c < 128 ? 0.5 : 2;
                assert_true((double)row[c] == e4m3((unsigned)((r * t->cols + c) % 0x7F)) * scale);
            }
        }
        model_file_close(f);
    }
}

static void test_gguf_nvfp4(void **state) {
    (void)state;
    model_file *f = open_good("nvfp4.gguf");
    const tensor *t = model_file_find(f, place_of(SLOT_DOWN, 0));
    assert_int_equal(f->convention, QUANT_GGUF);
    assert_int_equal(t->dtype, DT_GGUF_NVFP4);
    assert_true(t->tensor_scale == 0.25f && t->input_scale == 0.5f);
    assert_int_equal(f->n_tensors, 12);
    assert_non_null(model_file_find(f, place_of(SLOT_ROPE_FREQS, PLACE_NO_LAYER)));
    assert_null(model_file_find(f, place_of(SLOT_HEAD, PLACE_NO_LAYER)));
    assert_true(f->hp.tied && f->hp.rope_interleaved);
    /* Row 0: four scales in bytes 0 to 3; sub-block 1 is bytes 12 to 19, element 16 + j low, 24 + j high. */
    float row[64];
    tensor_decode_row(t, 0, row);
    double scale = e4m3(code_byte(1) & 0x7F) * 0.25;
    assert_true((double)row[16] == e2m1(code_byte(12) & 15) * scale);
    assert_true((double)row[24 + 3] == e2m1(code_byte(15) >> 4) * scale);
    model_file_close(f);
}

static void test_gguf_families(void **state) {
    (void)state;
    model_file *f = open_good("gemma3.gguf");
    assert_int_equal(f->hp.family, FAMILY_GEMMA3);
    assert_int_equal(f->gguf->version, 2);
    assert_int_equal(f->gguf->alignment, 64);
    assert_false(f->hp.norm_plus_one);
    assert_true(f->hp.local[0] && f->hp.sliding_window == 16 && f->hp.rope.factor == 8);
    assert_int_equal(f->words.add_bos, 1);
    model_file_close(f);
    f = open_good("qwen3.gguf");
    assert_int_equal(f->hp.family, FAMILY_QWEN3);
    assert_false(f->hp.rope_interleaved);
    assert_true(strview_is(f->words.pre, "qwen2"));
    assert_int_equal(f->words.n_merges, 1);
    assert_int_equal(f->words.add_bos, -1);
    model_file_close(f);
    f = open_good("llama.gguf");
    const token_source *w = &f->words;
    assert_int_equal(w->n_tokens, 8);
    assert_true(strview_is(w->tokens[7], "ab") && w->scores[7] == -0.5f && w->types[3] == 6);
    assert_true(w->bos == 1 && w->eos == 2 && w->unk == -1 && w->vocab == 8);
    model_file_close(f);
}

static void test_split(void **state) {
    (void)state;
    model_file *f = open_good("split-00001-of-00002.gguf");
    assert_true(f->has_network);
    assert_int_equal(f->n_files, 2);
    assert_int_equal(f->n_tensors, 11);
    assert_int_equal(f->words.n_tokens, 8);
    model_file_close(f);
}

/* PATH's template NAME is TEXT; NULL: it has none. */
static void assert_template(const char *path, const char *name, const char *text) {
    model_file *f;
    char *found;
    nib_error err = {""};
    ASSERT_OK(model_file_open_words(&f, path, &err));
    ASSERT_OK(model_file_template(f, name, &found, &err));
    if (text)
        assert_string_equal(found, text);
    else
        assert_null(found);
    mem_free(found);
    model_file_close(f);
}

static void test_named_templates(void **state) {
    (void)state;
    static const char list[] = "{\"chat_template\": [{\"name\": \"default\", \"template\": \"{{ x }}\"}, "
                               "{\"name\": \"rag\", \"template\": \"{{ y }}\"}, {\"name\": 3}, 4]}";
    fixture_directory("named");
    fixture_directory("named/additional_chat_templates");
    fixture_write("named/tokenizer.json", "{}", 2);
    fixture_write("named/tokenizer_config.json", list, sizeof list - 1);
    fixture_write("named/additional_chat_templates/tools.jinja", "{{ z }}", 7);
    assert_template(fixture_path("named"), "rag", "{{ y }}");
    assert_template(fixture_path("named"), "tools", "{{ z }}");
    assert_template(fixture_path("named"), "none", NULL);
    assert_template(fixture_path("named"), "../additional_chat_templates/tools", NULL);

    /* A GGUF file of one key. */
    static const char key[] = "tokenizer.chat_template.rag", text[] = "{{ y }}";
    const uint64_t counts[] = {0, 1, sizeof key - 1}, n_text = sizeof text - 1;
    const uint32_t version = 3, type = 8;
    char bytes[256], *p = bytes;
    p = (char *)memcpy(p, "GGUF", 4) + 4;
    p = (char *)memcpy(p, &version, sizeof version) + sizeof version;
    p = (char *)memcpy(p, counts, sizeof counts) + sizeof counts;
    p = (char *)memcpy(p, key, sizeof key - 1) + sizeof key - 1;
    p = (char *)memcpy(p, &type, sizeof type) + sizeof type;
    p = (char *)memcpy(p, &n_text, sizeof n_text) + sizeof n_text;
    p = (char *)memcpy(p, text, sizeof text - 1) + sizeof text - 1;
    const char *path = fixture_write("named.gguf", bytes, (size_t)(p - bytes));
    assert_template(path, "rag", "{{ y }}");
    assert_template(path, "tools", NULL);
}

static void test_directory_words(void **state) {
    (void)state;
    model_file *f = open_good("llama");
    assert_true(f->has_network && !f->hp.tied && f->directory);
    assert_int_equal(f->words.n_extra_eos, 3); /* 2 and 3 of generation_config.json, 1 of config.json */
    assert_true(strview_is(f->words.chat_template, "yes"));
    model_file_close(f);
    f = open_good("gemma3");
    assert_true(f->hp.norm_plus_one);
    assert_null(model_file_find(f, place_of(SLOT_NONE, PLACE_NO_LAYER)));
    assert_string_equal(model_file_find(f, place_of(SLOT_POST_ATTN_NORM, 0))->name,
                        "language_model.model.layers.0.post_attention_layernorm.weight");
    model_file_close(f);
    nib_error err = {""};
    model_file *words;
    fixture_directory("words");
    fixture_write("words/tokenizer.json", "{}", 2);
    fixture_write("words/chat_template.jinja", "{{ x }}", 7);
    ASSERT_OK(model_file_open_words(&words, fixture_path("words"), &err));
    assert_true(words->words.json.n == 2 && words->words.chat_template.n == 7 && !words->has_network);
    model_file_close(words);
    fixture_write("words/chat_template.jinja", "", 0); /* as good as not there */
    fixture_write("words/tokenizer_config.json", "", 0);
    ASSERT_OK(model_file_open_words(&words, fixture_path("words"), &err));
    assert_true(words->words.chat_template.n == 0 && words->words.config_json.n == 0);
    model_file_close(words);
    fixture_write("words/tokenizer.json", "", 0);
    assert_int_equal(model_file_open_words(&words, fixture_path("words"), &err), NIB_BAD_FILE);
    assert_words(&err, "is an empty file");
    assert_int_equal(model_file_open_words(&words, fixture_path(""), &err), NIB_BAD_FILE);
    assert_words(&err, "holds no tokenizer.json");
    assert_int_equal(model_file_open(&words, fixture_path("nowhere"), &err), NIB_IO);
    assert_words(&err, "nowhere: cannot be opened");
}

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"vocab_size\":4,\"tie_word_embeddings\":%s,\"num_key_value_heads\":2}";

typedef struct header { /* of a safetensors file of BF16 tensors with 8 columns */
    char text[4096];
    size_t n, at;
} header;

static void add(header *h, const char *name, size_t rows) {
    h->n += (size_t)snprintf(h->text + h->n, sizeof h->text - h->n,
                             ",\"%s.weight\":{\"dtype\":\"BF16\",\"shape\":[", name);
    if (rows > 1)
        h->n += (size_t)snprintf(h->text + h->n, sizeof h->text - h->n, "%zu,", rows);
    h->n += (size_t)snprintf(h->text + h->n, sizeof h->text - h->n, "8],\"data_offsets\":[%zu,%zu]}", h->at,
                             h->at + 16 * rows);
    h->at += 16 * rows;
}

enum { EMBED = 1, HEAD = 2, DIFFERS = 4 }; /* which of the two there are; with other values */

/* A llama directory with FIRST bytes of a U8 tensor in front, so that what follows may be unaligned. The
 * embedding and the head begin with the BF16 numbers 1, 1 + 1/128, ... */
static const char *write_llama(const char *name, const char *tied, size_t first, int parts) {
    static const char *const layer[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    char path[600], text[1024];
    fixture_directory(name);
    int n = snprintf(text, sizeof text, config, tied);
    snprintf(path, sizeof path, "%s/config.json", name);
    fixture_write(path, text, (size_t)n);
    header h = {.at = first};
    h.n = (size_t)snprintf(h.text, sizeof h.text,
                           "{\"other\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}", first,
                           first);
    size_t numbers[2] = {h.at, h.at};
    if (parts & EMBED)
        add(&h, "model.embed_tokens", 4);
    add(&h, "model.norm", 1);
    if (parts & HEAD) {
        numbers[1] = h.at;
        add(&h, "lm_head", 4);
    }
    add(&h, "model.layers.0.input_layernorm", 1);
    add(&h, "model.layers.0.post_attention_layernorm", 1);
    for (size_t i = 0; i < 7; i++) {
        snprintf(path, sizeof path, "model.layers.0.%s", layer[i]);
        add(&h, path, 8);
    }
    h.text[h.n++] = '}';
    while (h.n % 8)
        h.text[h.n++] = ' ';
    char *file = calloc(1, 8 + h.n + h.at);
    assert_non_null(file);
    memcpy(file, &(uint64_t){h.n}, 8);
    memcpy(file + 8, h.text, h.n);
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < 32; k++)
            memcpy(file + 8 + h.n + numbers[i] + 2 * k, &(uint16_t){(uint16_t)(0x3f80 + k)}, 2);
    if (parts & DIFFERS)
        file[8 + h.n + numbers[1]] ^= 1;
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    fixture_write(path, file, 8 + h.n + h.at);
    free(file);
    return fixture_path(name);
}

/* A head beside a tied embedding: the same values are one tensor, others count, alone it is the embedding. */
static void test_heads(void **state) {
    (void)state;
    model_file *f;
    nib_error err = {""};
    const place head = place_of(SLOT_HEAD, PLACE_NO_LAYER), embed = place_of(SLOT_EMBED, PLACE_NO_LAYER);
    ASSERT_OK(model_file_open(&f, write_llama("tied", "true", 8, EMBED | HEAD), &err));
    assert_true(f->has_network && f->hp.tied && f->n_notes == 0);
    assert_null(model_file_find(f, head));
    model_file_close(f);
    ASSERT_OK(model_file_open(&f, write_llama("differs", "true", 8, EMBED | HEAD | DIFFERS), &err));
    assert_true(f->has_network && !f->hp.tied && f->n_notes == 1);
    assert_non_null(strstr(f->notes[0], "lm_head.weight is stored with other values"));
    assert_string_equal(model_file_find(f, head)->name, "lm_head.weight");
    model_file_close(f);
    ASSERT_OK(model_file_open(&f, write_llama("only", "true", 8, HEAD), &err));
    assert_true(f->has_network && f->hp.tied);
    assert_string_equal(model_file_find(f, embed)->name, "lm_head.weight");
    model_file_close(f);
    ASSERT_OK(model_file_open(&f, write_llama("untied", "false", 8, EMBED | HEAD), &err));
    assert_true(!f->hp.tied && model_file_find(f, head));
    model_file_close(f);
    assert_int_equal(model_file_open(&f, write_llama("bare", "false", 8, HEAD), &err), NIB_BAD_FILE);
    assert_words(&err, "tensor model.embed_tokens.weight is missing");
}

/* Numbers at odd addresses, as MLX leaves them. */
static void test_unaligned(void **state) {
    (void)state;
    model_file *f;
    nib_error err = {""};
    for (size_t first = 6; first < 8; first++) { /* bytes in front */
        ASSERT_OK(model_file_open(&f, write_llama("odd", "true", first, EMBED), &err));
        const tensor *t = model_file_find(f, place_of(SLOT_EMBED, PLACE_NO_LAYER));
        assert_int_equal((uintptr_t)t->data % 2, first % 2);
        assert_true(f->has_network);
        float row[8];
        tensor_decode_row(t, 1, row);
        for (size_t i = 0; i < 8; i++)
            assert_true(row[i] == ldexpf(1 + (float)(i + 8) / 128, 0)); /* BF16 0x3f80 + element */
        model_file_close(f);
    }
}

/* What files say beside the point is read over, and told where it might be missed. */
static void test_careless(void **state) {
    (void)state;
    model_file *f = open_good("careless.gguf");
    assert_true(f->has_network && f->hp.n_kv_heads > 0);
    assert_null(f->words.scores);
    assert_true(f->words.pad == -1 && f->words.eos == -1 && f->words.eot == -1 && f->words.bos == 1);
    assert_int_equal(f->n_notes, 3);
    assert_non_null(strstr(f->notes[2], "key tokenizer.ggml.padding_token_id is 4294967295, outside"));
    model_file_close(f);
    f = open_good("modelopt"); /* with a k_scale */
    assert_int_equal(f->n_notes, 1);
    assert_non_null(strstr(f->notes[0], "scales for a KV cache in FP8"));
    assert_non_null(model_file_find(f, place_of(SLOT_K_SCALE, 0)));
    model_file_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conventions),     cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_named_templates), cmocka_unit_test(test_gguf_nvfp4),
        cmocka_unit_test(test_gguf_families),   cmocka_unit_test(test_split),
        cmocka_unit_test(test_directory_words), cmocka_unit_test(test_heads),
        cmocka_unit_test(test_unaligned),       cmocka_unit_test(test_careless),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
