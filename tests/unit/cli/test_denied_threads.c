/* SPDX-License-Identifier: Apache-2.0
 *
 * Every room that makes a pool of threads, when the system denies one of them (pthread_create is wrapped):
 * NIB_NO_MEMORY in words, and the process lives.
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

/* WHAT makes a pool of N: denied first, then granted. */
static void check(nib_status (*what)(loaded *l, nib_error *err), loaded *l) {
    nib_error err = {""};
    char words[64];
    places = ROOM_FOR;
    nib_status denied = what(l, &err);
    places = INT_MAX;
    assert_int_equal(denied, NIB_NO_MEMORY);
    snprintf(words, sizeof words, "%d threads were asked for and the system gives %d (", N, ROOM_FOR + 1);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
    assert_int_equal(what(l, NULL), NIB_OK);
}

static loaded *open_tiny(void) {
    static const nib_options small = {.max_model_len = 64, .max_num_seqs = 1};
    nib_options o = small;
    o.threads = 1;
    loaded_needs needs = {.max_rows = 256, .max_out = 64};
    loaded *l;
    nib_error err;
    if (loaded_open(&l, TINY, &o, &needs, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return l;
}

/* ---- the rooms ---- */

/* The library: an engine's thread, and the N - 1 others of its pool. */
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
    loaded *l = open_tiny();
    snprintf(output, sizeof output, "/tmp/test_denied_threads-%ld.gguf", (long)getpid());
    check(open_backend, NULL);
    check(perplexity, l);
    check(quantize, l);
    loaded_close(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_rooms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
