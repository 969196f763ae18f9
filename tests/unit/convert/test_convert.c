/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversion of whole models, by their tensors: every direction keeps the values it must keep, formats,
 * methods and options do what they say, and the report tells what was done.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "convert_models.h"

static void assert_same_file(const char *a, const char *b) {
    mapfile x, y;
    assert_int_equal(mapfile_open(&x, a, &err), NIB_OK);
    assert_int_equal(mapfile_open(&y, b, &err), NIB_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.bytes, y.bytes, x.size);
    mapfile_close(&x);
    mapfile_close(&y);
}

static const char *tensors_of(const char *directory) {
    static char paths[4][512];
    static int turn;
    char *p = paths[turn++ % 4];
    snprintf(p, 512, "%s/model.safetensors", directory);
    return p;
}

static const family families[] = {FAMILY_LLAMA, FAMILY_QWEN3, FAMILY_GEMMA3};

/* Container changes keep every value: Llama's rows, Gemma's norms, names, tied and untied heads. */
static void test_containers(void **state) {
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        char a[32], b[32], c[32];
        snprintf(a, sizeof a, "hf%zu", i);
        snprintf(b, sizeof b, "b%zu.gguf", i);
        snprintf(c, sizeof c, "back%zu", i);
        const char *hf = tiny_model(a, families[i / 2], i & 1, 0);
        convert_options bf16 = {.format = QF_BF16, .out = OUT_GGUF};
        const char *gguf = make(hf, b, bf16, NULL);
        assert_same_values(hf, gguf);
        bf16.out = OUT_MODELOPT;
        const char *back = make(gguf, c, bf16, NULL);
        assert_same_values(hf, back);
    }
}

/* ModelOpt, compressed-tensors and GGUF hold the same values, and going round gives the same file. */
static void test_round_trips(void **state) {
    (void)state;
    static const quant_method methods[] = {QM_SWEEP, QM_FOUR_OVER_SIX, QM_RTN};
    for (size_t i = 0; i < 9; i++) {
        char name[6][32];
        for (int k = 0; k < 6; k++)
            snprintf(name[k], sizeof name[k], "r%zu-%d%s", i, k, k == 2 ? ".gguf" : "");
        quant_method m = methods[i % 3];
        const char *hf = tiny_model(name[5], families[i / 3], i & 1, 0);
        const char *modelopt = make(hf, name[0], (convert_options){.method = m}, NULL);
        convert_report report;
        const char *gguf = make(modelopt, name[2], (convert_options){.method = m, .out = OUT_GGUF}, &report);
        assert_int_equal(report.n_quantized, 0);
        assert_int_equal(report.n_repacked, 7 * TINY_LAYERS);
        assert_same_values(modelopt, gguf);
        assert_same_values(modelopt, make(gguf, name[3], (convert_options){.method = m}, NULL));
        const char *ct = make(gguf, name[1], (convert_options){.out = OUT_COMPRESSED_TENSORS}, &report);
        if (report.n_scales_rounded == 0) {
            assert_same_values(modelopt, ct);
            assert_same_file(tensors_of(modelopt),
                             tensors_of(make(ct, name[4], (convert_options){.method = m}, NULL)));
        }
        assert_true(m != QM_SWEEP || report.n_scales_rounded == 0);
    }
}

/* A file quantized in one container equals one quantized in another. */
static void test_same_everywhere(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    convert_options o = {.method = QM_SWEEP};
    const char *modelopt = make(hf, "mo", o, NULL);
    o.out = OUT_GGUF;
    assert_same_values(modelopt, make(hf, "g.gguf", o, NULL));
    o.out = OUT_COMPRESSED_TENSORS;
    assert_same_values(modelopt, make(hf, "ct", o, NULL));
    o.threads = 1;
    o.out = OUT_MODELOPT;
    assert_same_file(tensors_of(modelopt), tensors_of(make(hf, "one", o, NULL)));
    o.threads = 3;
    assert_same_file(tensors_of(modelopt), tensors_of(make(hf, "three", o, NULL)));
}

