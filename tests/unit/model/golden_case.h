/* SPDX-License-Identifier: Apache-2.0
 *
 * One golden model (tests/golden/models/NAME, written by tests/tools/make_model_goldens.py) run through
 * model_forward in three ways: in one batch, in chunks, and token by token. Included by test programs;
 * everything is static.
 */
#ifndef GOLDEN_CASE_H
#define GOLDEN_CASE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/model.h"

#define GOLDEN_MAX_TOKENS 256
#define GOLDEN_LIMIT      1e-4 /* relative L2 distance of the logits */

typedef struct golden_case {
    const char *name, *file; /* FILE inside the case's directory: "" is the directory, "model.gguf" */
} golden_case;

static const golden_case golden_cases[] = {
    {"llama-untied", ""},
    {"llama-untied", "model.gguf"},
    {"llama-llama3-rope", ""},
    {"llama-llama3-rope", "model.gguf"},
    {"llama-linear-rope", ""},
    {"qwen3-tied", ""},
    {"qwen3-tied", "model.gguf"},
    {"qwen3-untied", ""},
    {"qwen3-yarn", ""},
    {"qwen3-yarn", "model.gguf"},
    {"gemma2", ""},
    {"gemma2", "model.gguf"},
    {"gemma3", ""},
    {"gemma3", "model.gguf"},
    {"gemma3-nested", ""},
    {"qwen2", ""},
    {"qwen2", "model.gguf"},
    {"mistral-window", ""},
    {"granite", ""},
    {"granite", "model.gguf"},
    {"smollm3", ""},
    {"smollm3", "model.gguf"},
    {"llama-biases", ""},
    {"phi3", ""},
    {"phi4-mini", ""},
    {"phi4-mini", "model.gguf"},
    {"olmo2", ""},
    {"olmo2", "model.gguf"},
    {"olmo3", ""},
    {"olmo3", "model.gguf"},
    {"exaone4", ""},
    {"exaone4", "model.gguf"},
    {"ministral3", ""},
    {"ministral3", "model.gguf"},
    {"yi", ""},
    {"tinyllama", ""},
    {"falcon3", ""},
    {"llama-words", ""},
};
#define GOLDEN_CASE_COUNT (sizeof golden_cases / sizeof *golden_cases)

static void golden_path(char path[512], const golden_case *c, const char *file) {
    snprintf(path, 512, "%s/golden/models/%s%s%s", TESTS_DIR, c->name, *file ? "/" : "", file);
}

/* A raw array of 4-byte elements; the caller frees it. */
static inline void *golden_array(const golden_case *c, const char *file, size_t *n) {
    char path[512];
    golden_path(path, c, file);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f) / 4;
    rewind(f);
    void *array = malloc(*n * 4);
    assert_int_equal(fread(array, 4, *n, f), *n);
    fclose(f);
    return array;
}

/* Logits of all N tokens, [n, vocab], computed CHUNK rows at a time, into LOGITS. */
static inline void golden_forward(model *m, const int32_t *tokens, int n, int chunk, float *logits) {
    static const int32_t pages[GOLDEN_MAX_TOKENS / KV_PAGE_TOKENS] = {2, 0, 3, 1}; /* any order will do */
    size_t vocab = (size_t)model_hparams(m)->vocab;
    for (int pos = 0; pos < n; pos += chunk) {
        int rows = chunk < n - pos ? chunk : n - pos;
        int32_t out_rows[GOLDEN_MAX_TOKENS];
        for (int i = 0; i < rows; i++)
            out_rows[i] = i;
        batch_seq seq = {
            .pages = CACHE_EVERY_GROUP(pages), .n_pages = 4, .row = 0, .n_rows = rows, .pos = pos};
        batch b = {.tokens = tokens + pos,
                   .n_rows = rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = out_rows,
                   .n_out = rows};
        const float *out;
        nib_error err = {""};
        if (model_forward(m, &b, &out, &err) != NIB_OK)
            fail_msg("%s", err.text);
        memcpy(logits + (size_t)pos * vocab, out, (size_t)rows * vocab * sizeof *out);
    }
}

static double golden_distance(const float *a, const float *reference, size_t n) {
    double distance = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - reference[i];
        distance += d * d;
        norm += (double)reference[i] * reference[i];
    }
    return sqrt(distance / norm);
}

/* Runs case C on BE in FP32; the largest distance of the three ways is returned and each is checked. */
static inline double golden_check(const golden_case *c, backend *be, nib_kv_dtype kv_dtype,
                                  const char *label) {
    char path[512];
    nib_error err = {""};
    model_file *file;
    model *m;
    golden_path(path, c, c->file);
    if (model_file_open(&file, path, &err) != NIB_OK)
        fail_msg("%s", err.text);
    model_limits limits = {GOLDEN_MAX_TOKENS, GOLDEN_MAX_TOKENS, CACHE_EVERY_GROUP(4), kv_dtype, 0};
    nib_status opened = model_open(&m, file, be, &limits, NULL, &err);
    if ((!be->caps && file->hp.attn_cap != 0) || (!be->query_log && file->hp.query_log != 0)) {
        printf("%-10s %-18s refused: %s\n", label, c->name, err.text);
        assert_true(opened == NIB_UNSUPPORTED);
        model_file_close(file);
        return 0;
    }
    if (opened != NIB_OK)
        fail_msg("%s", err.text);

    size_t n, n_prefill, n_decode, vocab = (size_t)file->hp.vocab;
    int32_t *tokens = golden_array(c, "tokens.i32", &n);
    float *prefill = golden_array(c, "prefill.f32", &n_prefill);
    float *decode = golden_array(c, "decode.f32", &n_decode);
    assert_int_equal(n_prefill, n * vocab);
    assert_int_equal(n_decode, n * vocab);
    assert_true(n <= GOLDEN_MAX_TOKENS);
    float *logits = malloc(n * vocab * sizeof *logits);
    golden_forward(m, tokens, (int)n, (int)n, logits);
    double whole = golden_distance(logits, prefill, n * vocab);
    golden_forward(m, tokens, (int)n, 7, logits);
    double chunked = golden_distance(logits, prefill, n * vocab);
    golden_forward(m, tokens, (int)n, 1, logits);
    double single = golden_distance(logits, decode, n * vocab);
    printf("%-10s %-18s %-10s prefill %.1e  chunks of 7 %.1e  token by token %.1e\n", label, c->name,
           *c->file ? "GGUF" : "HF", whole, chunked, single);
    assert_true(whole <= GOLDEN_LIMIT && chunked <= GOLDEN_LIMIT && single <= GOLDEN_LIMIT);
    free(tokens);
    free(prefill);
    free(decode);
    free(logits);
    model_close(m);
    model_file_close(file);
    return fmax(whole, fmax(chunked, single));
}

#endif
