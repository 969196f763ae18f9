/* SPDX-License-Identifier: Apache-2.0
 *
 * The API itself: what is told and when, callbacks, structs of other sizes, NULL.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "one_engine.h"

/* ---- what is told ---- */

static nib_status (*sound_step_wait)(backend *be, nib_error *err);

static nib_status slow_step(backend *be, nib_error *err) {
    usleep(20000);
    return sound_step_wait(be, err);
}

/* prompt_ms ends with the first token, generate_ms with the last. */
static void test_times(void **state) {
    (void)state;
    backend *be = e->l->be; /* the engine's thread is idle whenever this one changes BE */
    sound_step_wait = be->step_wait;
    be->step_wait = slow_step;
    nib_request *first = submit(e, 1), *r = submit(e, 6);
    double prompt_ms = 0;
    for (int i = 0; i < 7; i++) {
        nib_event event = next(r, -1);
        assert_int_equal(event.kind, i < 6 ? NIB_EVENT_TOKEN : NIB_EVENT_END);
        prompt_ms = i == 0 ? event.prompt_ms : prompt_ms;
        assert_true(event.prompt_ms == prompt_ms && prompt_ms >= 20);
        assert_true(event.queue_ms >= 0 && event.queue_ms <= prompt_ms - 20);
        assert_true(event.generate_ms >= 20 * (i < 6 ? i : 5));
        if (i == 6)
            assert_true(event.generate_ms > 95);
    }
    be->step_wait = sound_step_wait;
    nib_release(r);
    nib_release(first);
}

typedef struct heard {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    int n_running, n_started, to_start;
    answer answers[64];
} heard;

static heard all;

typedef struct listener {
    int number;
    bool starts_another; /* from inside the callback, at its end */
} listener;

static listener listeners[64];

static void hear(void *context, nib_request *r, const nib_event *event) {
    listener *l = context;
    answer *a = &all.answers[l->number];
    strncat(a->text, event->text, sizeof a->text - strlen(a->text) - 1);
    if (event->kind == NIB_EVENT_TOKEN) {
        a->tokens[a->n_tokens++] = event->token;
        return;
    }
    a->end = *event;
    pthread_mutex_lock(&all.lock);
    int another = l->starts_another ? all.n_started++ : -1;
    pthread_mutex_unlock(&all.lock);
    if (another >= 0) {
        nib_request *next_one;
        listeners[another] = (listener){another, false};
        nib_request_options o = {.size = sizeof o,
                                 PROMPT,
                                 .max_tokens = 20,
                                 .ignore_eos = true,
                                 .on_event = hear,
                                 .event_context = &listeners[another]};
        assert_int_equal(nib_submit(e, &o, &next_one, NULL), NIB_OK);
    }
    nib_release(r);
    pthread_mutex_lock(&all.lock);
    all.n_running -= another < 0;
    pthread_cond_signal(&all.ended);
    pthread_mutex_unlock(&all.lock);
}

/* 40 answers, and 20 more that begin when one of them ends, and no thread for any. */
static void test_callbacks(void **state) {
    (void)state;
    nib_request_options o = {PROMPT, .max_tokens = 20, .ignore_eos = true};
    answer want = ask(&o);
    memset(&all, 0, sizeof all);
    pthread_mutex_init(&all.lock, NULL);
    pthread_cond_init(&all.ended, NULL);
    all.n_started = all.n_running = 40;
    for (int i = 0; i < 40; i++) {
        listeners[i] = (listener){i, i % 2};
        o.on_event = hear;
        o.event_context = &listeners[i];
        nib_request *r = submit_options(e, &o);
        if (i == 0) {
            nib_event event = {.size = sizeof event};
            (void)r; /* may be gone already */
            assert_int_equal(nib_next_event(NULL, &event, 0, NULL), NIB_BAD_ARGUMENT);
        }
    }
    pthread_mutex_lock(&all.lock);
    while (all.n_running > 0)
        pthread_cond_wait(&all.ended, &all.lock);
    pthread_mutex_unlock(&all.lock);
    assert_int_equal(all.n_started, 60);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(all.answers[i].n_tokens, 20);
        assert_memory_equal(all.answers[i].tokens, want.tokens, 20 * sizeof(int32_t));
        assert_string_equal(all.answers[i].text, want.text);
        assert_int_equal(all.answers[i].end.reason, NIB_END_LENGTH);
    }
}