static void test_formats(void **state) {
    (void)state;
    static const struct {
        convert_options o;
        dtype to;
        double low, high; /* relative error */
    } rows[] = {
        {{.format = QF_NVFP4, .method = QM_RTN}, DT_NVFP4, 0.08, 0.11},
        {{.format = QF_NVFP4, .method = QM_SWEEP}, DT_NVFP4, 0.07, 0.09},
        {{.format = QF_NVFP4, .method = QM_FOUR_OVER_SIX}, DT_NVFP4, 0.075, 0.10},
        {{.format = QF_MXFP4, .method = QM_RTN}, DT_MXFP4, 0.09, 0.13},
        {{.format = QF_MXFP4, .method = QM_SWEEP}, DT_MXFP4, 0.09, 0.13},
        {{.format = QF_FP8}, DT_F8_E4M3, 0.02, 0.04},
        {{.format = QF_BF16}, DT_BF16, 0, 0},
        {{.format = QF_MXFP4, .method = QM_SWEEP, .out = OUT_GGUF}, DT_GGUF_MXFP4, 0.09, 0.13},
        {{.format = QF_FP8, .out = OUT_COMPRESSED_TENSORS}, DT_F8_E4M3, 0.02, 0.04},
        {{.format = QF_MXFP4, .out = OUT_COMPRESSED_TENSORS}, DT_MXFP4, 0.09, 0.13},
    };
    const char *hf = tiny_model("hf", FAMILY_QWEN3, false, 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "f%zu%s", i, rows[i].o.out == OUT_GGUF ? ".gguf" : "");
        convert_report report;
        const char *out = make(hf, name, rows[i].o, &report);
        model_file *f = open_model(out);
        assert_true(f->has_network);
        assert_int_equal(model_file_find(f, place_of(SLOT_DOWN, 1))->dtype, rows[i].to);
        model_file_close(f);
        double error = relative_error(hf, out, SLOT_DOWN, 1);
        assert_true(error >= rows[i].low && error <= rows[i].high);
        double reported = 0;
        for (int g = 0; g < report.n_groups; g++)
            if (report.groups[g].slot == SLOT_V) {
                reported = report.groups[g].relative_error;
                assert_int_equal(report.groups[g].n_tensors, TINY_LAYERS);
            }
        double a = relative_error(hf, out, SLOT_V, 0), b = relative_error(hf, out, SLOT_V, 1);
        assert_true(reported >= fmin(a, b) - 1e-6 && reported <= fmax(a, b) + 1e-6);
        assert_true(relative_error(hf, out, SLOT_EMBED, -1) == 0);
    }
}

static void test_shared_scales(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_GEMMA3, true, 0);
    model_file *f = open_model(make(hf, "mo", (convert_options){.method = QM_SWEEP}, NULL));
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        float q = model_file_find(f, place_of(SLOT_Q, layer))->tensor_scale;
        assert_true(model_file_find(f, place_of(SLOT_K, layer))->tensor_scale == q);
        assert_true(model_file_find(f, place_of(SLOT_V, layer))->tensor_scale == q);
        assert_true(model_file_find(f, place_of(SLOT_O, layer))->tensor_scale != q);
        assert_true(model_file_find(f, place_of(SLOT_GATE, layer))->tensor_scale ==
                    model_file_find(f, place_of(SLOT_UP, layer))->tensor_scale);
    }
    model_file_close(f);
}

static void test_head(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        char name[4][16];
        for (int i = 0; i < 4; i++)
            snprintf(name[i], sizeof name[i], "h%d%d%s", tied, i, i == 2 ? ".gguf" : "");
        const char *hf = tiny_model(name[3], FAMILY_LLAMA, tied, 0);
        convert_options o = {.method = QM_SWEEP, .head = HEAD_NVFP4};
        static const dtype expected[] = {DT_NVFP4, DT_F8_E4M3, DT_GGUF_NVFP4};
        for (int i = 0; i < 3; i++) {
            o.head = i == 1 ? HEAD_FP8 : HEAD_NVFP4;
            o.out = i == 2 ? OUT_GGUF : OUT_MODELOPT;
            model_file *f = open_model(make(hf, name[i], o, NULL));
            bool both = tied && i == 2; /* one tensor stays embedding and head */
            assert_true(f->has_network);
            assert_int_equal(f->hp.tied, both);
            assert_int_equal(
                model_file_find(f, place_of(both ? SLOT_EMBED : SLOT_HEAD, PLACE_NO_LAYER))->dtype,
                expected[i]);
            if (!both)
                assert_int_equal(model_file_find(f, place_of(SLOT_EMBED, PLACE_NO_LAYER))->dtype, DT_BF16);
            model_file_close(f);
        }
    }
}

