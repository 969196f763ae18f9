/* SPDX-License-Identifier: Apache-2.0
 *
 * The families' forwards over the plain backend: logits equal transformers' (golden files), and damaged
 * models are refused in words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../ops/plain_backend.h"
#include "base/mem.h"
#include "golden_case.h"
#include "model/layerwise.h"
#include "model/network.h"

static void test_goldens(void **state) {
    (void)state;
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++)
        golden_check(&golden_cases[i], &plain_backend, NIB_KV_FP32, "plain");
}

/* ---- what a backend is told of layers ---- */

static int n_told;
static norm_place told;

static void count_layer(backend *be, const layer_parts *l) {
    (void)be;
    assert_int_equal(l->qkv->cols, l->down->rows);
    assert_int_equal(l->attn_out->cols, l->attn->n_heads * l->attn->head_dim);
    assert_int_equal(l->gate_up->rows, 2 * l->down->cols);
    n_told++;
    told = l->norms;
}

/* Each layer once, and where it is normed. */
static void test_layers_told(void **state) {
    static const struct {
        golden_case c;
        norm_place norms;
    } cases[] = {{{"llama-untied", ""}, NORM_BEFORE}, {{"qwen3-tied", ""}, NORM_BEFORE},
                 {{"granite", ""}, NORM_BEFORE},      {{"gemma2", ""}, NORM_AROUND},
                 {{"gemma3", ""}, NORM_AROUND},       {{"olmo2", ""}, NORM_AFTER}};
    backend be = plain_backend;
    (void)state;
    be.layer_know = count_layer;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        model_file *file;
        model *m;
        nib_error err = {""};
        n_told = 0;
        golden_path(path, &cases[i].c, cases[i].c.file);
        assert_int_equal(model_file_open(&file, path, &err), NIB_OK);
        assert_int_equal(model_open(&m, file, &be,
                                    &(model_limits){8, 8, CACHE_EVERY_GROUP(1), NIB_KV_FP32, 0}, NULL, &err),
                         NIB_OK);
        assert_int_equal(n_told, file->hp.n_layers);
        assert_int_equal(told, cases[i].norms);
        model_close(m);
        model_file_close(file);
    }
}

/* ---- weights that are still on their way ---- */

static int n_waits;

static nib_status cut_short(backend *be, nib_error *err) {
    (void)be;
    n_waits++;
    return nib_fail(err, NIB_BAD_FILE, "cut short while it was read, at byte 7");
}

/* They are waited for, once, and a file that ends too early is named. */
static void test_weights_awaited(void **state) {
    backend be = plain_backend;
    char path[512], words[600];
    model_file *file;
    model *m;
    nib_error err = {""};
    (void)state;
    be.weights_wait = cut_short;
    golden_path(path, &(golden_case){"qwen3-tied", ""}, "");
    assert_int_equal(model_file_open(&file, path, &err), NIB_OK);
    assert_int_equal(
        model_open(&m, file, &be, &(model_limits){8, 8, CACHE_EVERY_GROUP(1), NIB_KV_FP32, 0}, NULL, &err),
        NIB_BAD_FILE);
    snprintf(words, sizeof words, "%s: cut short while it was read, at byte 7", file->path);
    assert_string_equal(err.text, words);
    assert_int_equal(n_waits, 1);
    model_file_close(file);
}

/* ---- what a model must not lack ---- */

typedef struct opened {
    model_file *file;
    model_file changed; /* the same file with hyper-parameters of our own */
    tensor *spoiled, sound;
} opened;

static opened open_case(const golden_case *c) {
    opened o = {0};
    char path[512];
    nib_error err = {""};
    golden_path(path, c, c->file);
    if (model_file_open(&o.file, path, &err) != NIB_OK)
        fail_msg("%s", err.text);
    o.changed = *o.file;
    return o;
}

/* A tensor to be spoiled; expect_refused makes it sound again. */
static tensor *spoil(opened *o, slot s, int layer) {
    o->spoiled = (tensor *)model_file_find(o->file, place_of(s, layer));
    assert_non_null(o->spoiled);
    o->sound = *o->spoiled;
    return o->spoiled;
}