/* ---- the API itself ---- */

typedef struct watched {
    int n, stop_at;
    uint64_t last, total;
} watched;

static bool watch(void *context, const char *what, uint64_t done, uint64_t total) {
    watched *w = context;
    assert_true(what[0] && done >= w->last && done <= total);
    w->last = done;
    w->total = total;
    return ++w->n != w->stop_at;
}

static void test_progress(void **state) {
    (void)state;
    watched w = {.n = 0};
    nib_engine *other;
    nib_error err = {""};
    nib_options o = {.size = sizeof o, .threads = 1, .progress = watch, .progress_context = &w};
    assert_int_equal(nib_open(&other, TINY, &o, &err), NIB_OK);
    nib_close(other);
    int n = w.n;
    assert_true(n > 2 && w.last == w.total);
    for (int stop_at = 1; stop_at < n; stop_at++) {
        w = (watched){.stop_at = stop_at};
        assert_int_equal(nib_open(&other, TINY, &o, &err), NIB_CANCELLED);
        assert_null(other);
        assert_int_equal(w.n, stop_at);
    }
}

/* Structs of programs that are older or newer than the library. */
static void test_sizes(void **state) {
    (void)state;
    nib_engine *other;
    nib_error err = {""};
    struct {
        nib_options known;
        char unknown[16];
    } newer = {.known = {.size = sizeof newer, .threads = 1}};
    assert_int_equal(nib_open(&other, TINY, &newer.known, &err), NIB_OK);
    nib_close(other);
    newer.unknown[7] = 1;
    assert_int_equal(nib_open(&other, TINY, &newer.known, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "nib_options: byte"));
    newer.known.size = 0;
    assert_int_equal(nib_open(&other, TINY, &newer.known, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "set it to sizeof(nib_options)"));
    nib_options old = {.size = offsetof(nib_options, max_waiting), .threads = 1, .max_waiting = -5};
    assert_int_equal(nib_open(&other, TINY, &old, &err), NIB_OK); /* what lies behind is not read */
    nib_close(other);
    nib_info info;
    memset(&info, 0x5A, sizeof info);
    info.size = offsetof(nib_info, compute_mode);
    assert_int_equal(nib_get_info(e, &info, NULL), NIB_OK);
    assert_int_equal(info.size, offsetof(nib_info, compute_mode));
    assert_string_equal(info.family, "llama");
    assert_int_equal(*(unsigned char *)&info.compute_mode, 0x5A); /* not written */
    nib_request *r = submit(e, 1);
    nib_event event = {.size = 0};
    assert_int_equal(nib_next_event(r, &event, -1, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(next(r, -1).kind, NIB_EVENT_TOKEN); /* none was lost */
    nib_release(r);
}

static void test_null_arguments(void **state) {
    (void)state;
    nib_engine *other;
    nib_request *r;
    int32_t *ids;
    size_t n;
    char *text;
    nib_error err;
    nib_request_options o = {.size = sizeof o, PROMPT};
    nib_message message = {"user", NULL};
    assert_int_equal(nib_open(NULL, TINY, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_open(&other, NULL, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_submit(NULL, &o, &r, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_submit(e, NULL, &r, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_submit(e, &o, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_next_event(NULL, &(nib_event){.size = sizeof(nib_event)}, 0, &err),
                     NIB_BAD_ARGUMENT);
    r = submit(e, 1);
    assert_int_equal(nib_next_event(r, NULL, 0, &err), NIB_BAD_ARGUMENT);
    nib_release(r);
    assert_int_equal(nib_get_info(NULL, &(nib_info){.size = sizeof(nib_info)}, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_get_info(e, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_get_stats(NULL, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_get_stats(e, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_reset_prefix_cache(NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_tokenize(NULL, "a", 1, 0, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_tokenize(e, NULL, 1, 0, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_tokenize(e, "a", 1, 0, NULL, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_detokenize(NULL, tiny_prompt, 3, &text, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_detokenize(e, NULL, 3, &text, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_detokenize(e, tiny_prompt, 3, NULL, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_chat_tokens(NULL, &message, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_chat_tokens(e, NULL, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_chat_tokens(e, &message, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    nib_free(NULL);
    nib_cancel(NULL);
    nib_release(NULL);
    nib_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times), cmocka_unit_test(test_callbacks),      cmocka_unit_test(test_progress),
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_null_arguments),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