static bool holds_text(const char *path, const char *text) {
    mapfile m;
    assert_int_equal(mapfile_open(&m, path, &err), NIB_OK);
    bool found = memmem(m.bytes, m.size, text, strlen(text)) != NULL;
    mapfile_close(&m);
    return found;
}

/* A tied embedding quantized in a GGUF file: no head and no scale beside it (llama.cpp reads neither), by
 * each method, with the head's importance; a directory made from it keeps the values. */
static void test_tied_head(void **state) {
    (void)state;
    static const quant_method methods[] = {QM_RTN, QM_SWEEP, QM_FOUR_OVER_SIX, QM_WEIGHTED};
    const char *hf = tiny_model("hf", FAMILY_GEMMA3, true, 0);
    float heed[TINY_DIM], *all[TINY_LAYERS * SLOT_COUNT] = {[SLOT_EMBED] = heed};
    importance weights = {.mean_squares = all, .n_layers = TINY_LAYERS};
    for (int i = 0; i < TINY_DIM; i++)
        heed[i] = i % 16 == 3 ? 100.0f : 0.01f;
    double errors[4];
    for (int i = 0; i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d.gguf", i);
        convert_options o = {
            .method = methods[i], .head = HEAD_NVFP4, .out = OUT_GGUF, .importance = &weights};
        convert_report r;
        const char *out = make(hf, name, o, &r);
        model_file *f = open_model(out);
        assert_true(r.tied_is_quantized && !r.head_is_untied);
        assert_true(f->hp.tied && holds_text(out, "token_embd.weight"));
        assert_false(holds_text(out, "token_embd.scale"));
        assert_true(model_file_find(f, place_of(SLOT_EMBED, PLACE_NO_LAYER))->tensor_scale == 1);
        model_file_close(f);
        errors[i] = relative_error(hf, out, SLOT_EMBED, -1);
        assert_true(errors[i] > 0.05 && errors[i] < 0.2);
        for (int g = 0; g < r.n_groups; g++)
            if (r.groups[g].slot == SLOT_EMBED) {
                assert_int_equal(r.groups[g].to, DT_GGUF_NVFP4);
                assert_true(fabs(r.groups[g].relative_error - errors[i]) < 1e-6);
                assert_true(i < 3 ||
                            (r.groups[g].weighted_error > 0 && r.groups[g].weighted_error < 0.7 * errors[i]));
            }
    }
    assert_true(errors[1] < errors[0] && errors[1] < errors[2] && errors[3] > errors[1]);
    assert_same_values(tiny_path("t1.gguf"), make(tiny_path("t1.gguf"), "back", (convert_options){0}, NULL));
    static const char *const globs[] = {"token_embd"};
    convert_options o = {.head = HEAD_NVFP4, .out = OUT_GGUF, .keep = globs, .n_keep = 1};
    convert_report r;
    assert_true(relative_error(hf, make(hf, "kept.gguf", o, &r), SLOT_EMBED, -1) == 0);
    assert_false(r.tied_is_quantized);
    o = (convert_options){.head = HEAD_NVFP4};
    make(hf, "apart", o, &r);
    assert_true(r.head_is_untied && !r.tied_is_quantized);
}

/* llama.cpp computes Gemma 3's gate and up without the scales beside them: they get 1 in a GGUF file, unless
 * they come quantized; then the report counts them. */