static void expect_refused(opened *o, nib_status expected, const char *words) {
    model *m;
    nib_error err = {""};
    assert_int_equal(model_open(&m, &o->changed, &plain_backend,
                                &(model_limits){8, 8, CACHE_EVERY_GROUP(1), NIB_KV_FP32, 0}, NULL, &err),
                     expected);
    assert_null(m);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
    if (o->spoiled)
        *o->spoiled = o->sound;
    o->changed.hp = o->file->hp;
}

static void test_refusals(void **state) {
    (void)state;
    opened o = open_case(&(golden_case){"qwen3-tied", ""});
    spoil(&o, SLOT_K, 1)->rows--;
    expect_refused(&o, NIB_BAD_FILE, "is [31, 24]; attn_k of layer 1 must be [32, 24]");
    spoil(&o, SLOT_K_NORM, 0)->cols++;
    expect_refused(&o, NIB_BAD_FILE, "is [1, 33]; k_norm of layer 0 must be [1, 32]");
    spoil(&o, SLOT_EMBED, -1)->dtype = DT_I32;
    expect_refused(&o, NIB_UNSUPPORTED, "is stored as I32, which is no weight format");
    float infinite[24] = {[3] = INFINITY};
    *spoil(&o, SLOT_FINAL_NORM, -1) = (tensor){.name = "n",
                                               .place = o.sound.place,
                                               .dtype = DT_F32,
                                               .rows = 1,
                                               .cols = 24,
                                               .data = infinite,
                                               .bytes = sizeof infinite,
                                               .tensor_scale = 1};
    expect_refused(&o, NIB_BAD_FILE, "holds a number that is not finite");
    spoil(&o, SLOT_UP, 1)->branch.rank = 4;
    expect_refused(&o, NIB_UNSUPPORTED, "has a low-rank branch, which the plain backend does not compute");
    o.changed.hp.n_layers = 3;
    expect_refused(&o, NIB_BAD_FILE, "no tensor for attn_q of layer 2, expected one of [96, 24]");
    o.changed.hp.tied = false;
    expect_refused(&o, NIB_BAD_FILE, "no tensor for head, expected one of [40, 24]");
    o.changed.hp.family = FAMILY_NONE;
    expect_refused(&o, NIB_UNSUPPORTED, "no network that nibble can compute");
    model_file_close(o.file);
    o = open_case(&(golden_case){"llama-llama3-rope", "model.gguf"});
    spoil(&o, SLOT_ROPE_FREQS, -1)->data = (float[]){1, 0, 1};
    expect_refused(&o, NIB_BAD_FILE, "a RoPE frequency divisor of 0");
    spoil(&o, SLOT_ROPE_FREQS, -1)->cols = 4;
    expect_refused(&o, NIB_BAD_FILE, "is [1, 4]; rope_freqs must be [1, 3]");
    model_file_close(o.file);
}

/* ---- the context that is opened, not the one that could be ---- */

static void forward_at(const opened *o, int max_len, const int32_t *tokens, int n, float *logits) {
    model *m;
    nib_error err = {""};
    const model_limits limits = {
        .max_rows = 64, .max_out = 64, .n_pages = CACHE_EVERY_GROUP(4), .max_len = max_len};
    if (model_open(&m, &o->changed, &plain_backend, &limits, NULL, &err) != NIB_OK)
        fail_msg("%s", err.text);
    golden_forward(m, tokens, n, n, logits);
    model_close(m);
}

