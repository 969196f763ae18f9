/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine that does not compute for a while: what becomes of requests before, in and after a rest, and that
 * a model which was put to sleep is the same when it wakes.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "one_engine.h"

enum { LONG = 300 };

static void set_rest(nib_rest rest) {
    nib_error err = {""};
    nib_stats stats = {.size = sizeof stats};
    if (nib_set_rest(e, rest, &err) != NIB_OK)
        fail_msg("%s", err.text);
    assert_int_equal(nib_get_stats(e, &stats, NULL), NIB_OK);
    assert_int_equal(stats.rest, rest);
}

static answer end_of(nib_request *r) {
    static answer a;
    read_answer(r, &a);
    return a;
}

static void expect_same(const answer *a, const answer *b) {
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_memory_equal(a->tokens, b->tokens, (size_t)a->n_tokens * sizeof(int32_t));
}

/* Anything may come, and a token takes 2 ms: so it still runs when it is looked at. */
static nib_status slow_mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    (void)context, (void)err;
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    memset(bits, 0xff, n_words * sizeof *bits);
    return NIB_OK;
}

static nib_status accept_any(void *context, int32_t token, nib_error *err) {
    (void)context, (void)token, (void)err;
    return NIB_OK;
}

static nib_request *submit_slow(void) {
    const nib_guide slow = {.size = sizeof slow, .mask = slow_mask, .accept = accept_any};
    nib_request *r = submit_options(
        e, &(nib_request_options){PROMPT, .max_tokens = LONG, .ignore_eos = true, .guide = &slow});
    assert_int_equal(next(r, -1).kind, NIB_EVENT_TOKEN);
    return r;
}

static const nib_request_options longest = {PROMPT, .max_tokens = LONG, .ignore_eos = true};

static void test_keep(void **state) {
    (void)state;
    const answer alone = ask(&longest);
    nib_request *r = submit_slow();
    set_rest(NIB_REST_KEEP);
    nib_request *late = submit(e, 5);
    while (next(r, 0).kind == NIB_EVENT_TOKEN) {
    }
    nib_event event = next(r, 60);
    assert_int_equal(event.kind, NIB_EVENT_NONE); /* neither goes on */
    assert_int_equal(next(late, 0).kind, NIB_EVENT_NONE);
    set_rest(NIB_REST_NONE);
    while ((event = next(r, -1)).kind == NIB_EVENT_TOKEN)
        assert_int_equal(event.token, alone.tokens[event.n_generated - 1]);
    assert_int_equal(event.n_generated, LONG);
    nib_release(r);
    assert_int_equal(end_of(late).n_tokens, 5);
}

static void test_wait_and_abort(void **state) {
    (void)state;
    for (int aborts = 0; aborts < 2; aborts++) {
        nib_request *r = submit_slow();
        set_rest(aborts ? NIB_REST_ABORT : NIB_REST_WAIT);
        nib_request *late = submit(e, 5), *leaves = submit(e, 5);
        const answer before = end_of(r);
        assert_int_equal(before.end.reason, aborts ? NIB_END_CANCELLED : NIB_END_LENGTH);
        nib_cancel(leaves); /* one that waits can leave */
        assert_int_equal(end_of(leaves).end.reason, NIB_END_CANCELLED);
        assert_int_equal(next(late, 40).kind, NIB_EVENT_NONE);
        set_rest(NIB_REST_NONE);
        assert_int_equal(end_of(late).n_tokens, 5);
    }
    nib_request *r = submit_slow(); /* what was kept, waited for */
    set_rest(NIB_REST_KEEP);
    set_rest(NIB_REST_WAIT);
    assert_int_equal(end_of(r).end.reason, NIB_END_LENGTH);
    set_rest(NIB_REST_NONE);
}

static void *wait_for_the_end(void *status) {
    *(nib_status *)status = nib_set_rest(e, NIB_REST_WAIT, NULL);
    return NULL;
}

/* Who waits is told when another call wants something else, and a wish that was taken back leaves nothing
 * behind. */
static void test_two_callers(void **state) {
    (void)state;
    nib_request *r = submit_slow();
    nib_status waited = NIB_OK;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_the_end, &waited), 0);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    set_rest(NIB_REST_NONE);
    pthread_join(thread, NULL);
    assert_int_equal(waited, NIB_BUSY);
    set_rest(NIB_REST_ABORT);
    assert_int_equal(end_of(r).end.reason, NIB_END_CANCELLED);
    set_rest(NIB_REST_NONE);
}

