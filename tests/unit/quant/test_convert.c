/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversion of whole models: every direction keeps what it must keep, options do what they say, and nothing
 * half-written is ever seen under the final name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "quant/convert.h"
#include "tiny_model.h"

static nib_error err;

static model_file *open_model(const char *path) {
    model_file *f;
    if (model_file_open(&f, path, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return f;
}

static nib_status try_convert(const char *in, const char *out, convert_options o, convert_report *report) {
    model_file *f = open_model(in);
    convert_report r;
    nib_status status = convert(f, out, &o, report ? report : &r, &err);
    model_file_close(f);
    return status;
}

static const char *make(const char *in, const char *name, convert_options o, convert_report *report) {
    const char *out = tiny_path(name);
    if (try_convert(in, out, o, report) != NIB_OK)
        fail_msg("%s", err.text);
    return out;
}

static int count_entries(void) {
    int n = 0;
    DIR *dir = opendir(tiny_root);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

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

/* ---- comparing models, whatever their containers ---- */

/* Row of Hugging Face's order that is row R of F's file. */
static size_t hf_row(const model_file *f, slot s, size_t r) {
    if (!f->hp.rope_interleaved || (s != SLOT_Q && s != SLOT_K))
        return r;
    size_t d = (size_t)f->hp.head_dim, i = r % d;
    return r - i + (i & 1) * d / 2 + i / 2;
}

static void decode_all(const model_file *f, const tensor *t, float *out) {
    float row[512];
    for (size_t r = 0; r < t->rows; r++) {
        tensor_decode_row(t, r, row);
        for (size_t c = 0; c < t->cols; c++)
            out[hf_row(f, t->slot, r) * t->cols + c] =
                t->rows == 1 && f->hp.norm_plus_one ? 1 + row[c] : row[c];
    }
}

/* All values equal, tensor by tensor. */
static void assert_same_values(const char *path_a, const char *path_b) {
    static float x[TINY_FFN * TINY_FFN], y[TINY_FFN * TINY_FFN];
    model_file *a = open_model(path_a), *b = open_model(path_b);
    assert_true(a->has_network && b->has_network);
    int n = 0;
    for (int layer = -1; layer < TINY_LAYERS; layer++)
        for (int s = 1; s < SLOT_COUNT; s++) {
            const tensor *p = model_file_find(a, (slot)s, layer), *q = model_file_find(b, (slot)s, layer);
            assert_int_equal(p != NULL, q != NULL);
            if (!p)
                continue;
            assert_int_equal(p->rows, q->rows);
            assert_int_equal(p->cols, q->cols);
            decode_all(a, p, x);
            decode_all(b, q, y);
            for (size_t i = 0; i < p->rows * p->cols; i++)
                if (!(x[i] == y[i]))
                    fail_msg("%s of layer %d, element %zu: %a and %a", slot_name((slot)s), layer, i,
                             (double)x[i], (double)y[i]);
            n++;
        }
    assert_true(n >= 2 + 9 * TINY_LAYERS);
    model_file_close(a);
    model_file_close(b);
}

static double relative_error(const char *path_a, const char *path_b, slot s, int layer) {
    static float x[TINY_FFN * TINY_FFN], y[TINY_FFN * TINY_FFN];
    model_file *a = open_model(path_a), *b = open_model(path_b);
    const tensor *p = model_file_find(a, s, layer), *q = model_file_find(b, s, layer);
    assert_non_null(p);
    assert_non_null(q);
    double error = 0, norm = 0;
    decode_all(a, p, x);
    decode_all(b, q, y);
    for (size_t i = 0; i < p->rows * p->cols; i++) {
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)x[i] * x[i];
    }
    model_file_close(a);
    model_file_close(b);
    return sqrt(error / norm);
}

/* ---- tests ---- */

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
        assert_int_equal(model_file_find(f, SLOT_DOWN, 1)->dtype, rows[i].to);
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
        float q = model_file_find(f, SLOT_Q, layer)->tensor_scale;
        assert_true(model_file_find(f, SLOT_K, layer)->tensor_scale == q);
        assert_true(model_file_find(f, SLOT_V, layer)->tensor_scale == q);
        assert_true(model_file_find(f, SLOT_O, layer)->tensor_scale != q);
        assert_true(model_file_find(f, SLOT_GATE, layer)->tensor_scale ==
                    model_file_find(f, SLOT_UP, layer)->tensor_scale);
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
            assert_int_equal(model_file_find(f, both ? SLOT_EMBED : SLOT_HEAD, -1)->dtype, expected[i]);
            if (!both)
                assert_int_equal(model_file_find(f, SLOT_EMBED, -1)->dtype, DT_BF16);
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
    importance weights = {all, TINY_LAYERS};
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
        assert_true(model_file_find(f, SLOT_EMBED, -1)->tensor_scale == 1);
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
            assert_int_equal(model_file_find(f, SLOT_GATE, layer)->tensor_scale == 1, gemma);
            assert_int_equal(model_file_find(f, SLOT_UP, layer)->tensor_scale == 1, gemma);
            assert_true(model_file_find(f, SLOT_DOWN, layer)->tensor_scale < 1);
            assert_true(model_file_find(f, SLOT_Q, layer)->tensor_scale < 1);
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
    assert_int_equal(model_file_find(f, SLOT_Q, 0)->dtype, DT_BF16);
    assert_int_equal(model_file_find(f, SLOT_Q, 1)->dtype, DT_GGUF_NVFP4);
    assert_int_equal(model_file_find(f, SLOT_DOWN, 1)->dtype, DT_BF16);
    model_file_close(f);
    o.out = OUT_MODELOPT;
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
        for (int g = 0; g < report.n_groups; g++)
            assert_true(report.groups[g].relative_error == 0);
        o.out = OUT_GGUF;
        assert_same_values(mx, make(mx, name[3], o, NULL));
        o.out = OUT_COMPRESSED_TENSORS;
        assert_same_values(mx, make(mx, name[4], o, NULL));
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
        tensor *t = (tensor *)model_file_find(f, SLOT_O, 0);
        convert_report report;
        t->data = codes ? codes : t->data;
        t->block_scales = scales ? scales : t->block_scales;
        convert_options o = {.method = QM_SWEEP, .out = kinds[k]};
        if (convert(f, tiny_path(file), &o, &report, &err) != NIB_OK)
            fail_msg("%s", err.text);
        model_file *out = open_model(tiny_path(file));
        for (size_t r = 0; r < t->rows; r++) {
            tensor_decode_row(t, r, before);
            tensor_decode_row(model_file_find(out, SLOT_O, 0), r, after);
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

static void test_refusals(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    const char *out = tiny_path("out");
    assert_int_equal(
        try_convert(hf, tiny_path("x.gguf"), (convert_options){.format = QF_FP8, .out = OUT_GGUF}, NULL),
        NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(hf, out, (convert_options){.method = QM_WEIGHTED}, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(
        try_convert(hf, out, (convert_options){.format = QF_MXFP4, .method = QM_FOUR_OVER_SIX}, NULL),
        NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(hf, hf, (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "is the source"));
    assert_int_equal(mkdir(tiny_path("mine"), 0777), 0);
    tiny_text(tiny_path("mine"), "letter", "dear");
    assert_int_equal(try_convert(hf, tiny_path("mine"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    const char *nan = tiny_model("nan", FAMILY_LLAMA, true, 0x7fc0);
    assert_int_equal(try_convert(nan, out, (convert_options){0}, NULL), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "model.layers.1.mlp.up_proj.weight holds a NaN"));
    assert_int_equal(count_entries(), 3); /* hf, mine, nan */
}

/* ---- words ---- */

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

/* ---- what a config cannot say ---- */

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
    f->hp.rope_scaling = ROPE_LINEAR;
    f->hp.rope_factor = 2;
    assert_int_equal(convert(f, tiny_path("two"), &(convert_options){0}, &r, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "rope_freqs.weight too"));
    assert_int_equal(access(tiny_path("two"), F_OK), -1);
    model_file_close(f);
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
        bool down = t->slot == SLOT_DOWN && t->layer == 0;
        safetensors_write_tensor(w, t->name, down ? DT_F8_E5M2 : t->dtype, t->n_dims, t->dims);
    }
    assert_int_equal(safetensors_write_begin(w, &err), NIB_OK);
    assert_int_equal(safetensors_write_data(w, &scale, sizeof scale, &err), NIB_OK);
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        bool down = t->slot == SLOT_DOWN && t->layer == 0;
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
        assert_int_equal(model_file_find(f, SLOT_DOWN, 0)->dtype, DT_F32);
        model_file_close(f);
    }
}

/* What is read is never replaced, nor is what nibble did not write. */
static void test_nothing_of_the_user_goes(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    assert_int_equal(mkdir(tiny_path("d"), 0777), 0);
    const char *gguf = make(hf, "d/model.gguf", (convert_options){.format = QF_BF16, .out = OUT_GGUF}, NULL);
    tiny_text(tiny_path("d"), "config.json", "{}");
    assert_int_equal(try_convert(gguf, tiny_path("d"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds the source"));
    assert_int_equal(try_convert(gguf, tiny_path("d/"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(gguf, tiny_root, (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(symlink(gguf, tiny_path("link.gguf")), 0);
    assert_int_equal(try_convert(tiny_path("link.gguf"), tiny_path("d"), (convert_options){0}, NULL),
                     NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds the source"));
    assert_int_equal(try_convert(hf, tiny_path("d"), (convert_options){0}, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "holds \"model.gguf\", which nibble does not write"));
    convert_options o = {.out = OUT_GGUF};
    assert_int_equal(try_convert(hf, tiny_path("hf/model.safetensors"), o, NULL), NIB_BAD_ARGUMENT);
    assert_int_equal(try_convert(hf, tiny_path("hf/tokenizer.json"), o, NULL), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "is the source"));

    const char *out = make(hf, "out", (convert_options){0}, NULL); /* the text of a calibration */
    char text[512];
    snprintf(text, sizeof text, "%s/LICENSE", out);
    tiny_text(out, "LICENSE", "text");
    o = (convert_options){.also_read = text};
    assert_int_equal(try_convert(hf, out, o, NULL), NIB_BAD_ARGUMENT);
    o.out = OUT_GGUF;
    assert_int_equal(try_convert(hf, text, o, NULL), NIB_BAD_ARGUMENT);
    make(hf, "out", (convert_options){0}, NULL); /* all of it is nibble's */
}

static void test_interrupted(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    volatile sig_atomic_t stop = 1;
    assert_int_equal(try_convert(hf, tiny_path("o"), (convert_options){.interrupted = &stop}, NULL),
                     NIB_CANCELLED);
    assert_int_equal(
        try_convert(hf, tiny_path("o.gguf"), (convert_options){.interrupted = &stop, .out = OUT_GGUF}, NULL),
        NIB_CANCELLED);
    assert_int_equal(count_entries(), 1);
}

static void kill_me(void *context, const char *what, uint64_t done, uint64_t total) {
    (void)context;
    (void)what;
    if (done > total * 8 / 10) /* while the tensors are written */
        kill(getpid(), SIGKILL);
}

/* Nothing under the final name after a kill; what the dead left goes with the next run. */
static void test_killed(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    for (int gguf = 0; gguf < 2; gguf++) {
        const char *out = tiny_path(gguf ? "o.gguf" : "o");
        convert_options o = {
            .threads = 1, .out = gguf ? OUT_GGUF : OUT_MODELOPT, .progress = {kill_me, NULL}};
        pid_t child = fork();
        if (child == 0) {
            model_file *f;
            convert_report r;
            if (model_file_open(&f, hf, NULL) == NIB_OK)
                convert(f, out, &o, &r, NULL);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(access(out, F_OK), -1);
        assert_int_equal(count_entries(), 2 + gguf); /* hf, what is left; the finished "o" */
        o.progress.report = NULL;
        assert_int_equal(try_convert(hf, out, o, NULL), NIB_OK);
        assert_int_equal(count_entries(), 2 + gguf);
    }
}

static void test_full_disk(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_LLAMA, true, 0);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 30000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    nib_status directory = try_convert(hf, tiny_path("o"), (convert_options){0}, NULL);
    nib_status file = try_convert(hf, tiny_path("o.gguf"), (convert_options){.out = OUT_GGUF}, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(directory, NIB_IO);
    assert_int_equal(file, NIB_IO);
    assert_non_null(strstr(err.text, "cannot be written"));
    assert_int_equal(count_entries(), 1);
}

static void check_failing_memory(const char *in, const char *out, convert_options o) {
    model_file *f = open_model(in);
    convert_report r;
    nib_status status = NIB_NO_MEMORY;
    long n = 0;
    for (; status != NIB_OK; n += n < 30 ? 1 : 11) {
        mem_fail_after(n);
        status = convert(f, out, &o, &r, &err);
        mem_fail_after(-1);
        if (status != NIB_OK && status != NIB_NO_MEMORY)
            fail_msg("allocation %ld: %s", n, err.text);
        if (status != NIB_OK)
            assert_int_equal(access(out, F_OK), -1);
        assert_true(n < 100000);
    }
    model_file_close(f);
}

static void test_failing_memory(void **state) {
    (void)state;
    const char *hf = tiny_model("hf", FAMILY_GEMMA3, true, 0);
    check_failing_memory(hf, tiny_path("mo"), (convert_options){.threads = 1});
    check_failing_memory(hf, tiny_path("ct"), (convert_options){.threads = 1, .out = OUT_COMPRESSED_TENSORS});
    check_failing_memory(hf, tiny_path("g.gguf"), (convert_options){.threads = 1, .out = OUT_GGUF});
    check_failing_memory(tiny_path("g.gguf"), tiny_path("back"), (convert_options){.threads = 1});
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
    importance weights = {all, TINY_LAYERS};
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
    assert_true(fabs(r.bits_per_weight_quantized - 4.5) < 0.02);
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
        TEST(test_requantize),
        TEST(test_mxfp4_cast),
        TEST(test_mxfp4_cast_far_apart),
        TEST(test_special_tokens),
        TEST(test_words_gguf_cannot_hold),
        TEST(test_llama3_words),
        TEST(test_two_rope_scalings),
        TEST(test_e5m2_is_kept),
        TEST(test_nothing_of_the_user_goes),
        TEST(test_refusals),
        TEST(test_interrupted),
        TEST(test_killed),
        TEST(test_full_disk),
        TEST(test_failing_memory),
        TEST(test_weighted),
        TEST(test_report),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