static void test_unread_scales(void **state) {
    (void)state;
    for (int i = 1; i < 3; i++) {
        bool gemma = families[i] == FAMILY_GEMMA3;
        char name[3][16];
        for (int k = 0; k < 3; k++)
            snprintf(name[k], sizeof name[k], "u%d%d%s", i, k, k == 2 ? ".gguf" : "");
        const char *hf = tiny_model(name[0], families[i], true, 0);
        convert_options o = {.method = QM_SWEEP, .out = OUT_GGUF};
        convert_report r;
        model_file *f = open_model(make(hf, name[2], o, &r));
        for (int layer = 0; layer < TINY_LAYERS; layer++) {
            assert_int_equal(model_file_find(f, place_of(SLOT_GATE, layer))->tensor_scale == 1, gemma);
            assert_int_equal(model_file_find(f, place_of(SLOT_UP, layer))->tensor_scale == 1, gemma);
            assert_true(model_file_find(f, place_of(SLOT_DOWN, layer))->tensor_scale < 1);
            assert_true(model_file_find(f, place_of(SLOT_Q, layer))->tensor_scale < 1);
        }
        model_file_close(f);
        assert_int_equal(r.n_scales_unread, 0);
        o.out = OUT_MODELOPT;
        const char *dir = make(hf, name[1], o, &r);
        o.out = OUT_GGUF;
        make(dir, name[2], o, &r);
        assert_int_equal(r.n_scales_unread, gemma ? 2 * TINY_LAYERS : 0);
        assert_same_values(dir, tiny_path(name[2]));
    }
}

static void test_keep(void **state) {
    (void)state;
    static const char *const globs[] = {"model.layers.0.*", "blk.*.ffn_down"};
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    convert_options o = {.method = QM_RTN, .out = OUT_GGUF, .keep = globs, .n_keep = 2};
    model_file *f = open_model(make(hf, "k.gguf", o, NULL));
    assert_int_equal(model_file_find(f, place_of(SLOT_Q, 0))->dtype, DT_BF16);
    assert_int_equal(model_file_find(f, place_of(SLOT_Q, 1))->dtype, DT_GGUF_NVFP4);
    assert_int_equal(model_file_find(f, place_of(SLOT_DOWN, 1))->dtype, DT_BF16);
    model_file_close(f);
    o.out = OUT_MODELOPT; /* where no name is like the second glob */
    assert_int_equal(try_convert(hf, tiny_path("k"), o, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "no tensor has a name like \"blk.*.ffn_down\""));
    o.n_keep = 1;
    const char *out = make(hf, "k", o, NULL);
    json_t *root;
    mapfile m;
    char path[512];
    snprintf(path, sizeof path, "%s/hf_quant_config.json", out);
    assert_int_equal(mapfile_open(&m, path, &err), NIB_OK);
    assert_int_equal(json_read(&root, m.bytes, m.size, path, &err), NIB_OK);
    const json_t *list = json_object_get(json_object_get(root, "quantization"), "exclude_modules");
    assert_int_equal(json_array_size(list), 8); /* 7 of layer 0, lm_head */
    json_decref(root);
    mapfile_close(&m);
}

/* What other engines join and a glob tears apart is counted. */
static void test_split(void **state) {
    (void)state;
    static const char *const globs[] = {"*.self_attn.k_proj", "model.layers.0.mlp.*"};
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    convert_options o = {.method = QM_RTN, .keep = globs, .n_keep = 2};
    convert_report r;
    make(hf, "torn", o, &r);
    assert_int_equal(r.n_split, TINY_LAYERS); /* q, k and v of each; gate and up are kept together */
    o.keep = globs + 1;
    o.n_keep = 1;
    make(hf, "whole", o, &r);
    assert_int_equal(r.n_split, 0);
}

/* Input scales and quantized layers of a source pass through; another format quantizes them anew. */
static void test_requantize(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    const char *nv = make(hf, "nv", (convert_options){.method = QM_SWEEP}, NULL);
    convert_report report;
    const char *mx = make(nv, "mx", (convert_options){.format = QF_MXFP4, .method = QM_SWEEP}, &report);
    assert_int_equal(report.n_quantized, 7 * TINY_LAYERS);
    assert_true(relative_error(nv, mx, SLOT_Q, 0) > 0.05);
    const char *wide = make(nv, "wide", (convert_options){.format = QF_BF16}, NULL);
    assert_true(relative_error(nv, wide, SLOT_Q, 0) < 0.004);
    assert_same_values(mx, make(mx, "mx.gguf", (convert_options){.format = QF_MXFP4, .out = OUT_GGUF}, NULL));
}