/* Short contexts take the short divisors, as if the network had never been stretched. */
static void test_longrope(void **state) {
    (void)state;
    enum { N = 20, SHORT = 128, LONG = 129 };
    opened o = open_case(&(golden_case){"qwen3-tied", ""});
    size_t n = N * (size_t)o.file->hp.vocab;
    float *logits = malloc(3 * n * sizeof *logits);
    int32_t tokens[N];
    for (int i = 0; i < N; i++)
        tokens[i] = 3 + i;
    o.changed.hp.context_len = 256;
    forward_at(&o, SHORT, tokens, N, logits);
    o.changed.hp.rope.kind = ROPE_LONGROPE;
    o.changed.hp.rope.original_context = SHORT;
    o.changed.hp.rope.attention_factor = 1;
    for (int i = 0; i < ROPE_MAX_PAIRS; i++) {
        o.changed.hp.rope.short_divisors[i] = 1;
        o.changed.hp.rope.long_divisors[i] = 4;
    }
    o.changed.hp.rope_local = o.changed.hp.rope;
    forward_at(&o, SHORT, tokens, N, logits + n);
    forward_at(&o, LONG, tokens, N, logits + 2 * n);
    assert_memory_equal(logits, logits + n, n * sizeof *logits);
    assert_true(golden_distance(logits + 2 * n, logits, n) > 1e-3);
    forward_at(&o, 0, tokens, N, logits + n); /* what the pages hold: 256 */
    assert_memory_equal(logits + 2 * n, logits + n, n * sizeof *logits);
    free(logits);
    model_file_close(o.file);
}

/* ---- calibration ---- */

/* Sums for every place that is observed; freed with free_sums. */
static double **new_sums(const hparams *hp) {
    double **sums = calloc((size_t)hp->n_layers * SLOT_COUNT, sizeof *sums);
    for (int layer = 0; layer < hp->n_layers; layer++) {
        double **s = sums + layer * SLOT_COUNT;
        s[SLOT_Q] = calloc((size_t)hp->dim, sizeof **s);
        s[SLOT_O] = calloc((size_t)hp->n_heads * (size_t)hp->head_dim, sizeof **s);
        s[SLOT_GATE] = calloc((size_t)hp->dim, sizeof **s);
        s[SLOT_DOWN] = calloc((size_t)hp->ffn_dim, sizeof **s);
    }
    sums[SLOT_HEAD] = calloc((size_t)hp->dim, sizeof **sums);
    return sums;
}

static void free_sums(const hparams *hp, double **sums) {
    for (int i = 0; i < hp->n_layers * SLOT_COUNT; i++)
        free(sums[i]);
    free(sums);
}

static size_t observed_cols(const hparams *hp, slot s) {
    return s == SLOT_O      ? (size_t)hp->n_heads * (size_t)hp->head_dim
           : s == SLOT_DOWN ? (size_t)hp->ffn_dim
                            : (size_t)hp->dim;
}

#define CHUNK 48 /* not a whole page */

/* TOKENS [n], all of them asked for, CHUNK rows at a time, through the whole model at once. */
static void observe_whole(const model_file *file, const int32_t *tokens, size_t n, double **sums) {
    nib_error err;
    model *m;
    float *logits = malloc(n * (size_t)file->hp.vocab * sizeof *logits);
    assert_int_equal(model_open(&m, file, &plain_backend,
                                &(model_limits){64, 64, CACHE_EVERY_GROUP(4), NIB_KV_FP32, 0}, NULL, &err),
                     NIB_OK);
    backend *be = &plain_backend;
    int n_sums = file->hp.n_layers * SLOT_COUNT;
    vec **observed = m->observed = calloc((size_t)n_sums, sizeof *observed);
    for (int i = 0; i < n_sums; i++)
        if (sums[i])
            be->vec_new(be, &observed[i], VEC_F64, observed_cols(&file->hp, (slot)(i % SLOT_COUNT)), NULL,
                        &err);
    golden_forward(m, tokens, (int)n, CHUNK, logits);
    golden_forward(m, tokens, (int)n, CHUNK, logits); /* a second text */
    model_close(m);
    for (int i = 0; i < n_sums; i++)
        if (sums[i]) {
            be->vec_read(be, observed[i], sums[i]);
            be->vec_free(be, observed[i]);
        }
    free(observed);
    free(logits);
}

