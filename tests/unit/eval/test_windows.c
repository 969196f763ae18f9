/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity, KL divergence, calibration and speed over a model that is a formula: its logits depend on the
 * last ids and the position, so that a wrong window, row, target or BOS shows. The functions of model.h and
 * tokenizer.h that eval calls are defined here instead of linked.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/calibrate.h"
#include "eval/eval.h"
#include "eval/speed.h"

#define VOCAB   300
#define BOS     256
#define DIM     4
#define MAX_POS 4096

/* ---- the formula model: remembers the ids by position, as a KV cache does ---- */

struct model {
    hparams hp;
    float temperature;
    bool broken;
    int32_t seen[MAX_POS];
    float logits[256 * VOCAB];
    size_t n_forward, n_rows, n_out;
    int max_rows, max_out;
};

static double formula(const int32_t *ids, int pos, int v, float temperature) {
    uint32_t h = (uint32_t)ids[pos] * 2654435761u ^ (uint32_t)(pos > 0 ? ids[pos - 1] : 77) * 40503u ^
                 (uint32_t)ids[0] * 97u ^ (uint32_t)pos * 31u ^ (uint32_t)v * 2246822519u;
    h ^= h >> 15;
    h *= 2654435761u;
    return (double)(float)((float)(h >> 16) / 8192.0f * temperature);
}

const hparams *model_hparams(const model *m) {
    return &m->hp;
}

