/* SPDX-License-Identifier: Apache-2.0
 *
 * Hidden states and the vectors made of them. A golden model's head times our hidden states is its logits as
 * transformers gives them; most heads have more rows than columns, so that no other hidden states give the
 * same.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model/golden_case.h"
#include "cpu/cpu.h"
#include "one_engine.h"

/* ---- hidden states ---- */

/* Of all N tokens, [n, dim], CHUNK rows at a time; beside logits where there are OUTS. */
static void hidden_of(model *m, const int32_t *tokens, int n, int chunk, int outs, float *hidden) {
    static const int32_t pages[] = {2, 0, 3, 1};
    const size_t dim = (size_t)model_hparams(m)->dim;
    nib_error err = {""};
    assert_int_equal(model_open_hidden(m, &err), NIB_OK);
    for (int pos = 0; pos < n; pos += chunk) {
        const int rows = chunk < n - pos ? chunk : n - pos;
        batch_seq seq = {.pages = CACHE_EVERY_GROUP(pages), .n_pages = 4, .n_rows = rows, .pos = pos};
        batch b = {.tokens = tokens + pos,
                   .n_rows = rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = &(int32_t){rows - 1},
                   .n_out = outs};
        model_want_hidden(m);
        assert_int_equal(model_forward(m, &b, NULL, &err), NIB_OK);
        memcpy(hidden + (size_t)pos * dim, model_hidden(m), (size_t)rows * dim * sizeof *hidden);
    }
}

/* The distance of HIDDEN times the head from the logits that transformers gives. */
static double distance_of(const golden_case *c, const model_file *file, const float *hidden, size_t n) {
    const tensor *head = model_file_find(file, place_of(SLOT_HEAD, PLACE_NO_LAYER));
    const size_t dim = (size_t)file->hp.dim, vocab = (size_t)file->hp.vocab;
    size_t n_logits;
    float *logits = golden_array(c, "prefill.f32", &n_logits);
    float *row = malloc(dim * sizeof *row), *ours = malloc(n_logits * sizeof *ours);
    assert_int_equal(n_logits, n * vocab);
    if (!head)
        head = model_file_find(file, place_of(SLOT_EMBED, PLACE_NO_LAYER));
    for (size_t v = 0; v < vocab; v++) {
        tensor_decode_row(head, v, row);
        for (size_t r = 0; r < n; r++) {
            double sum = 0;
            for (size_t i = 0; i < dim; i++)
                sum += (double)hidden[r * dim + i] * (double)row[i];
            const double cap = (double)file->hp.logit_cap;
            ours[r * vocab + v] = (float)(cap != 0 ? cap * tanh(sum / cap) : sum);
        }
    }
    const double distance = golden_distance(ours, logits, n_logits);
    free(logits);
    free(row);
    free(ours);
    return distance;
}

static void check_hidden(const golden_case *c, backend *be) {
    char path[512];
    nib_error err = {""};
    model_file *file;
    model *m;
    size_t n;
    golden_path(path, c, c->file);
    assert_int_equal(model_file_open(&file, path, &err), NIB_OK);
    const model_limits limits = {GOLDEN_MAX_TOKENS, 1, CACHE_EVERY_GROUP(4), NIB_KV_FP32, 0};
    assert_int_equal(model_open(&m, file, be, &limits, NULL, &err), NIB_OK);
    int32_t *tokens = golden_array(c, "tokens.i32", &n);
    float *hidden = malloc(n * (size_t)file->hp.dim * sizeof *hidden);
    static const int ways[][2] = {{GOLDEN_MAX_TOKENS, 0}, {7, 1}}; /* chunk, outs */
    for (int i = 0; i < 2; i++) {
        hidden_of(m, tokens, (int)n, ways[i][0], ways[i][1], hidden);
        const double distance = distance_of(c, file, hidden, n);
        if (!(distance <= GOLDEN_LIMIT))
            fail_msg("%s %s: %g from transformers", c->name, c->file, distance);
    }
    free(hidden);
    free(tokens);
    model_close(m);
    model_file_close(file);
}

static void test_hidden_states(void **state) {
    (void)state;
    backend *be;
    const cpu_options options = {
        .threads = 1, .features = cpu_features(), .activations = NIB_ACTIVATIONS_F32};
    assert_int_equal(cpu_open(&be, &options, NULL), NIB_OK);
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++)
        check_hidden(&golden_cases[i], be);
    be->close(be);
}

/* ---- vectors ---- */

enum { DIM = 24, LONG = 300 };