/* Squares of what a walk by layers shows, as sums has them, and the largest key and value of any layer. */
typedef struct shown {
    const hparams *hp;
    double **sums;
    float peaks[2];
    size_t n_rows; /* of keys */
} shown;

static void show(void *context, int layer, slot s, const float *x, size_t rows) {
    shown *to = context;
    const size_t cols = observed_cols(to->hp, s);
    if (s == SLOT_K_SCALE || s == SLOT_V_SCALE) {
        for (size_t i = 0; i < rows * (size_t)to->hp->n_kv_heads * (size_t)to->hp->head_dim; i++)
            to->peaks[s == SLOT_V_SCALE] = fmaxf(to->peaks[s == SLOT_V_SCALE], fabsf(x[i]));
        to->n_rows += rows;
        return;
    }
    for (size_t i = 0; i < rows * cols; i++)
        to->sums[layer * SLOT_COUNT + (int)s][i % cols] += (double)x[i] * (double)x[i];
}

/* The same by layers. */
static nib_status observe_layers(const model_file *file, const int32_t *tokens, size_t n, double **sums,
                                 shown *looked, nib_error *err) {
    static const int32_t pages[] = {3, 1, 0, 2};
    batch batches[2 * GOLDEN_MAX_TOKENS / CHUNK + 2];
    batch_seq seqs[2 * GOLDEN_MAX_TOKENS / CHUNK + 2];
    int32_t all[CHUNK];
    layerwise_job job = {
        .limits = {64, 64, CACHE_EVERY_GROUP(4), NIB_KV_FP32, 0}, .batches = batches, .sums = sums};
    job.look = looked ? show : NULL;
    job.context = looked;
    for (int i = 0; i < CHUNK; i++)
        all[i] = i;
    for (int text = 0; text < 2; text++)
        for (size_t pos = 0; pos < n; pos += CHUNK, job.n_batches++) {
            int32_t rows = n - pos < CHUNK ? (int32_t)(n - pos) : CHUNK;
            seqs[job.n_batches] = (batch_seq){
                .pages = CACHE_EVERY_GROUP(pages), .n_pages = 4, .n_rows = rows, .pos = (int32_t)pos};
            batches[job.n_batches] = (batch){.tokens = tokens + pos,
                                             .n_rows = rows,
                                             .seqs = &seqs[job.n_batches],
                                             .n_seqs = 1,
                                             .out_rows = all,
                                             .n_out = rows};
        }
    return layerwise_run(file, &plain_backend, &job, err);
}

/* What a walk by layers measures is what the whole model shows, to the bit, and so are the rows that it
 * shows.
 */
static void test_layerwise(void **state) {
    (void)state;
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++) {
        opened o = open_case(&golden_cases[i]);
        const hparams *hp = &o.file->hp;
        nib_error err = {""};
        size_t n;
        int32_t *tokens = golden_array(&golden_cases[i], "tokens.i32", &n);
        double **whole = new_sums(hp), **layers = new_sums(hp);
        shown looked = {.hp = hp, .sums = new_sums(hp)};
        observe_whole(o.file, tokens, n, whole);
        /* of norms over all heads keys are read where a CPU's or a GPU's backend has normed them */
        const bool looks = hp->qk_norm != QK_NORM_ROW;
        if (observe_layers(o.file, tokens, n, layers, looks ? &looked : NULL, &err) != NIB_OK)
            fail_msg("%s", err.text);
        for (int k = 0; k < hp->n_layers * SLOT_COUNT; k++) {
            size_t cols = whole[k] ? observed_cols(hp, (slot)(k % SLOT_COUNT)) : 0;
            for (size_t c = 0; c < cols; c++)
                assert_true(whole[k][c] > 0 && layers[k][c] == whole[k][c] &&
                            (!looks || fabs(looked.sums[k][c] - whole[k][c]) < 1e-6 * whole[k][c]));
        }
        assert_true(!looks || (looked.n_rows == 4 * n * (size_t)hp->n_layers && /* keys and values, twice */
                               looked.peaks[0] > 0 && looked.peaks[1] > 0));
        free_sums(hp, looked.sums);
        free_sums(hp, whole), free_sums(hp, layers), free(tokens);
        model_file_close(o.file);
    }
}