nib_status model_forward(model *m, const batch *b, const float **logits, nib_error *err) {
    (void)err;
    assert_int_equal(b->n_seqs, 1);
    assert_true(b->n_rows <= m->max_rows && b->n_out <= m->max_out);
    const batch_seq *s = &b->seqs[0];
    assert_true(s->n_rows == b->n_rows && s->row == 0);
    assert_int_equal(s->n_pages, (s->pos + s->n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
    for (int i = 0; i < b->n_rows; i++)
        m->seen[s->pages[0][(s->pos + i) / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + (s->pos + i) % KV_PAGE_TOKENS] =
            b->tokens[i];
    for (int i = 0; i < b->n_out; i++)
        for (int v = 0; v < VOCAB; v++)
            m->logits[i * VOCAB + v] =
                m->broken && s->pos > 10
                    ? NAN
                    : (float)formula(m->seen, s->pos + b->out_rows[i], v, m->temperature);
    m->n_forward++;
    m->n_rows += (size_t)b->n_rows;
    m->n_out += (size_t)b->n_out;
    *logits = b->n_out ? m->logits : NULL;
    return NIB_OK;
}

/* What the speed tests call: rows of several sequences, a token drawn greedily of each. */
void model_begin(model *m, const batch *b, const sample_row *rows, sampled *out) {
    assert_true(b->n_rows <= m->max_rows && b->n_out <= m->max_out);
    assert_true((b->n_out > 0) == (rows != NULL) && (rows == NULL) == (out == NULL));
    for (int i = 0; i < b->n_seqs; i++) {
        const batch_seq *s = &b->seqs[i];
        assert_int_equal(s->n_pages, (s->pos + s->n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
        for (int r = 0; r < s->n_rows; r++) {
            int32_t at =
                s->pages[0][(s->pos + r) / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + (s->pos + r) % KV_PAGE_TOKENS;
            assert_true(at >= 0 && at < MAX_POS);
            m->seen[at] = b->tokens[s->row + r];
        }
    }
    for (int i = 0; i < b->n_out; i++)
        assert_true(rows[i].temperature == 0 && rows[i].n_top == -1);
    m->n_forward++;
    m->n_rows += (size_t)b->n_rows;
    m->n_out += (size_t)b->n_out;
}

nib_status model_wait(model *m, const float **logits, nib_error *err) {
    (void)m;
    (void)err;
    assert_null(logits);
    return NIB_OK;
}

size_t model_bytes_per_token(const model *m) {
    (void)m;
    return 1000;
}

double model_flops(const model *m, int n_rows, int n_out) {
    (void)m;
    return 1e6 * n_rows + 1e3 * n_out;
}

size_t model_kv_bytes(const model *m) {
    (void)m;
    return 64 * KV_PAGE_TOKENS * 20; /* 64 pages, 20 bytes per position */
}

/* Layers that see c in channel c of layer 0's q and the row's id in layer 1's down. */
static struct {
    size_t n_runs, n_rows, n_out;
    int32_t next_pos;   /* a window's batches follow each other */
    bool of_any_length; /* windows of a set */
} walk;

static float damage; /* added to what layer 1 is given */

nib_status layerwise_run(const model_file *file, backend *be, const layerwise_job *job, nib_error *err) {
    (void)file, (void)be, (void)err;
    size_t rows = 0;
    assert_int_equal(job->done, 2 * walk.n_rows); /* times layers */
    for (size_t i = 0; i < job->n_batches; i++) {
        const batch *b = &job->batches[i];
        const batch_seq *s = &b->seqs[0];
        assert_true(b->n_seqs == 1 && s->n_rows == b->n_rows && s->row == 0);
        assert_true(b->n_rows <= job->limits.max_rows && b->n_out <= job->limits.max_out);
        assert_true(s->pos == walk.next_pos || (walk.of_any_length && s->pos == 0));
        assert_true(s->n_pages <= job->limits.n_pages[0]);
        assert_int_equal(s->n_pages, (s->pos + s->n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
        assert_true((s->pos == 0) == (b->tokens[0] == BOS));
        walk.next_pos = (s->pos + s->n_rows) % CALIB_SET_WINDOW;
        for (int r = 0; r < b->n_rows; r++)
            for (int c = 0; c < file->hp.dim && c < DIM; c++) {
                job->sums[0 * SLOT_COUNT + SLOT_Q][c] += c;
                job->sums[1 * SLOT_COUNT + SLOT_DOWN][c] += b->tokens[r] + (double)damage;
            }
        for (int r = 0; r < b->n_out; r++) {
            assert_true(b->out_rows[r] >= 0 && b->out_rows[r] < b->n_rows);
            job->sums[SLOT_HEAD][1] += 5;
        }
        rows += (size_t)b->n_rows;
        walk.n_out += (size_t)b->n_out;
    }
    walk.n_runs++;
    walk.n_rows += rows;
    assert_int_equal(job->total % 2, 0);
    assert_true(job->done + 2 * rows <= job->total);
    /* each row's stream in memory at once */
    assert_true(rows * (size_t)file->hp.dim * sizeof(float) <= CALIBRATE_STREAM_BYTES || rows <= 512);
    return NIB_OK;
}

static model *new_model(float temperature) {
    model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->hp = (hparams){.n_layers = 2,
                      .dim = DIM,
                      .ffn_dim = DIM,
                      .n_heads = 1,
                      .n_kv_heads = 1,
                      .head_dim = DIM,
                      .vocab = VOCAB,
                      .sliding_window = 16,
                      .local = {true, false}};
    m->temperature = temperature;
    m->max_rows = m->max_out = 256;
    return m;
}

/* ---- a tokenizer of bytes ---- */

struct tokenizer {
    bool bos;
};

bool tokenizer_adds_bos(const tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_bos(const tokenizer *t) {
    (void)t;
    return BOS;
}

nib_status token_list_push(token_list *list, int32_t id, nib_error *err) {
    (void)err;
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->ids = realloc(list->ids, list->capacity * sizeof *list->ids);
        assert_non_null(list->ids);
    }
    list->ids[list->n++] = id;
    return NIB_OK;
}

void token_list_free(token_list *list) {
    free(list->ids);
}

static size_t n_bytes_encoded; /* of the last text */

nib_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, token_list *out,
                            nib_error *err) {
    (void)t;
    assert_int_equal(flags, TOKENIZE_NO_SPECIAL);
    n_bytes_encoded = n;
    for (size_t i = 0; i < n; i++)
        token_list_push(out, (unsigned char)text[i], err);
    return NIB_OK;
}

/* ---- the tests ---- */

static char sample[1024];

static eval_text open_sample(bool bos, int n_ctx, int n_chunks, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        sample[i] = (char)('a' + (i * i + i / 3) % 26);
    sample[bytes - 1] = '\n'; /* dropped */
    struct tokenizer t = {bos};
    eval_text text;
    nib_error err;
    if (eval_text_open(&text, &t, sample, bytes, n_ctx, n_chunks, "sample", &err) != NIB_OK)
        fail_msg("%s", err.text);
    return text;
}

/* ln p of the token after POS in WINDOW, in FP64. */
static double expected_log_prob(const int32_t *window, int pos, int32_t target, float temperature) {
    double sum = 0, x = formula(window, pos, target, temperature);
    for (int v = 0; v < VOCAB; v++)
        sum += exp(formula(window, pos, v, temperature));
    return x - log(sum);
}

static double expected_nll(bool bos, int n_ctx, int n_chunks, float temperature, size_t *n) {
    double nll = 0;
    *n = 0;
    for (int c = 0; c < n_chunks; c++) {
        int32_t window[256];
        for (int i = 0; i < n_ctx;
             i++) { /* with BOS the text's ids are shifted by one, and the first replaced */
            long at = (long)c * n_ctx + i - (bos ? 1 : 0);
            window[i] = bos && i == 0 ? BOS : (unsigned char)sample[at];
        }
        for (int pos = n_ctx / 2; pos < n_ctx - 1; pos++, ++*n)
            nll -= expected_log_prob(window, pos, window[pos + 1], temperature);
    }
    return nll / (double)*n;
}

static void check_ppl(bool bos, int n_ctx, int n_chunks, size_t bytes, int expected_chunks) {
    eval_text text = open_sample(bos, n_ctx, n_chunks, bytes);
    assert_int_equal(text.n_chunks, expected_chunks);
    model *m = new_model(1);
    model_limits l = eval_limits(n_ctx, NIB_KV_BF16);
    m->max_rows = l.max_rows;
    m->max_out = l.max_out;
    eval_options o = {.threads = 2};
    eval_ppl_result r;
    nib_error err;
    assert_int_equal(eval_ppl(m, &text, &o, &r, &err), NIB_OK);
    size_t n;
    double nll = expected_nll(bos, n_ctx, expected_chunks, 1, &n);
    assert_int_equal(r.n_scored, n);
    assert_int_equal(m->n_out, n);
    assert_true(fabs(r.nll.value - nll) < 1e-6);
    assert_true(fabs(r.ppl.value - exp(nll)) < 1e-6 * exp(nll));
    eval_text_close(&text);
    free(m);
}

static void test_ppl(void **unused) {
    (void)unused;
    check_ppl(false, 32, 0, 200, 6); /* 199 ids: 6 whole windows */
    check_ppl(true, 32, 0, 200, 6);  /* BOS and 199 */
    check_ppl(true, 33, 3, 200, 3);
    check_ppl(false, 200, 2, 801, 2); /* more rows than one batch hands out */
}

static void test_short_text(void **unused) {
    (void)unused;
    struct tokenizer t = {true};
    eval_text text;
    nib_error err;
    assert_int_equal(eval_text_open(&text, &t, "abc", 3, 32, 0, "short.txt", &err), NIB_BAD_ARGUMENT);
    assert_string_equal(err.text,
                        "short.txt: the text gives 4 tokens, and two windows of 32 are needed at least");
}

static void test_compare(void **unused) {
    (void)unused;
    eval_text a = open_sample(true, 32, 3, 300), b = open_sample(true, 32, 3, 300),
              plain = open_sample(false, 32, 3, 300), fewer = open_sample(true, 32, 2, 300);
    nib_error err = {""};
    assert_int_equal(eval_text_compare(&a, &b, "sample", "m", "base", &err), NIB_OK);
    assert_int_equal(eval_text_compare(&a, &plain, "sample", "m", "base", &err), NIB_BAD_ARGUMENT);
    assert_string_equal(err.text,
                        "m starts windows with BOS 256 and base with -1 (-1: none); expected the same");
    assert_int_equal(eval_text_compare(&a, &fewer, "sample", "m", "base", &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "sample: 96 tokens in windows for m and 64 for base"));
    b.tokens[95]++; /* the last that is used */
    assert_int_equal(eval_text_compare(&a, &b, "sample", "m", "base", &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "sample: token 95 is "));
    eval_text_close(&a);
    eval_text_close(&b);
    eval_text_close(&plain);
    eval_text_close(&fewer);
}

static double expected_kld(int n_ctx, int n_chunks, float t_base, float t_model) {
    double kld = 0;
    size_t n = 0;
    for (int c = 0; c < n_chunks; c++) {
        int32_t window[256];
        for (int i = 0; i < n_ctx; i++)
            window[i] = i == 0 ? BOS : (unsigned char)sample[c * n_ctx + i - 1];
        for (int pos = n_ctx / 2; pos < n_ctx - 1; pos++, n++)
            for (int v = 0; v < VOCAB; v++) {
                double lp = expected_log_prob(window, pos, v, t_base),
                       lq = expected_log_prob(window, pos, v, t_model);
                kld += exp(lp) * (lp - lq);
            }
    }
    return kld / (double)n;
}

static void test_kld(void **unused) {
    (void)unused;
    eval_text text = open_sample(true, 32, 3, 300);
    model *m = new_model(0.8f), *base = new_model(1);
    eval_options o = {.threads = 2};
    eval_kld_result side, same, stored;
    eval_ppl_result base_ppl;
    nib_error err;
    assert_int_equal(eval_kld(m, base, &text, &o, &side, &err), NIB_OK);
    double expected = expected_kld(32, 3, 1, 0.8f);
    assert_true(expected > 0.01);
    assert_true(fabs(side.kld.value - expected) < 1e-6);
    assert_true(side.same_top.value == 1); /* another temperature keeps the order */
    assert_true(side.ppl.value != side.ppl_base.value);
    assert_int_equal(eval_kld(base, base, &text, &o, &same, &err), NIB_OK);
    assert_true(fabs(same.kld.value) < 1e-12 && same.ppl_ratio.value == 1 && same.p_diff_rms.value == 0);

    char path[] = "/tmp/test_windows_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(eval_kld_save(base, &text, path, &o, &base_ppl, &err), NIB_OK);
    assert_true(fabs(base_ppl.ppl.value - side.ppl_base.value) < 1e-9);
    assert_int_equal(eval_kld_against_file(m, &text, path, &o, &stored, &err), NIB_OK);
    assert_true(fabs(stored.kld.value - side.kld.value) < 1e-4);
    assert_true(fabs(stored.ppl_ratio.value - side.ppl_ratio.value) < 1e-5);
    assert_true(stored.same_top.value == 1);
    text.n_chunks = 2; /* the first windows of a longer file */
    assert_int_equal(eval_kld_against_file(m, &text, path, &o, &stored, &err), NIB_OK);
    unlink(path);
    eval_text_close(&text);
    free(m);
    free(base);
}

static void test_broken_model(void **unused) {
    (void)unused;
    eval_text text = open_sample(true, 32, 3, 300);
    model *m = new_model(1), *base = new_model(1);
    m->broken = true;
    eval_options o = {.threads = 1};
    eval_ppl_result r;
    eval_kld_result k;
    nib_error err;
    assert_int_equal(eval_ppl(m, &text, &o, &r, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "finite"));
    assert_int_equal(eval_kld(m, base, &text, &o, &k, &err), NIB_BAD_FILE);
    assert_int_equal(eval_kld_save(m, &text, "/tmp/test_windows_never", &o, &r, &err), NIB_BAD_FILE);
    assert_int_not_equal(access("/tmp/test_windows_never", F_OK), 0);
    base->hp.vocab = VOCAB - 1;
    assert_int_equal(eval_kld(m, base, &text, &o, &k, &err), NIB_BAD_ARGUMENT);
    base->hp.vocab = 'f';
    assert_int_equal(eval_ppl(base, &text, &o, &r, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "outside a vocabulary"));
    eval_text_close(&text);
    free(m);
    free(base);
}

static volatile sig_atomic_t stop;
static void stop_halfway(void *context, const char *what, uint64_t done, uint64_t total) {
    (void)context;
    (void)what;
    assert_true(done <= total);
    stop = done >= total / 2;
}

static void test_stop(void **unused) {
    (void)unused;
    eval_text text = open_sample(true, 32, 3, 300);
    model *m = new_model(1);
    eval_options o = {.threads = 1, .progress = {.report = stop_halfway}, .stop = &stop};
    eval_ppl_result r;
    nib_error err;
    assert_int_equal(eval_ppl(m, &text, &o, &r, &err), NIB_CANCELLED);
    assert_true(m->n_forward > 1 && m->n_rows < 93);
    eval_text_close(&text);
    free(m);
}

static model_file formula_file(void) {
    return (model_file){.path = "formula",
                        .has_network = true,
                        .hp = {.n_layers = 2,
                               .dim = DIM,
                               .ffn_dim = DIM,
                               .n_heads = 1,
                               .n_kv_heads = 1,
                               .head_dim = DIM,
                               .vocab = VOCAB}};
}

/* N ids 'x' in windows of 512, BOS first in each. */
static calib_set xs(size_t n) {
    static int32_t ids[1000];
    calib_set set = {0};
    nib_error err;
    for (size_t i = 0; i < n; i++)
        ids[i] = 'x';
    assert_int_equal(calib_set_append(&set, ids, n, CALIB_SET_WINDOW, BOS, &err), NIB_OK);
    return set;
}

static void test_calibrate(void **unused) {
    (void)unused;
    model_file file = formula_file();
    calib_set set = xs(600);
    calibrate_options o = {0};
    input_stats stats;
    importance imp;
    nib_error err;
    memset(&walk, 0, sizeof walk);
    assert_int_equal(calibrate(&stats, &file, NULL, &set, &o, &err), NIB_OK);
    assert_int_equal(walk.n_rows, 602); /* BOS in both windows: 512 + 90 */
    assert_int_equal(walk.n_runs, 1);
    assert_int_equal(walk.n_out, 32 + 32 + 11);
    assert_int_equal(stats.n_layers, 2);
    assert_true(stats.of[SLOT_Q].count == 602 && stats.of[SLOT_K].count == 602 && !stats.of[SLOT_Q].blocks);
    assert_true(stats.of[SLOT_HEAD].count == 75 && stats.of[SLOT_EMBED].count == 75);
    assert_int_equal(input_stats_importance(&imp, &stats, &file.hp, false, &err), NIB_OK);
    const float down = (float)(600 * (double)'x' + 2 * BOS) / 602;
    for (int c = 0; c < DIM; c++) {
        assert_true(imp.mean_squares[SLOT_Q][c] == (float)c);
        assert_true(imp.mean_squares[SLOT_K][c] == (float)c && imp.mean_squares[SLOT_V][c] == (float)c);
        assert_true(imp.mean_squares[SLOT_COUNT + SLOT_DOWN][c] == down);
        assert_true(imp.mean_squares[SLOT_HEAD][c] == (c == 1 ? 5 : 0));
        assert_true(imp.mean_squares[SLOT_EMBED][c] == (c == 1 ? 5 : 0));
    }
    assert_null(imp.mean_squares[SLOT_FFN_NORM]);
    assert_null(imp.mean_squares[SLOT_COUNT + SLOT_HEAD]);
    input_stats_forget(&imp);
    input_stats_free(&stats);

    /* Rows so wide that one walk holds one window: 512 and 90 */
    file.hp.dim = 100000;
    memset(&walk, 0, sizeof walk);
    assert_int_equal(calibrate(&stats, &file, NULL, &set, &o, &err), NIB_OK);
    assert_true(walk.n_runs == 2 && walk.n_rows == 602);
    assert_true(stats.of[SLOT_Q].sums[3] == 3 * 602);
    input_stats_free(&stats);
    calib_set_free(&set);

    /* Windows of somebody else's: 300 and 2 */
    int32_t ids[302] = {[0] = BOS, [300] = BOS};
    size_t starts[] = {0, 300, 302};
    const calib_set others = {.ids = ids, .starts = starts, .n_windows = 2, .n_tokens = 302};
    memset(&walk, 0, sizeof walk);
    walk.of_any_length = true;
    assert_int_equal(calibrate(&stats, &file, NULL, &others, &o, &err), NIB_OK);
    assert_true(walk.n_rows == 302 && walk.n_out == 32 + 5);
    input_stats_free(&stats);

    file.hp.vocab = BOS; /* which lies outside */
    assert_int_equal(calibrate(&stats, &file, NULL, &others, &o, &err), NIB_BAD_FILE);
}

/* A model whose layers compute no numbers gives no weights. */
static void test_calibrate_damaged(void **unused) {
    (void)unused;
    model_file file = formula_file();
    calib_set set = xs(100);
    const calibrate_options o = {0};
    static const float values[] = {NAN, INFINITY};
    for (size_t i = 0; i < 2; i++) {
        input_stats stats;
        nib_error err;
        memset(&walk, 0, sizeof walk);
        damage = values[i];
        assert_int_equal(calibrate(&stats, &file, NULL, &set, &o, &err), NIB_BAD_FILE);
        assert_string_equal(
            err.text, "formula: the inputs of ffn_down in layer 1 are no finite numbers: a damaged model");
        assert_null(stats.of);
    }
    damage = 0;
    calib_set_free(&set);
}

/* Of a long text only what its first max_tokens may take is tokenized, whole characters of it. */
static void test_set_of_a_long_text(void **unused) {
    (void)unused;
    struct tokenizer t = {true};
    const size_t bytes = 3 << 20;
    char *text = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        text[i] = i % 3 == 0 ? '\xE4' : '\x80';
    calib_set set = {0};
    nib_error err;
    assert_int_equal(calib_set_text(&set, &t, text, bytes, 500, &err), NIB_OK);
    assert_true(set.n_tokens == 500 && set.n_windows == 9 && set.ids[0] == BOS);
    assert_true(n_bytes_encoded > 500 && n_bytes_encoded < 100000 && n_bytes_encoded % 3 == 0);
    assert_int_equal(calib_set_text(&set, &t, "short", 5, 0, &err), NIB_BAD_ARGUMENT);
    calib_set_free(&set);
    free(text);
}

/* The text in the program is the text in the tree. */
static void test_calibration_text(void **unused) {
    (void)unused;
    FILE *f = fopen(TESTS_DIR "/../src/eval/calibration_text.txt", "rb");
    assert_non_null(f);
    static char text[65536];
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    assert_int_equal(n, calibration_text_bytes);
    assert_memory_equal(text, calibration_text, n);
    assert_true(n > 28000 && n < 36000);
}

/* Conversations become full windows; what stands before them, and one that is longer, stay. */
static void test_join(void **unused) {
    (void)unused;
    calib_set s = {0};
    nib_error err;
    int32_t ids[600];
    for (int i = 0; i < 600; i++)
        ids[i] = i + 1;
    assert_int_equal(calib_set_append(&s, ids, 7, 512, -1, &err), NIB_OK);
    assert_int_equal(calib_set_append(&s, ids, 5, 512, -1, &err), NIB_OK);
    for (int i = 0; i < 9; i++)
        assert_int_equal(calib_set_append(&s, ids, i == 4 ? 70 : 10, 512, -1, &err), NIB_OK);
    calib_set_join(&s, 2, 1); /* 150 ids: windows of 18 at most, but for the long one */
    assert_int_equal(s.n_windows, 2 + 9);
    assert_int_equal(s.starts[2], 12);
    calib_set_free(&s);

    for (int i = 0; i < 60; i++)
        assert_int_equal(calib_set_append(&s, ids, i == 4 ? 600 : 100, 512, -1, &err), NIB_OK);
    assert_int_equal(s.n_windows, 61);
    calib_set_join(&s, 0, 1);
    assert_int_equal(s.starts[1], 100 + 3 * 99); /* the fifth is cut, and takes no other */
    assert_int_equal(s.starts[2] - s.starts[1], 512);
    assert_int_equal(s.starts[3] - s.starts[2], 88 + 4 * 99);
    assert_int_equal(s.ids[0], 1);
    assert_int_equal(s.ids[100], 2);
    assert_int_equal(s.ids[s.starts[2]], 513);
    assert_int_equal(s.ids[s.starts[2] + 88], 2);
    assert_int_equal(s.ids[s.starts[3]], 1);
    for (size_t w = 0; w < s.n_windows; w++)
        assert_true(s.starts[w + 1] - s.starts[w] <= 512 && s.starts[w + 1] > s.starts[w]);
    calib_set_free(&s);
}

static int warm;
static void count_warm(void *context) {
    (void)context;
    warm++;
}

static void test_speed(void **unused) {
    (void)unused;
    model *m = new_model(1);
    model_limits l = {.max_rows = 100, .max_out = 1, .n_pages = CACHE_EVERY_GROUP(64)};
    m->max_rows = 100;
    m->max_out = 1;
    speed_test pp = {.n_prompt = 250, .n_seqs = 1, .depth = 50, .repeats = 3, .timing = count_warm};
    speed_result r;
    nib_error err;
    assert_int_equal(speed_run(m, &l, &pp, NULL, NULL, &r, &err), NIB_OK);
    assert_int_equal(warm, 1);
    assert_int_equal(m->n_rows, 50 + 4 * 250);
    assert_int_equal(m->n_forward, 1 + 4 * 3);
    assert_int_equal(m->n_out, 1 + 4); /* the depth, and every run */
    assert_true(r.tokens_per_s > 0 && r.median > 0 && r.deviation >= 0);
    /* three batches end at positions 149, 249, 299: the local layer reads 16 positions, the other all */
    double kv = 10 * (3 * 16 + 150 + 250 + 300);
    assert_true(fabs(r.bytes_per_token - (3000 + kv) / 250) < 1e-9);
    speed_test tg = {.n_gen = 2, .n_seqs = 1, .repeats = 2};
    m->n_out = 0;
    assert_int_equal(speed_run(m, &l, &tg, NULL, NULL, &r, &err), NIB_OK);
    assert_int_equal(m->n_out, 3 * 2); /* a decoded token without its logits is not a decoded token */
    assert_true(fabs(r.bytes_per_token - (2000 + 10 * (1 + 1 + 2 + 2)) / 2.0) < 1e-9);
    /* three sequences side by side, each behind 70 tokens of its own, in pages of its own */
    speed_test side = {.n_gen = 2, .n_seqs = 3, .depth = 70, .repeats = 1};
    m->max_out = l.max_out = 3;
    m->n_out = m->n_rows = m->n_forward = 0;
    memset(m->seen, -1, sizeof m->seen);
    assert_int_equal(speed_pages(&side), 3 * 2);
    assert_int_equal(speed_run(m, &l, &side, NULL, NULL, &r, &err), NIB_OK);
    assert_int_equal(m->n_rows, 3 * 70 + 2 * 2 * 3);
    assert_int_equal(m->n_forward, 3 + 2 * 2);
    for (int i = 0; i < 3; i++)
        for (int pos = 0; pos < 2 * KV_PAGE_TOKENS; pos++)
            assert_int_equal(m->seen[i * 2 * KV_PAGE_TOKENS + pos] >= 0, pos < 72);
    /* weights once a step, for three tokens */
    assert_true(fabs(r.bytes_per_token - (2000 + 10 * 3 * (16 + 71 + 16 + 72)) / 6.0) < 1e-9);
    const double attention = speed_attention_flops(model_hparams(m), 70, 2);
    assert_true(fabs(r.flops_per_token - (6e6 + 6e3 + 3 * attention) / 6) < 1e-6);
    side.n_seqs = 4;
    assert_int_equal(speed_run(m, &l, &side, NULL, NULL, &r, &err), NIB_BAD_ARGUMENT);
    tg.depth = 64 * KV_PAGE_TOKENS;
    assert_int_equal(speed_run(m, &l, &tg, NULL, NULL, &r, &err), NIB_BAD_ARGUMENT);
    free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ppl),
                                       cmocka_unit_test(test_short_text),
                                       cmocka_unit_test(test_compare),
                                       cmocka_unit_test(test_kld),
                                       cmocka_unit_test(test_broken_model),
                                       cmocka_unit_test(test_stop),
                                       cmocka_unit_test(test_calibrate),
                                       cmocka_unit_test(test_calibrate_damaged),
                                       cmocka_unit_test(test_set_of_a_long_text),
                                       cmocka_unit_test(test_calibration_text),
                                       cmocka_unit_test(test_join),
                                       cmocka_unit_test(test_speed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