/* MXFP4 to NVFP4 loses nothing, whatever the method and the container. */
static void test_mxfp4_cast(void **state) {
    (void)state;
    static const quant_method methods[] = {QM_RTN, QM_SWEEP, QM_FOUR_OVER_SIX};
    for (size_t i = 0; i < 3; i++) {
        char name[5][32];
        for (int k = 0; k < 5; k++)
            snprintf(name[k], sizeof name[k], "x%zu-%d%s", i, k, k == 3 ? ".gguf" : "");
        const char *hf = tiny_model(name[0], families[i], true, 0);
        const char *mx = make(hf, name[1], (convert_options){.format = QF_MXFP4}, NULL);
        convert_report report;
        convert_options o = {.method = methods[i]};
        assert_same_values(mx, make(mx, name[2], o, &report));
        assert_int_equal(report.n_quantized, 7 * TINY_LAYERS);
        assert_int_equal(report.n_cast, 7 * TINY_LAYERS);
        assert_int_equal(report.n_cast_changed, 0);
        for (int g = 0; g < report.n_groups; g++)
            assert_true(report.groups[g].relative_error == 0);
        o.out = OUT_GGUF;
        assert_same_values(mx, make(mx, name[3], o, NULL));
        model_file *f = open_model(tiny_path(name[3]));
        for (int layer = 0; layer < TINY_LAYERS && families[i] == FAMILY_GEMMA3; layer++) {
            assert_true(model_file_find(f, place_of(SLOT_GATE, layer))->tensor_scale ==
                        1); /* others go unread */
            assert_true(model_file_find(f, place_of(SLOT_UP, layer))->tensor_scale == 1);
        }
        model_file_close(f);
        o.out = OUT_COMPRESSED_TENSORS;
        assert_same_values(mx, make(mx, name[4], o, NULL));
    }
}

/* An MXFP4 embedding that is the head: a GGUF file has no place for its scale, so it is 1. The cast is exact
 * where E4M3 holds the blocks' powers of two (2^-9 to 2^8), else as near as it comes. */
static void test_mxfp4_cast_of_tied_head(void **state) {
    (void)state;
    static uint8_t codes[TINY_VOCAB * TINY_DIM / 2], scales[TINY_VOCAB * TINY_DIM / 32];
    float before[TINY_DIM], after[TINY_DIM];
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] = (uint8_t)(golden_word(5, i) & 0xff);
    for (int far = 0; far < 2; far++) {
        const char *path = tiny_path(far ? "far.gguf" : "near.gguf");
        for (size_t i = 0; i < sizeof scales; i++) /* the first row is beyond what E4M3 has */
            scales[i] = (uint8_t)(far && i < TINY_DIM / 32 ? 127 - 20 : 127 - 9 + i % 12);
        model_file *f = open_model(hf);
        tensor *t = (tensor *)model_file_find(f, place_of(SLOT_EMBED, PLACE_NO_LAYER));
        *t = (tensor){.name = t->name,
                      .place = t->place,
                      .dtype = DT_MXFP4,
                      .n_dims = 2,
                      .dims = {TINY_VOCAB, TINY_DIM / 2},
                      .rows = TINY_VOCAB,
                      .cols = TINY_DIM,
                      .data = codes,
                      .bytes = sizeof codes,
                      .block_scales = scales,
                      .tensor_scale = 1};
        convert_options o = {.method = QM_SWEEP, .head = HEAD_NVFP4, .out = OUT_GGUF};
        convert_report report;
        if (convert(f, path, &o, &report, &err) != NIB_OK)
            fail_msg("%s", err.text);
        model_file *out = open_model(path);
        const tensor *made = model_file_find(out, place_of(SLOT_EMBED, PLACE_NO_LAYER));
        assert_int_equal(made->dtype, DT_GGUF_NVFP4);
        assert_true(made->tensor_scale == 1);
        uint64_t n_changed = 0;
        for (size_t r = 0; r < TINY_VOCAB; r++) {
            tensor_decode_row(t, r, before);
            tensor_decode_row(made, r, after);
            for (size_t c = 0; c < TINY_DIM; c++) {
                assert_true(before[c] == after[c] || (far && r == 0));
                n_changed += before[c] != after[c];
            }
        }
        assert_true(far ? n_changed > 0 : n_changed == 0);
        assert_int_equal(report.n_cast, 1);
        assert_int_equal(report.n_cast_changed, n_changed);
        model_file_close(out);
        model_file_close(f);
    }
}