/* Another engine may run at the same time: E's rows do not depend on it. */
static void vector_of(nib_engine *engine, const int32_t *prompt, int n, nib_pooling how, float *vector,
                      int *n_cached) {
    nib_request *r = submit_options(
        engine, &(nib_request_options){.prompt = prompt, .n_prompt = (size_t)n, .pooling = how});
    const nib_event end = next(r, -1);
    assert_int_equal(end.kind, NIB_EVENT_END);
    assert_int_equal(end.reason, NIB_END_STOP);
    assert_int_equal(end.n_embedding, DIM);
    assert_int_equal(end.n_prompt, n);
    assert_int_equal(end.n_generated, 0);
    assert_true(end.prompt_ms > 0);
    memcpy(vector, end.embedding, DIM * sizeof *vector);
    if (n_cached)
        *n_cached = end.n_cached;
    nib_release(r);
}

static void make_prompt(int32_t *prompt, int n) {
    for (int i = 0; i < n; i++)
        prompt[i] = (11 + i * 7) % 270;
}

/* The same model computed alone, in one batch. */
static void expected(const int32_t *prompt, int n, float *last, float *mean) {
    loaded *l;
    nib_options o = {.threads = 1, .max_model_len = 400};
    static float hidden[LONG * DIM];
    assert_int_equal(loaded_open(&l, TINY, &o, NULL, NULL), NIB_OK);
    assert_int_equal(l->file->hp.dim, DIM);
    int32_t pages[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    batch_seq seq = {.pages = CACHE_EVERY_GROUP(pages), .n_pages = 8, .n_rows = n};
    batch b = {.tokens = prompt, .n_rows = n, .seqs = &seq, .n_seqs = 1};
    assert_int_equal(model_open_hidden(l->model, NULL), NIB_OK);
    model_want_hidden(l->model);
    assert_int_equal(model_forward(l->model, &b, NULL, NULL), NIB_OK);
    memcpy(hidden, model_hidden(l->model), (size_t)n * DIM * sizeof *hidden);
    loaded_close(l);
    for (int i = 0; i < DIM; i++) {
        double sum = 0;
        for (int r = 0; r < n; r++)
            sum += (double)hidden[r * DIM + i];
        mean[i] = (float)(sum / n);
        last[i] = hidden[(n - 1) * DIM + i];
    }
}

static void expect_vector(nib_engine *engine, const int32_t *prompt, int n, nib_pooling how,
                          const float *wanted) {
    float vector[DIM];
    vector_of(engine, prompt, n, how, vector, NULL);
    assert_memory_equal(vector, wanted, sizeof vector);
}

static void test_vectors(void **state) {
    (void)state;
    float last[DIM], mean[DIM], vector[DIM];
    int32_t prompt[LONG];
    int n_cached;
    make_prompt(prompt, LONG);
    static const int lengths[] = {1, 64, 65, LONG};
    for (int i = 0; i < 4; i++) {
        expected(prompt, lengths[i], last, mean);
        expect_vector(e, prompt, lengths[i], NIB_POOLING_LAST, last);
        expect_vector(e, prompt, lengths[i], NIB_POOLING_MEAN, mean);
    }
    vector_of(e, prompt, LONG, NIB_POOLING_LAST, vector, &n_cached); /* from what is remembered */
    assert_true(n_cached >= 256);
    assert_memory_equal(vector, last, sizeof vector);
    vector_of(e, prompt, LONG, NIB_POOLING_MEAN, vector, &n_cached); /* which needs every row */
    assert_int_equal(n_cached, 0);
    nib_info info = {.size = sizeof info};
    assert_int_equal(nib_get_info(e, &info, NULL), NIB_OK);
    assert_int_equal(info.embedding_size, DIM);
    assert_int_equal(info.pooling, NIB_POOLING_LAST);
}

/* In steps of few rows, beside each other and beside answers, on few pages: the same bits as alone. */
static void test_beside_others(void **state) {
    (void)state;
    enum { N = 6 };
    const loaded_needs few_pages = {.n_kv_pages = 9};
    nib_engine *small = open_tiny(
        &(nib_options){.max_model_len = 400, .max_num_seqs = 4, .max_num_batched_tokens = 32}, &few_pages);
    float last[DIM], mean[DIM];
    int32_t prompt[LONG];
    nib_request *answers[2], *pooled[N];
    make_prompt(prompt, LONG);
    expected(prompt, LONG, last, mean);
    for (int i = 0; i < 2; i++)
        answers[i] = submit(small, 250);
    for (int i = 0; i < N; i++)
        pooled[i] = submit_options(
            small, &(nib_request_options){.prompt = prompt,
                                          .n_prompt = LONG,
                                          .no_prefix_cache = true,
                                          .priority = i % 2,
                                          .pooling = i < 3 ? NIB_POOLING_MEAN : NIB_POOLING_LAST});
    for (int i = 0; i < N; i++) {
        const nib_event end = next(pooled[i], -1);
        assert_int_equal(end.reason, NIB_END_STOP);
        assert_memory_equal(end.embedding, i < 3 ? mean : last, sizeof mean);
        nib_release(pooled[i]);
    }
    static answer a, b;
    read_answer(answers[0], &a);
    read_answer(answers[1], &b);
    assert_int_equal(a.n_tokens, 250);
    assert_memory_equal(a.tokens, b.tokens, 250 * sizeof *a.tokens);
    nib_close(small);
}

/* A sequence that was put back to wait begins again; the first rows of one that was remembered never come. */
static void test_rows_that_come_again(void **state) {
    (void)state;
    const float rows[] = {1, 10, 2, 20, 3, 60, 4, 30};
    pooling p;
    assert_int_equal(pooling_open(&p, NIB_POOLING_MEAN, 2, NULL), NIB_OK);
    pooling_add(&p, rows, 0, 2);
    pooling_add(&p, rows, 0, 1);
    pooling_add(&p, rows + 2, 1, 3);
    assert_true(pooling_end(&p));
    assert_true(p.vector[0] == 2.5f && p.vector[1] == 30);
    pooling_close(&p);
    assert_int_equal(pooling_open(&p, NIB_POOLING_LAST, 2, NULL), NIB_OK);
    pooling_add(&p, rows, 64, 2);
    pooling_add(&p, (const float[]){NAN, 0}, 66, 1);
    assert_false(pooling_end(&p));
    pooling_add(&p, rows + 6, 67, 1);
    assert_true(pooling_end(&p));
    assert_true(p.vector[0] == 4 && p.vector[1] == 30);
    pooling_close(&p);
}

/* What the pooling module of a directory says. */
static nib_pooling pooling_said(const char *directory, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/1_Pooling", directory);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/1_Pooling/config.json", directory);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    const nib_pooling how = pooling_of_files(&(model_file){.directory = directory});
    unlink(path);
    *strrchr(path, '/') = 0;
    rmdir(path);
    return how;
}