static void test_sleep(void **state) {
    (void)state;
    nib_stats stats = {.size = sizeof stats};
    const answer before = ask(&longest);
    for (int turn = 0; turn < 3; turn++) {
        nib_request *r = submit_slow();
        set_rest(NIB_REST_SLEEP);
        assert_int_equal(end_of(r).end.reason, NIB_END_CANCELLED);
        nib_get_stats(e, &stats, NULL);
        assert_int_equal(stats.kv_pages, 0);
        nib_request *late = submit_options(e, &longest);
        assert_int_equal(nib_reset_prefix_cache(e, NULL), NIB_OK);
        assert_int_equal(next(late, 40).kind, NIB_EVENT_NONE);
        set_rest(turn == 1 ? NIB_REST_WAIT : NIB_REST_NONE);
        set_rest(NIB_REST_NONE);
        const answer after = end_of(late);
        expect_same(&before, &after);
    }
    nib_get_stats(e, &stats, NULL);
    assert_true(stats.kv_pages > 0);
}

/* Its files are gone, or another model's, when it should wake. */
static void test_it_stays_asleep(void **state) {
    (void)state;
    nib_error err = {""};
    nib_engine *one = open_tiny(&(nib_options){.max_model_len = 400}, NULL);
    assert_int_equal(nib_set_rest(one, NIB_REST_SLEEP, &err), NIB_OK);
    char *path = one->path, nowhere[] = TINY "-gone", other[] = TESTS_DIR "/golden/models/qwen3-tied";
    one->path = nowhere;
    assert_int_not_equal(nib_set_rest(one, NIB_REST_NONE, &err), NIB_OK);
    assert_non_null(strstr(err.text, "llama-words-gone"));
    one->path = other;
    assert_int_equal(nib_set_rest(one, NIB_REST_NONE, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "another model"));
    one->path = path;
    nib_request *r = submit(one, 5); /* closed while it waits */
    nib_stats stats = {.size = sizeof stats};
    nib_get_stats(one, &stats, NULL);
    assert_int_equal(stats.rest, NIB_REST_SLEEP);
    assert_int_equal(stats.waiting, 1);
    nib_cancel(r);
    assert_int_equal(end_of(r).end.reason, NIB_END_CANCELLED);
    nib_close(one);
}

/* FILE of the tiny model in FOLDER, the first FROM in it become TO, as long. */
static void put_file(const char *folder, const char *file, const char *from, const char *to) {
    static char bytes[1 << 20];
    char path[512];
    snprintf(path, sizeof path, "%s/%s", TINY, file);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(bytes, 1, sizeof bytes, f), n_from = strlen(from);
    fclose(f);
    for (size_t i = 0; n_from > 0 && i + n_from <= n; i++)
        if (memcmp(bytes + i, from, n_from) == 0) {
            memcpy(bytes + i, to, n_from);
            break;
        }
    if (strcmp(to, "weights") == 0)
        bytes[n - 1] ^= 1;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* The files were written anew while it slept: with the same bytes it wakes, with other words, settings or
 * weights of the same shape it does not. */
static void test_other_bytes(void **state) {
    static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "model.safetensors"};
    static const char *const changes[][3] = {{"tokenizer.json", "<|im_start|>", "<|im_stART|>"},
                                             {"config.json", "\"rope_theta\": 1", "\"rope_theta\": 2"},
                                             {"model.safetensors", "", "weights"}};
    char folder[] = "/tmp/nibble-rest-XXXXXX", path[512];
    nib_error err = {""};
    nib_engine *one;
    (void)state;
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 4; i++)
        put_file(folder, files[i], "", "");
    assert_int_equal(nib_open(&one, folder, &(nib_options){.size = sizeof(nib_options)}, &err), NIB_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(nib_set_rest(one, NIB_REST_SLEEP, &err), NIB_OK);
        put_file(folder, changes[i][0], changes[i][1], changes[i][2]);
        assert_int_equal(nib_set_rest(one, NIB_REST_NONE, &err), NIB_BAD_FILE);
        assert_non_null(strstr(err.text, "another model"));
        put_file(folder, changes[i][0], "", "");
        assert_int_equal(nib_set_rest(one, NIB_REST_NONE, &err), NIB_OK);
    }
    nib_close(one);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void test_words(void **state) {
    (void)state;
    nib_error err = {""};
    assert_int_equal(nib_set_rest(NULL, NIB_REST_WAIT, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_set_rest(e, (nib_rest)9, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "rest is 9"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keep),
                                       cmocka_unit_test(test_wait_and_abort),
                                       cmocka_unit_test(test_two_callers),
                                       cmocka_unit_test(test_sleep),
                                       cmocka_unit_test(test_it_stays_asleep),
                                       cmocka_unit_test(test_other_bytes),
                                       cmocka_unit_test(test_words)};
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
