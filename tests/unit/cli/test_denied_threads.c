/* SPDX-License-Identifier: Apache-2.0
 *
 * Every room that makes a team of threads, when the system denies one of them: NIB_NO_MEMORY in words, and
 * the process lives. pthread_create is wrapped for us, not for OpenMP: had a room not asked, its team would
 * be made and the test fail. A case runs in a thread of its own, which has no team yet.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/convert.h"
#include "cpu/cpu.h"
#include "engine/loaded.h"
#include "eval/eval.h"

#define TINY TESTS_DIR "/golden/models/llama-words"

enum { N = 6, ROOM_FOR = 2 };

static atomic_int places = INT_MAX;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg) {
    return atomic_fetch_sub(&places, 1) > 0 ? __real_pthread_create(thread, how, fn, arg) : EAGAIN;
}

typedef struct run {
    nib_status (*what)(loaded *l, nib_error *err);
    loaded *l;
    nib_status denied, granted;
    nib_error err; /* of the denied one */
} run;

static void *run_twice(void *argument) {
    run *r = argument;
    places = ROOM_FOR;
    r->denied = r->what(r->l, &r->err);
    places = INT_MAX;
    r->granted = r->what(r->l, NULL);
    return NULL;
}

/* WHAT makes a team of N: denied first, then granted. */
static void check(nib_status (*what)(loaded *l, nib_error *err), loaded *l) {
    run r = {.what = what, .l = l};
    pthread_t thread;
    char words[64];
    assert_int_equal(__real_pthread_create(&thread, NULL, run_twice, &r), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(r.denied, NIB_NO_MEMORY);
    snprintf(words, sizeof words, "%d threads were asked for and the system gives %d (", N, ROOM_FOR + 1);
    if (!strstr(r.err.text, words))
        fail_msg("'%s' does not say '%s'", r.err.text, words);
    assert_int_equal(r.granted, NIB_OK);
}

static loaded *open_tiny(int threads) {
    static const nib_options small = {.max_model_len = 64, .max_num_seqs = 1};
    nib_options o = small;
    o.threads = threads;
    loaded_needs needs = {.max_rows = 256, .max_out = 64};
    loaded *l;
    nib_error err;
    if (loaded_open(&l, TINY, &o, &needs, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return l;
}

/* ---- the rooms ---- */

/* The library: an engine's thread, and the N - 1 others of its team. */
static void test_open(void **state) {
    (void)state;
    for (int k = 0; k <= N; k++) {
        nib_engine *e;
        nib_error err = {""};
        places = k;
        nib_status status =
            nib_open(&e, TINY, &(nib_options){.size = sizeof(nib_options), .threads = N}, &err);
        places = INT_MAX;
        assert_int_equal(status, k < N ? NIB_NO_MEMORY : NIB_OK);
        assert_true(k == N || strlen(err.text) > 20);
        nib_close(e);
    }
}

static nib_status open_backend(loaded *l, nib_error *err) {
    (void)l;
    backend *be;
    NIB_TRY(cpu_open(&be, &(cpu_options){.threads = N}, err));
    be->close(be);
    return NIB_OK;
}

static nib_status pack(loaded *l, nib_error *err) {
    enum { ROWS = 512, COLS = 64 };
    static const unsigned char zeros[ROWS * COLS / 32 * 34];
    const tensor t = {.dtype = DT_Q8_0,
                      .rows = ROWS,
                      .cols = COLS,
                      .data = zeros,
                      .bytes = sizeof zeros,
                      .tensor_scale = 1};
    const tensor *part = &t;
    weight *w;
    NIB_TRY(l->be->weight_pack(l->be, &w, &part, 1, SPLIT_NONE, err));
    l->be->weight_free(l->be, w);
    return NIB_OK;
}

static nib_status step(loaded *l, nib_error *err) {
    const int32_t tokens[] = {1, 2, 3}, page = 0, out_row = 2;
    batch_seq seq = {.pages = CACHE_EVERY_GROUP(&page), .n_pages = 1, .n_rows = 3};
    batch b = {.tokens = tokens, .n_rows = 3, .seqs = &seq, .n_seqs = 1, .out_rows = &out_row, .n_out = 1};
    const float *logits;
    return model_forward(l->model, &b, &logits, err);
}

static nib_status perplexity(loaded *l, nib_error *err) {
    char text[600];
    eval_text windows;
    eval_ppl_result result;
    memset(text, 'a', sizeof text);
    for (size_t i = 5; i < sizeof text; i += 6)
        text[i] = ' ';
    NIB_TRY(eval_text_open(&windows, l->words, text, sizeof text, 16, 2, "a text", err));
    nib_status status = eval_ppl(l->model, &windows, &(eval_options){.threads = N}, &result, err);
    eval_text_close(&windows);
    return status;
}

static char output[64];

static nib_status quantize(loaded *l, nib_error *err) {
    convert_report report;
    nib_status status =
        convert(l->file, output, &(convert_options){.out = OUT_GGUF, .threads = N}, &report, err);
    assert_int_equal(unlink(output), status == NIB_OK ? 0 : -1); /* whole or not at all */
    return status;
}

static void test_rooms(void **state) {
    (void)state;
    loaded *l = open_tiny(N), *alone = open_tiny(1);
    snprintf(output, sizeof output, "/tmp/test_denied_threads-%ld.gguf", (long)getpid());
    check(open_backend, NULL);
    check(pack, l);
    check(step, l);
    check(perplexity, alone);
    check(quantize, alone);
    loaded_close(l);
    loaded_close(alone);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_rooms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