static void test_what_files_say(void **state) {
    (void)state;
    char directory[] = "/tmp/nibble-pooling-XXXXXX";
    assert_non_null(mkdtemp(directory));
    assert_int_equal(pooling_of_files(&(model_file){.directory = directory}), NIB_POOLING_LAST);
    assert_int_equal(pooling_said(directory, "{\"pooling_mode_lasttoken\": true}"), NIB_POOLING_LAST);
    assert_int_equal(
        pooling_said(directory, "{\"pooling_mode_cls_token\": false, \"pooling_mode_mean_tokens\": true}"),
        NIB_POOLING_MEAN);
    static const char *const not_here[] = {
        "{\"pooling_mode_cls_token\": true}", "{\"pooling_mode_weightedmean_tokens\": true}",
        "{\"pooling_mode_mean_tokens\": true, \"pooling_mode_lasttoken\": true}", "{}", "no JSON"};
    for (size_t i = 0; i < sizeof not_here / sizeof *not_here; i++)
        assert_int_equal(pooling_said(directory, not_here[i]), NIB_POOLING_NONE);
    rmdir(directory);
}

static void test_refusals(void **state) {
    (void)state;
    nib_sampling how = {.size = sizeof how};
    refusal(&(nib_request_options){PROMPT, .pooling = NIB_POOLING_MEAN, .max_tokens = 1}, "max_tokens");
    refusal(&(nib_request_options){PROMPT, .pooling = NIB_POOLING_MEAN, .sampling = &how}, "sampling");
    refusal(&(nib_request_options){PROMPT, .pooling = NIB_POOLING_LAST, .logprobs = true}, "logprobs");
    refusal(&(nib_request_options){PROMPT, .pooling = (nib_pooling)3}, "pooling is 3");
    nib_request *r = submit(e, 3); /* an answer has none */
    nib_event event = {.size = sizeof event};
    do {
        event = next(r, -1);
    } while (event.kind != NIB_EVENT_END);
    assert_null(event.embedding);
    nib_release(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hidden_states),  cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_beside_others),  cmocka_unit_test(test_rows_that_come_again),
        cmocka_unit_test(test_what_files_say), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