/* The output projection of layer 0, of the MXFP4 model at PATH with its codes or its block scales replaced
 * where they are given, is after a cast to NVFP4 what it was before. */
static void check_cast(const char *path, const char *name, const uint8_t *codes, const uint8_t *scales) {
    static const out_kind kinds[] = {OUT_MODELOPT, OUT_COMPRESSED_TENSORS};
    float before[TINY_FFN], after[TINY_FFN];
    for (size_t k = 0; k < 2; k++) {
        char file[32];
        snprintf(file, sizeof file, "%s%zu", name, k);
        model_file *f = open_model(path);
        tensor *t = (tensor *)model_file_find(f, place_of(SLOT_O, 0));
        convert_report report;
        t->data = codes ? codes : t->data;
        t->block_scales = scales ? scales : t->block_scales;
        convert_options o = {.method = QM_SWEEP, .out = kinds[k]};
        if (convert(f, tiny_path(file), &o, &report, &err) != NIB_OK)
            fail_msg("%s", err.text);
        model_file *out = open_model(tiny_path(file));
        for (size_t r = 0; r < t->rows; r++) {
            tensor_decode_row(t, r, before);
            tensor_decode_row(model_file_find(out, place_of(SLOT_O, 0)), r, after);
            for (size_t c = 0; c < t->cols; c++)
                if (!(before[c] == after[c]))
                    fail_msg("row %zu, column %zu: %a and %a", r, c, (double)before[c], (double)after[c]);
        }
        model_file_close(out);
        model_file_close(f);
    }
}

/* E4M3 holds 18 powers of two: all of them are used when the blocks' scales lie as far apart. A tensor of
 * zeros has no largest block. */
static void test_mxfp4_cast_far_apart(void **state) {
    (void)state;
    static uint8_t scales[TINY_DIM * TINY_DIM / 32], zeros[TINY_DIM * TINY_DIM / 2];
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    const char *mx = make(hf, "mx", (convert_options){.format = QF_MXFP4}, NULL);
    for (size_t i = 0; i < sizeof scales; i++)
        scales[i] = (uint8_t)(120 - i % 18);
    check_cast(mx, "wide", NULL, scales);
    check_cast(mx, "zero", zeros, NULL);
    memset(scales, 0, sizeof scales); /* 2^-127, below what FP32 holds in full */
    check_cast(mx, "small", zeros, scales);
}

/* FP8 E5M2 under a scale, of a layer that is kept: its values stay, as floats. */
static void test_e5m2_is_kept(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    static const uint8_t codes[TINY_DIM * TINY_FFN] = {0x3c, 0xbd, 0x41, 0x01};
    static const float scale = 0.3f;
    char path[512], out_path[512];
    safetensors_write *w;
    model_file *f = open_model(hf);
    snprintf(out_path, sizeof out_path, "%s/other", hf);
    assert_int_equal(safetensors_write_open(&w, out_path, &err), NIB_OK);
    safetensors_write_tensor(w, "model.layers.0.mlp.down_proj.weight_scale", DT_F32, 0, NULL);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        bool down = t->place.slot == SLOT_DOWN && t->place.layer == 0;
        safetensors_write_tensor(w, t->name, down ? DT_F8_E5M2 : t->dtype, t->n_dims, t->dims);
    }
    assert_int_equal(safetensors_write_begin(w, &err), NIB_OK);
    assert_int_equal(safetensors_write_data(w, &scale, sizeof scale, &err), NIB_OK);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        bool down = t->place.slot == SLOT_DOWN && t->place.layer == 0;
        assert_int_equal(
            safetensors_write_data(w, down ? codes : t->data, down ? sizeof codes : t->bytes, &err), NIB_OK);
    }
    assert_int_equal(safetensors_write_commit(w, NULL, &err), NIB_OK);
    model_file_close(f);
    snprintf(path, sizeof path, "%s/model.safetensors", hf);
    assert_int_equal(rename(out_path, path), 0);
    static const char *const globs[] = {"*.down_proj"};
    for (int ct = 0; ct < 2; ct++) {
        convert_options o = {.keep = globs, .n_keep = 1, .out = ct ? OUT_COMPRESSED_TENSORS : OUT_MODELOPT};
        convert_report r;
        const char *out = make(hf, ct ? "ct" : "mo", o, &r);
        assert_int_equal(r.n_widened, 1);
        assert_true(relative_error(hf, out, SLOT_DOWN, 0) == 0);
        f = open_model(out);
        assert_true(f->has_network);
        assert_int_equal(model_file_find(f, place_of(SLOT_DOWN, 0))->dtype, DT_F32);
        model_file_close(f);
    }
}