static void test_layerwise_refusals(void **state) {
    (void)state;
    opened o = open_case(&(golden_case){"qwen3-tied", ""});
    double **sums = new_sums(&o.file->hp);
    int32_t token = 1;
    nib_error err = {""};
    spoil(&o, SLOT_UP, 1)->dtype = DT_I32;
    assert_int_equal(observe_layers(o.file, &token, 1, sums, NULL, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "is stored as I32, which is no weight format"));
    *o.spoiled = o.sound;
    spoil(&o, SLOT_K_NORM, 0)->cols++;
    assert_int_equal(observe_layers(o.file, &token, 1, sums, NULL, &err), NIB_BAD_FILE);
    *o.spoiled = o.sound;
    nib_status status = NIB_NO_MEMORY;
    for (long i = 0; status != NIB_OK && i < 1000; i++) {
        mem_fail_after(i);
        shown looked = {.hp = &o.file->hp, .sums = sums};
        status = observe_layers(o.file, &token, 1, sums, &looked, &err);
        mem_fail_after(-1);
        assert_true(status == NIB_OK || (i < 999 && status == NIB_NO_MEMORY));
    }
    volatile sig_atomic_t stop = 1;
    static const int32_t page = 0;
    layerwise_job job = {
        .limits = {64, 64, CACHE_EVERY_GROUP(4), NIB_KV_FP32, 0}, .sums = sums, .interrupted = &stop};
    batch_seq seq = {.pages = CACHE_EVERY_GROUP(&page), .n_pages = 1, .n_rows = 1};
    job.batches = &(batch){.tokens = &token, .n_rows = 1, .seqs = &seq, .n_seqs = 1};
    job.n_batches = 1;
    assert_int_equal(layerwise_run(o.file, &plain_backend, &job, &err), NIB_CANCELLED);
    free_sums(&o.file->hp, sums);
    model_file_close(o.file);
}

static void test_observe(void **state) {
    (void)state;
    opened o = open_case(&(golden_case){"gemma3", "model.gguf"});
    const hparams *hp = &o.file->hp;
    nib_error err;
    size_t n;
    int32_t *tokens = golden_array(&(golden_case){"gemma3", ""}, "tokens.i32", &n);
    double **sums = new_sums(hp);
    assert_int_equal(observe_layers(o.file, tokens, n, sums, NULL, &err), NIB_OK); /* the text twice */

    /* The input of layer 0's q is the norm of the scaled embedding: computed here from the file. */
    float *row = malloc((size_t)hp->dim * sizeof *row), *w = malloc((size_t)hp->dim * sizeof *w);
    tensor_decode_row(model_file_find(o.file, place_of(SLOT_ATTN_NORM, 0)), 0, w);
    double *expected = calloc((size_t)hp->dim, sizeof *expected);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        tensor_decode_row(model_file_find(o.file, place_of(SLOT_EMBED, PLACE_NO_LAYER)), (size_t)tokens[i],
                          row);
        for (int c = 0; c < hp->dim; c++) {
            row[c] *= hp->embed_scale;
            sum += (double)row[c] * row[c];
        }
        for (int c = 0; c < hp->dim; c++)
            expected[c] += 2 * row[c] * row[c] * (double)w[c] * w[c] / (sum / hp->dim + hp->norm_eps);
    }
    for (int c = 0; c < hp->dim; c++)
        assert_true(fabs(sums[SLOT_Q][c] - expected[c]) <= 1e-5 * expected[c]);
    free_sums(hp, sums);
    free(tokens), free(row), free(w), free(expected);
    model_file_close(o.file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_layers_told),
        cmocka_unit_test(test_weights_awaited),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_longrope),
        cmocka_unit_test(test_layerwise),
        cmocka_unit_test(test_layerwise_refusals),
        cmocka_unit_test(test_observe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
