/* SPDX-License-Identifier: Apache-2.0
 *
 * A network by halves gives the residual stream of the whole model, to the bit; and stand-ins are what it
 * computes with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../ops/plain_backend.h"
#include "golden_case.h"
#include "model/halves.h"
#include "model/network.h"

enum { CHUNK = 48 };
static const int32_t pages[] = {2, 0, 3, 1};
static const model_limits limits = {CHUNK, CHUNK, CACHE_EVERY_GROUP(4), NIB_KV_FP32, 0};

typedef struct text {
    batch batches[GOLDEN_MAX_TOKENS / CHUNK + 1];
    batch_seq seqs[GOLDEN_MAX_TOKENS / CHUNK + 1];
    size_t n;
} text;

static void cut(text *t, const int32_t *tokens, size_t n) {
    t->n = 0;
    for (size_t pos = 0; pos < n; pos += CHUNK, t->n++) {
        int32_t rows = n - pos < CHUNK ? (int32_t)(n - pos) : CHUNK;
        t->seqs[t->n] =
            (batch_seq){.pages = CACHE_EVERY_GROUP(pages), .n_pages = 4, .n_rows = rows, .pos = (int32_t)pos};
        t->batches[t->n] =
            (batch){.tokens = tokens + pos, .n_rows = rows, .seqs = &t->seqs[t->n], .n_seqs = 1};
    }
}

/* x [n, dim] after the last layer, by the whole model. */
static void run_whole(const model_file *file, const text *t, float *x) {
    nib_error err;
    model *m;
    assert_int_equal(model_open(&m, file, &plain_backend, &limits, NULL, &err), NIB_OK);
    for (size_t i = 0; i < t->n; i++) {
        assert_int_equal(model_forward(m, &t->batches[i], NULL, &err), NIB_OK);
        plain_backend.buf_read(&plain_backend, m->x, x);
        x += (size_t)t->batches[i].n_rows * (size_t)file->hp.dim;
    }
    model_close(m);
}

static void run_half(halves *h, const text *t, half_kind kind, int layer, size_t dim, float *x) {
    float *inner = malloc(CHUNK * halves_inner_cols(h, kind) * sizeof *inner);
    nib_error err = {""};
    assert_int_equal(halves_bind(h, kind, layer, &err), NIB_OK);
    for (size_t i = 0; i < t->n; i++) {
        assert_int_equal(halves_inner(h, kind, layer, &t->batches[i], x, inner, &err), NIB_OK);
        assert_int_equal(halves_add(h, kind, layer, &t->batches[i], inner, x, &err), NIB_OK);
        x += (size_t)t->batches[i].n_rows * dim;
    }
    halves_unbind(h, kind, layer);
    free(inner);
}

static void run_halves(const model_file *file, const text *t, float *x) {
    halves *h;
    nib_error err = {""};
    size_t dim = (size_t)file->hp.dim;
    if (halves_open(&h, file, &plain_backend, &limits, &err) != NIB_OK)
        fail_msg("%s", err.text);
    assert_int_equal(halves_embed_begin(h, &err), NIB_OK);
    float *row = x;
    for (size_t i = 0; i < t->n; i++, row += CHUNK * dim)
        assert_int_equal(halves_embed(h, &t->batches[i], row, &err), NIB_OK);
    halves_embed_end(h);
    for (int layer = 0; layer < file->hp.n_layers; layer++) {
        run_half(h, t, HALF_ATTENTION, layer, dim, x);
        run_half(h, t, HALF_MLP, layer, dim, x);
    }
    halves_close(h);
}

static void test_same_bits(void **unused) {
    (void)unused;
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++) {
        char path[512];
        nib_error err = {""};
        model_file *file;
        size_t n;
        text t;
        golden_path(path, &golden_cases[i], golden_cases[i].file);
        if (model_file_open(&file, path, &err) != NIB_OK)
            fail_msg("%s", err.text);
        int32_t *tokens = golden_array(&golden_cases[i], "tokens.i32", &n);
        size_t bytes = n * (size_t)file->hp.dim * sizeof(float);
        float *whole = malloc(bytes), *parts = malloc(bytes);
        cut(&t, tokens, n);
        run_whole(file, &t, whole);
        run_halves(file, &t, parts);
        assert_memory_equal(whole, parts, bytes);
        free(whole);
        free(parts);
        free(tokens);
        model_file_close(file);
    }
}

/* The same with another layer's matrices in the place of one's own: both ways see them, and they matter. */
static void test_stand_ins(void **unused) {
    (void)unused;
    static const golden_case c = {"qwen3-tied", ""};
    char path[512];
    nib_error err = {""};
    model_file *file;
    size_t n;
    text t;
    golden_path(path, &c, c.file);
    assert_int_equal(model_file_open(&file, path, &err), NIB_OK);
    int32_t *tokens = golden_array(&c, "tokens.i32", &n);
    size_t bytes = n * (size_t)file->hp.dim * sizeof(float);
    float *own = malloc(bytes), *whole = malloc(bytes), *parts = malloc(bytes);
    const tensor **stand_ins = calloc(file->n_tensors, sizeof *stand_ins);
    model_file view = *file;
    cut(&t, tokens, n);
    run_whole(file, &t, own);
    stand_ins[model_file_find(file, place_of(SLOT_DOWN, 0)) - file->tensors] =
        model_file_find(file, place_of(SLOT_DOWN, 1));
    view.stand_ins = stand_ins;
    run_whole(&view, &t, whole);
    run_halves(&view, &t, parts);
    assert_memory_equal(whole, parts, bytes);
    assert_memory_not_equal(whole, own, bytes);
    free(stand_ins);
    free(own);
    free(whole);
    free(parts);
    free(tokens);
    model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_stand_ins)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