static void test_weighted(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    static float heed[TINY_FFN];
    float *all[TINY_LAYERS * SLOT_COUNT] = {NULL};
    for (int i = 0; i < TINY_FFN; i++)
        heed[i] = i % 16 == 3 ? 100.0f : 0.01f;
    for (int layer = 0; layer < TINY_LAYERS; layer++)
        for (int s = SLOT_Q; s <= SLOT_DOWN; s++)
            if (s != SLOT_V) /* one without a calibration is swept */
                all[layer * SLOT_COUNT + s] = heed;
    importance weights = {.mean_squares = all, .n_layers = TINY_LAYERS};
    convert_report sweep, weighted;
    make(hf, "s", (convert_options){.method = QM_SWEEP, .importance = &weights}, &sweep);
    make(hf, "w", (convert_options){.method = QM_WEIGHTED, .importance = &weights}, &weighted);
    for (int g = 0; g < weighted.n_groups; g++) {
        const convert_group *w = &weighted.groups[g], *s = &sweep.groups[g];
        assert_int_equal(w->slot, s->slot);
        if (w->slot == SLOT_V) {
            assert_true(w->relative_error == s->relative_error && w->weighted_error == 0);
        } else if (w->relative_error > 0) {
            assert_true(w->relative_error > s->relative_error);
            assert_true(w->weighted_error > 0 && w->weighted_error < 0.7 * w->relative_error);
        }
    }
}

static void test_report(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, false, 0);
    convert_report r;
    const char *out = make(hf, "o", (convert_options){.method = QM_SWEEP}, &r);
    struct stat st;
    assert_int_equal(stat(tensors_of(out), &st), 0);
    assert_int_equal(r.bytes_after, st.st_size);
    uint64_t elements = 0, bytes = 0;
    for (int g = 0; g < r.n_groups; g++) {
        elements += r.groups[g].elements;
        bytes += r.groups[g].bytes_after;
        assert_int_equal(r.groups[g].from, DT_BF16);
        assert_true((r.groups[g].to == DT_NVFP4) == (r.groups[g].relative_error > 0));
    }
    assert_true(bytes < r.bytes_after && bytes + 10000 > r.bytes_after);
    assert_true(fabs(r.bits_per_weight_all - 8.0 * (double)bytes / (double)elements) < 1e-9);
    assert_true(fabs(r.bits_per_weight_linear - 4.5) < 0.02);
    assert_int_equal(r.n_quantized, 7 * TINY_LAYERS);
    assert_int_equal(r.n_misfits + r.n_skipped + r.n_repacked + r.n_scales_rounded, 0);
    assert_int_equal(r.n_widened + r.n_scales_unread, 0);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, tiny_setup, tiny_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_containers),
        TEST(test_round_trips),
        TEST(test_same_everywhere),
        TEST(test_formats),
        TEST(test_shared_scales),
        TEST(test_head),
        TEST(test_tied_head),
        TEST(test_unread_scales),
        TEST(test_keep),
        TEST(test_split),
        TEST(test_requantize),
        TEST(test_mxfp4_cast),
        TEST(test_mxfp4_cast_far_apart),
        TEST(test_mxfp4_cast_of_tied_head),
        TEST(test_e5m2_is_kept),
        TEST(test_weighted),
        TEST(test_report),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
